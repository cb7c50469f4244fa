"""The lock that a process has on a run while it works on it."""

from contextlib import AbstractContextManager
from pathlib import Path

from assay.errors import UsageError
from assay.store.lock import held, is_held

LOCK = "lock"


def is_worked_on(folder: Path) -> bool:
    """Whether a process has the run's lock, as far as this machine can tell."""
    return is_held(folder / LOCK) is not False


def only_one(folder: Path, name: str) -> AbstractContextManager[None]:
    """Holds the run's lock; raises `UsageError` when it is being run already."""
    return held(
        folder / LOCK,
        taken=UsageError(
            f"run {name} is being run already; `assay status {name}` shows how far it is"
        ),
    )
