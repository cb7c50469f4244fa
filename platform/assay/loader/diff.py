"""What two specs say differently, after defaults: by meaning, not by text."""

from collections.abc import Iterator
from dataclasses import dataclass

from assay.loader.yaml.reader import Value
from assay.spec.block import Block


@dataclass(frozen=True)
class Change:
    """One path whose value differs. A block that only one side has is one change; lists are
    compared whole."""

    path: str
    """Keys from the top, joined by dots."""
    old: Value
    """JSON data; None where nothing is said."""
    new: Value


def differences(old: Block, new: Block) -> list[Change]:
    """Every path in which two blocks of the same kind differ, in the order of the keys."""
    return list(changes("", old.model_dump(mode="json"), new.model_dump(mode="json")))


def changes(path: str, old: Value, new: Value) -> Iterator[Change]:
    """Every path below `path` in which two pieces of JSON data differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from changes(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif old != new:
        yield Change(path, old, new)
