"""The names of a model's weights, without loading it: from the headers of its safetensors files."""

import json
import struct
from pathlib import Path

# Bytes; safetensors allows no more.
MAX_HEADER = 100 * 2**20


def of_folder(folder: Path) -> frozenset[str]:
    """Every weight's name; empty where they cannot be read."""
    names: set[str] = set()
    try:
        for file in sorted(folder.glob("*.safetensors")):
            names.update(_header(file))
    except (OSError, ValueError, struct.error):
        return frozenset()
    return frozenset(names - {"__metadata__"})


def _header(file: Path) -> list[str]:
    """The keys of a file's header: 8 bytes of its length, then JSON
    (https://github.com/huggingface/safetensors)."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        if size > MAX_HEADER:
            raise ValueError("no safetensors file")
        header = json.loads(opened.read(size))
    return list(header)
