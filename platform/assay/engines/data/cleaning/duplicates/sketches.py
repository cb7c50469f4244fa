"""What is kept of each row while all rows are compared: fewer than 500 bytes, on the disk.

Candidates for near-equal texts share a band of their MinHash (Broder, 1997; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", section 3.4) over the words and the pairs of words of a text.
They are candidates alone: nothing goes before two texts were compared themselves.
"""

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.engines.data.cleaning.duplicates.facts import facts_of
from assay.engines.data.cleaning.rows import record_of, row_of_line, whole_text
from assay.engines.data.reading.examples import Example
from assay.records.record import canonical_json
from assay.text import words

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

BANDS, BAND_ROWS = 32, 4
"""99 of 100 pairs whose sets have a Jaccard similarity of 0.6 share a band, 87 of 0.5."""
NUM_MINIMA = BANDS * BAND_ROWS
SEED = 1
MIXER = 0x9E3779B97F4A7C15
"""An odd number without a pattern: 2^64 over the golden ratio."""
WORD_SLOTS = 1 << 22
"""Places of the table that counts in how many rows a word stands: 16 MB."""
MASK_64 = (1 << 64) - 1


def sketch_dtype() -> Any:
    """One row's sketch: two halves of the digest of all that it says, its bands, the lowest byte of
    each minimum, and where its line begins."""
    import numpy as np

    return np.dtype(
        [
            ("equal", "<u8", 2),
            ("bands", "<u8", BANDS),
            ("minima", "u1", NUM_MINIMA),
            ("offset", "<u8"),
        ]
    )


def sketch_shard(rows: Path, same_facts: bool, target: Path) -> str:
    """Sketches every row of a file of rows, and counts its words. With `same_facts`, texts with
    other numbers never share a band. Returns the name of the file."""
    import numpy as np

    counts: Counter[int] = Counter()
    hashed, marks, equal, offsets = [], [], [], []
    offset = 0
    with rows.open("rb") as lines:
        for line in lines:
            example = row_of_line(line).example
            text = whole_text(example)
            numbers = [zlib.crc32(word.encode("utf-8", "replace")) for word in words(text)]
            counts.update({number % WORD_SLOTS for number in numbers})
            hashed.append(_shingles(numbers, text))
            marks.append(_mark(example, text, same_facts))
            equal.append(equal_digest(example))
            offsets.append(offset)
            offset += len(line)
    found = np.zeros(len(offsets), dtype=sketch_dtype())
    if offsets:
        found["equal"], found["offset"] = equal, offsets
        minima = _minima(hashed)
        found["minima"] = (minima & 0xFF).astype(np.uint8)
        found["bands"] = _bands(minima, np.array(marks, dtype=np.uint64))
    slots = np.array(sorted(counts.items()), dtype=np.uint32).reshape(-1, 2)
    _save(slots, target.with_suffix(".words.npy"))
    _save(found, target)
    return target.name


def word_slot(word: str) -> int:
    """The place of a word in the table of counts."""
    return zlib.crc32(word.encode("utf-8", "replace")) % WORD_SLOTS


def equal_digest(example: Example) -> tuple[int, int]:
    """128 bits of all that the example says, its label too."""
    text = canonical_json(record_of(example)).encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _mark(example: Example, text: str, same_facts: bool) -> int:
    """What two rows must have in common beside their words: the label, and the facts."""
    said = f"{example.label!r}\n{facts_of(text) if same_facts else ''}"
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little")


def _shingles(numbers: Sequence[int], text: str) -> "Array":
    """A hash of each word and of each two words in a row; of a text without words, of itself."""
    import numpy as np

    if not numbers:
        numbers = [zlib.crc32(text.encode("utf-8", "replace"))]
    single = np.array(numbers, dtype=np.uint64) * np.uint64(MIXER)
    pairs = single[:-1] * np.uint64(3) + (single[1:] ^ (single[1:] >> np.uint64(29)))
    both = np.concatenate([single, pairs])
    return np.unique(both ^ (both >> np.uint64(31)))


def _minima(hashed: Sequence["Array"]) -> "Array":
    import numpy as np
    from rensa import RMinHash

    starts = np.cumsum([0, *(len(one) for one in hashed)]).astype(np.uint64)
    flat = np.concatenate(hashed)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, starts, NUM_MINIMA, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint64)


def _bands(minima: "Array", marks: "Array") -> "Array":
    """One number for each band and what must be the same besides."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(SEED))
    factors = generator.integers(0, 2**64, size=BAND_ROWS, dtype=np.uint64) | np.uint64(1)
    bands = (minima.reshape(-1, BANDS, BAND_ROWS) * factors).sum(axis=2, dtype=np.uint64)
    # Rows with other marks then have other bands, and are never compared.
    return np.asarray(bands ^ marks[:, None])


def _save(values: "Array", file: Path) -> None:
    """The file is whole, or not there."""
    import numpy as np

    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as opened:
        np.save(opened, values)
        opened.flush()
        # Before it has its name: after a power cut the name could stand for no bytes.
        os.fsync(opened.fileno())
    draft.replace(file)
