"""Templates of task files, rendered where they can do no harm; see `template_process`."""

import atexit
import json
import pickle
import select
import subprocess
import sys
import threading
import time
from typing import Any

from assay.engines.evaluation.template_process import HEADER, write_message
from assay.errors import UsageError

# How long one template may take for one document. The tasks of lm-eval take less than a
# millisecond.
RENDER_S = 5.0


class Renderer:
    """Renders in a process of its own, which is started when it is first needed and again after one
    was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, template: str, values: dict[str, Any]) -> str:
        """The template's text. Raises `UsageError` for one that fails, takes too long, or writes
        too much."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                write_message(process.stdin, pickle.dumps((template, values)))
                answer = json.loads(self._read(process))
            except TimeoutError as error:
                self.close()
                raise _refused(template, f"it does not end within {RENDER_S:.0f} s") from error
            except (OSError, EOFError) as error:
                self.close()
                raise _refused(template, "it ended the process that renders it") from error
        if "error" in answer:
            raise _refused(template, answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.close()
            call = [sys.executable, "-m", "assay.engines.evaluation.template_process"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                call, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0
            )
        return self._process

    def _read(self, process: "subprocess.Popen[bytes]") -> bytes:
        """One answer. Raises `TimeoutError` where it does not come, and `EOFError` where the
        process has ended."""
        end = time.monotonic() + RENDER_S
        (length,) = HEADER.unpack(_read_exactly(process, HEADER.size, end))
        return _read_exactly(process, length, end)


def _read_exactly(process: "subprocess.Popen[bytes]", size: int, end: float) -> bytes:
    assert process.stdout is not None
    data = b""
    while len(data) < size:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = process.stdout.read(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


_renderer = Renderer()
atexit.register(_renderer.close)


def use_in_lm_eval() -> None:
    """Makes lm-eval render by it: its own environment is no sandbox, and a template could run any
    Python."""
    from lm_eval import utils

    utils.apply_template = _renderer.render
    utils.env = None  # whatever else would render with it must fail


def _refused(template: str, why: str) -> UsageError:
    shown = template if len(template) <= 80 else f"{template[:77]}..."
    return UsageError(f"a template of the task cannot be rendered: {why}: {shown!r}")
