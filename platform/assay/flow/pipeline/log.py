"""A run's own log: what was done when, and all of an error, in `run.log` in the run's folder."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "run.log"
FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
POLL_S = 0.3

logger = logging.getLogger("assay")


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Writes what is logged meanwhile, and Python's warnings, to the run's log as well; it grows
    from run to run."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    loggers = (logger, logging.getLogger("py.warnings"))
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    for one in loggers:
        one.addHandler(handler)
    # The screen is for what a person waits for; a library's warnings go to the log alone.
    logging.captureWarnings(True)
    loggers[1].propagate = False
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for one in loggers:
            one.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def lines(file: Path, *, goes_on: Callable[[], bool]) -> Iterator[str]:
    """The lines of a log, and those that are added for as long as it `goes_on`."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        while True:
            # Asked before reading: what was written until the end is still read.
            more_to_come = goes_on()
            yield from iter(opened.readline, "")
            if not more_to_come:
                return
            time.sleep(POLL_S)
