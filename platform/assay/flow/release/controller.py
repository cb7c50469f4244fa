"""Keeps production up: `python -m assay.flow.release.controller`, started by `assay up`.

One runs for one place, and holds a lock for as long as it lives. It looks every few seconds whether
the champion's slot still holds what may have its traffic, starts a local Ray head that crashed, and
brings the champion back (see `restore`) when it is lost. Candidates that nobody needs any more give
their slots back.
"""

import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from assay.engines.cluster import local_head
from assay.errors import AssayError, Superseded, Unreachable, UsageError
from assay.flow.place.daemon import Daemon
from assay.flow.release.restore import is_lost, restore
from assay.flow.resources.giving_back import free_needless
from assay.settings import Settings
from assay.store.ledger import Ledger

MODULE = "assay.flow.release.controller"
LOOK_S = 5.0
"""Between two looks; two in a row must find the champion lost, for Serve tells of no application
for a moment while its controller comes back."""
LONGEST_DELAY_S = 600.0
"""Between two tries of what failed: each reads every byte of the model."""


def start(settings: Settings) -> None:
    """Starts the place's controller; nothing is done where one runs already."""
    _daemon(settings).start(settings)


def stop(settings: Settings) -> None:
    """Stops the controller and waits until it is gone; nothing is done where none runs."""
    _daemon(settings).stop()


def is_running(settings: Settings) -> bool:
    """Whether a controller lives."""
    return _daemon(settings).is_running()


def log_file(settings: Settings) -> Path:
    """What the controller says."""
    return _daemon(settings).log_file


def main() -> int:
    """Keeps the place that the environment describes, until SIGTERM or SIGINT."""
    settings = Settings()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    daemon = _daemon(settings)
    try:
        with daemon.lives():
            daemon.keep_pid()
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


def _daemon(settings: Settings) -> Daemon:
    return Daemon(MODULE, "controller", settings.home / "controller")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _say(text: str) -> None:
    print(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
