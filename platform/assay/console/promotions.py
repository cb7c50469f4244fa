"""Promotions that were begun in the console: the command itself, as a process of its own.

It outlives the console, and it has no token: what it is to do is signed with the visitor's, as for
a cluster (`assay promote --address`).
"""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from assay.errors import UsageError
from assay.flow.place.daemon import environment
from assay.settings import Settings
from assay.store.tokens import sign_act

LONGEST_OUTPUT_BYTES = 4000


@dataclass(frozen=True)
class Promotion:
    """One that was begun here."""

    by: str
    code: int | None
    """The command's exit code; None while it runs."""
    output: str
    """The end of what it has said."""


class Promotions:
    """The newest promotion of each run that this console has begun."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._begun: dict[str, tuple[str, subprocess.Popen[bytes], Path]] = {}

    def begin(self, run: str, settings: Settings) -> None:
        """Begins one in the name of whom `settings` says. Raises `UsageError` while one that was
        begun here goes on."""
        arguments = ["promote", run]
        with self._turn:
            newest = self._begun.get(run)
            if newest is not None and newest[1].poll() is None:
                raise UsageError(f"run {run} is being promoted already")
            file = settings.run_folder(run) / "promotion.log"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "assay.cli.main", *arguments],
                    env=_environment(settings, arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._begun[run] = settings.user, process, file

    def newest(self, run: str) -> Promotion | None:
        """The newest one of a run."""
        found = self._begun.get(run)
        if found is None:
            return None
        by, process, file = found
        text = file.read_bytes()[-LONGEST_OUTPUT_BYTES:].decode(errors="replace")
        return Promotion(by, process.poll(), text)

    def mark(self) -> str:
        """Another text whenever one ends."""
        return ",".join(f"{run} {process.poll()}" for run, (_, process, _) in self._begun.items())


def _environment(settings: Settings, arguments: list[str]) -> dict[str, str]:
    """The place, with what was signed, or the name that is believed, and nobody's token."""
    told = {name: value for name, value in os.environ.items() if name != "ASSAY_ACT"}
    told |= environment(settings)
    told |= {"ASSAY_TOKEN_FILE": str(settings.token_file), "NO_COLOR": "1"}
    told.pop("ASSAY_TOKEN", None)
    told.pop("ASSAY_ACT", None)
    if settings.token:
        told["ASSAY_ACT"] = sign_act(settings.token, arguments, "").model_dump_json()
    return told
