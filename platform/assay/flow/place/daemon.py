"""A process that `assay up` leaves behind at a place: started once, found again, stopped."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from assay.errors import PlaceError, UsageError
from assay.settings import Settings
from assay.store.lock import held, is_held

END_WAIT_S = 10.0
_POLL_S = 0.05
_TOLD = (
    "home",
    "ledger_url",
    "ray_address",
    "dashboard_port",
    "ray_port",
    "serve_port",
    "gateway_port",
    "gateway_host",
    "console_port",
    "console_host",
    "num_cpus",
    "engine_python",
    "user",
)


@dataclass(frozen=True)
class Daemon:
    """One kind of process, of which one runs at a place; a lock tells whether it lives."""

    module: str
    """What `python -m` runs."""
    name: str
    """How it is called, and the name of its folder."""
    folder: Path

    def start(
        self,
        settings: Settings,
        *,
        is_ready: Callable[[], bool] | None = None,
        wait_s: float = END_WAIT_S,
    ) -> None:
        """Starts it, and waits until it has its lock, or `is_ready`, for so long at most; nothing
        is done where one runs already. Raises `PlaceError` when it ends at once."""
        if self.is_running():
            return
        has_come = is_ready or self.is_running
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", self.module],
            environment(settings),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log_file), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        end = time.monotonic() + wait_s
        while not has_come() and time.monotonic() < end:
            if _has_ended(pid):
                raise PlaceError(f"the {self.name} did not start; see {self.log_file}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stops it and waits until it is gone; nothing is done where none runs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = self._process()
            if process is None:
                return
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
            end = time.monotonic() + END_WAIT_S
            while self.is_running() and time.monotonic() < end:
                time.sleep(_POLL_S)

    def is_running(self) -> bool:
        """Whether one lives."""
        return is_held(self._lock) is True

    def lives(self) -> AbstractContextManager[None]:
        """Held by the process itself for as long as it lives. Raises `UsageError` where another
        one runs."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return held(self._lock, taken=UsageError(f"another {self.name} runs for this place"))

    def keep_pid(self) -> None:
        """Writes down which process has the lock."""
        self._pid_file.write_text(str(os.getpid()))

    @property
    def log_file(self) -> Path:
        """What it says."""
        return self.folder / f"{self.name}.log"

    def _process(self) -> psutil.Process | None:
        """Its process; None where none runs, or where the one of that number is another's."""
        if not self.is_running():
            return None
        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            is_ours = self.module in process.cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        return process if is_ours else None

    @property
    def _lock(self) -> Path:
        return self.folder / "lock"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"


# Nothing that outlives its command has a person's token. Commands name the local head in
# RAY_ADDRESS for Ray's own libraries; here it would make of it a cluster of somebody else, which
# nobody starts.
_NOT_INHERITED = ("ASSAY_TOKEN", "RAY_ADDRESS")


def environment(settings: Settings) -> dict[str, str]:
    """What a process of this place is started with."""
    inherited = {}
    for name, value in os.environ.items():
        if name not in _NOT_INHERITED:
            inherited[name] = value
    told = {f"ASSAY_{name.upper()}": str(getattr(settings, name)) for name in _TOLD}
    if settings.console_address:
        told["ASSAY_CONSOLE_URL"] = settings.console_address
    return inherited | told


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True
