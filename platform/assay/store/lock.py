"""A file's lock, for work that one process at a time may do.

Not the library filelock: it cannot tell whether a lock is held without taking it, which `assay
status` asks.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.errors import AssayError, PlaceError

A_LOOK_S = 0.05
"""Longer than `is_held` has a lock."""


@contextmanager
def held(file: Path, *, taken: AssayError) -> Iterator[None]:
    """Holds the lock; the kernel lets go of it when the process ends, however it ends. Raises
    `taken` at once when another process has it, and `PlaceError` where the file cannot be made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise PlaceError(
            f"cannot write to {file.parent}: {error.strerror}. Set ASSAY_HOME to a folder you may "
            "write"
        ) from error
    try:
        if not _take(descriptor):
            time.sleep(A_LOOK_S)
            if not _take(descriptor):
                raise taken
        yield
    finally:
        os.close(descriptor)


def is_held(file: Path) -> bool | None:
    """Whether a process holds the lock; None where the file is not there."""
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return None
    try:
        return not _take(descriptor, fcntl.LOCK_SH)  # two that look at once do not see each other
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock could be had; it is let go of when the descriptor is closed."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
