"""Keeps production up: `python -m assay.flow.release.controller`, started by `assay up`.

One runs for one place, and holds a lock for as long as it lives. It looks every few seconds whether
the champion's slot still holds what may have its traffic, starts a local Ray head that crashed, and
brings the champion back (see `restore`) when it is lost. Candidates that nobody needs any more give
their slots back.
"""

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from assay.engines.cluster import local_head
from assay.errors import AssayError, PlaceError, Superseded, Unreachable, UsageError
from assay.flow.release.restore import is_lost, restore
from assay.flow.resources.giving_back import free_needless
from assay.settings import Settings
from assay.store.ledger import Ledger
from assay.store.lock import held, is_held

MODULE = "assay.flow.release.controller"
LOOK_S = 5.0
"""Between two looks; two in a row must find the champion lost, for Serve tells of no application
for a moment while its controller comes back."""
LONGEST_DELAY_S = 600.0
"""Between two tries of what failed: each reads every byte of the model."""
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
    "num_cpus",
    "engine_python",
    "user",
)


def start(settings: Settings) -> None:
    """Starts the place's controller; nothing is done where one runs already."""
    if is_running(settings):
        return
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", MODULE],
        environment(settings),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_file(settings)), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    end = time.monotonic() + END_WAIT_S
    while not is_running(settings) and time.monotonic() < end:
        if _has_ended(pid):
            raise PlaceError(f"the controller did not start; see {log_file(settings)}")
        time.sleep(_POLL_S)


def stop(settings: Settings) -> None:
    """Stops the controller and waits until it is gone; nothing is done where none runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = _process(settings)
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        end = time.monotonic() + END_WAIT_S
        while is_running(settings) and time.monotonic() < end:
            time.sleep(_POLL_S)


def is_running(settings: Settings) -> bool:
    """Whether a controller lives."""
    return is_held(_lock(settings)) is True


def log_file(settings: Settings) -> Path:
    """What the controller says."""
    return _folder(settings) / "controller.log"


def main() -> int:
    """Keeps the place that the environment describes, until SIGTERM or SIGINT."""
    settings = Settings()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    taken = UsageError("another controller runs for this place")
    try:
        with held(_lock(settings), taken=taken):
            _pid_file(settings).write_text(str(os.getpid()))
            _keep(settings)
    except UsageError as error:
        _say(str(error))
    return 0


def _keep(settings: Settings) -> NoReturn:
    ledger = Ledger(settings.ledger_url)
    delay_s, last = LOOK_S, ""
    while True:
        try:
            _look(settings, ledger)
            delay_s, said = LOOK_S, ""
        except (Unreachable, Superseded) as error:
            delay_s, said = LOOK_S, str(error)
        except AssayError as error:
            delay_s, said = min(2 * delay_s, LONGEST_DELAY_S), str(error)
        except Exception:  # a fault of this code must not end what keeps production up
            delay_s, said = min(2 * delay_s, LONGEST_DELAY_S), traceback.format_exc()
        if said and said != last:
            _say(said)
        last = said
        time.sleep(delay_s)


def _look(settings: Settings, ledger: Ledger) -> None:
    """One look, and what it makes necessary."""
    if not settings.ray_address and local_head.has_crashed(settings):
        _say("the local Ray head has ended; starting it again")
        local_head.stop(settings)  # what it has left behind would keep its ports
        local_head.start(settings)
    if not is_lost(settings, ledger):
        free_needless(settings, say=_say)
        return
    time.sleep(LOOK_S)
    if is_lost(settings, ledger):
        with suppress(UsageError):  # `assay up` does it already
            restore(settings, say=_say)


# Nothing that outlives its command has a person's token. Commands name the local head in RAY_ADDRESS
# for Ray's own libraries; here it would make of it a cluster of somebody else, which nobody starts.
_NOT_INHERITED = ("ASSAY_TOKEN", "RAY_ADDRESS")


def environment(settings: Settings) -> dict[str, str]:
    """What a controller of this place is started with."""
    inherited = {}
    for name, value in os.environ.items():
        if name not in _NOT_INHERITED:
            inherited[name] = value
    said = {f"ASSAY_{name.upper()}": str(getattr(settings, name)) for name in _TOLD}
    return inherited | said


def _process(settings: Settings) -> psutil.Process | None:
    """The controller's process; None where none runs."""
    if not is_running(settings):
        return None
    try:
        process = psutil.Process(int(_pid_file(settings).read_text()))
        is_ours = MODULE in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return process if is_ours else None


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def _folder(settings: Settings) -> Path:
    return settings.home / "controller"


def _lock(settings: Settings) -> Path:
    return _folder(settings) / "lock"


def _pid_file(settings: Settings) -> Path:
    return _folder(settings) / "pid"


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _say(text: str) -> None:
    print(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
