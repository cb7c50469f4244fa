"""The file of a tokenized split.

It is one safetensors file: `tokens` (int32, all texts end to end), `loss_mask` (uint8, 1 where a
token bears loss) and `offsets` (int64, number of texts + 1); for pairs `texts_per_unit` (int64,
one number), and `labels` (int64, one a unit) where there are any. Nothing is padded, here or in
training.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SplitCounts:
    """What a written split holds."""

    num_examples: int
    num_tokens: int
    num_completion_tokens: int
    num_too_long: int
    """Left out."""
    num_cut: int = 0
    """Shortened, or split."""


class TokenizedRows(NamedTuple):
    """Some rows of a split, as arrays; see the file's own form above."""

    tokens: "np.ndarray[Any, np.dtype[np.int32]]"
    loss_mask: "np.ndarray[Any, np.dtype[np.uint8]]"
    lengths: "np.ndarray[Any, np.dtype[np.int64]]"
    """Tokens of each text."""
    labels: "np.ndarray[Any, np.dtype[np.int64]]"
    """One a unit."""
    texts_per_unit: int
    num_too_long: int
    num_cut: int


class SplitWriter:
    """Writes a split bit by bit: what is added lies on the disk at once, and is put together at the
    end.

    Source of the file's layout: https://huggingface.co/docs/safetensors (eight bytes of length, a
    JSON header, the tensors)."""

    TYPES: ClassVar = {
        "offsets": "I64",
        "labels": "I64",
        "texts_per_unit": "I64",
        "tokens": "I32",
        "loss_mask": "U8",
    }
    """In the order of the file: each begins at a multiple of its own width."""
    WIDTHS: ClassVar = {"I64": 8, "I32": 4, "U8": 1}

    def __init__(self, file: Path) -> None:
        self.file = file
        self.num_examples = self.num_tokens = self.num_completion_tokens = self.num_too_long = (
            self.num_cut
        ) = 0
        self._stride = 1
        self._parts = {name: file.with_name(f"{file.name}.{name}") for name in self.TYPES}
        for name, part in self._parts.items():
            part.write_bytes(bytes(8) if name == "offsets" else b"")

    def add(self, rows: TokenizedRows) -> None:
        """Adds rows to the end."""
        import numpy as np

        if len(rows.labels):
            self._stride = rows.texts_per_unit
        self._append(
            "offsets", (self.num_tokens + np.cumsum(rows.lengths)).astype(np.int64).tobytes()
        )
        for name in ("labels", "tokens", "loss_mask"):
            self._append(name, getattr(rows, name).tobytes())
        self.num_examples += len(rows.labels)
        self.num_tokens += len(rows.tokens)
        self.num_completion_tokens += int(rows.loss_mask.sum(dtype=np.int64))
        self.num_too_long += rows.num_too_long
        self.num_cut += rows.num_cut

    def close(self) -> SplitCounts:
        """Puts the file together."""
        self._append("texts_per_unit", self._stride.to_bytes(8, "little"))
        header, start = {}, 0
        for name, part in self._parts.items():
            size, kind = part.stat().st_size, self.TYPES[name]
            header[name] = {
                "dtype": kind,
                "shape": [size // self.WIDTHS[kind]],
                "data_offsets": [start, start + size],
            }
            start += size
        said = json.dumps(header).encode()
        # The tensors after it begin at a multiple of the widest type.
        said += b" " * (-len(said) % 8)
        with self.file.open("wb") as whole:
            whole.write(len(said).to_bytes(8, "little") + said)
            for part in self._parts.values():
                with part.open("rb") as read:
                    shutil.copyfileobj(read, whole)
                part.unlink()
        return SplitCounts(
            self.num_examples,
            self.num_tokens,
            self.num_completion_tokens,
            self.num_too_long,
            self.num_cut,
        )

    def _append(self, name: str, data: bytes) -> None:
        with self._parts[name].open("ab") as part:
            part.write(data)
