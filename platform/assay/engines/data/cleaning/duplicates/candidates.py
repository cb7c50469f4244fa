"""Which rows may be equal or nearly equal, from the sketches of all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.engines.data.cleaning.duplicates.sketches import BANDS, NUM_MINIMA, WORD_SLOTS

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

MOST_BEFORE = 16
"""With so many rows before it in the same band a row is compared, and with the band's first. A
template's texts fill bands with thousands of rows."""
LEAST_ALIKE = 0.3
"""Of the minima: pairs that have fewer in common are far below any useful similarity."""
COMPARED_AT_ONCE = 20_000
ROWS_AT_ONCE = 50_000
"""Whose pairs are held in memory."""
PAIRS = "pairs.bin"


class Sketches:
    """The sketches of all shards, in order; the held-out rows first."""

    def __init__(self, files: Sequence[Path]) -> None:
        import numpy as np

        # On the disk: those of millions of rows would not fit beside the texts.
        self.tables = [np.load(file, mmap_mode="r") for file in files]
        self.starts = np.cumsum([0, *(len(table) for table in self.tables)])
        self.num_rows = int(self.starts[-1])

    def column(self, name: str, number: int | None = None) -> "Array":
        """One field of every row."""
        import numpy as np

        if number is None:
            return np.concatenate([table[name] for table in self.tables])
        return np.concatenate([np.asarray(table[name][:, number]) for table in self.tables])

    def minima(self, rows: "Array") -> "Array":
        """The lowest bytes of these rows' minima, as (rows, NUM_MINIMA)."""
        import numpy as np

        found = np.zeros((len(rows), NUM_MINIMA), dtype=np.uint8)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards):
            of_shard = np.flatnonzero(shards == shard)
            found[of_shard] = self.tables[shard]["minima"][rows[of_shard] - self.starts[shard]]
        return found

    def place(self, row: int) -> tuple[int, int]:
        """The shard that a row stands in, and where there."""
        import numpy as np

        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])


def equal_pairs(sketches: Sketches) -> "Array":
    """For every row that says what an earlier one says: the first of these, and itself."""
    import numpy as np

    low, high = sketches.column("equal", 0), sketches.column("equal", 1)
    order = np.lexsort((np.arange(len(low)), high, low))
    is_same = (low[order][1:] == low[order][:-1]) & (high[order][1:] == high[order][:-1])
    first = np.maximum.accumulate(np.where(np.r_[True, ~is_same], np.arange(len(order)), 0))
    pairs = np.stack([order[first], order], axis=1)
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]])


def near_pairs(sketches: Sketches, gone: "Array", is_held: "Array", folder: Path) -> int:
    """Writes `PAIRS` into the folder: pairs of rows that share a band, the earlier first, sorted by
    the later and then the earlier. What is `gone` is in none, and what is held out is never the
    later. Returns how many pairs were not looked at because a band had too many rows."""
    import numpy as np

    left = np.flatnonzero(~gone).astype(np.uint32)
    bands = [_sorted_band(sketches, band, left, folder) for band in range(BANDS)]
    num_skipped = 0
    # Whole or not there: an attempt that was broken off is taken up from its files.
    draft = folder / f".{PAIRS}"
    with draft.open("wb") as file:
        for start in range(0, sketches.num_rows, ROWS_AT_ONCE):
            found: list[Array] = [np.zeros((0, 2), dtype=np.uint32)]
            for band in bands:
                pairs, skipped = _pairs_of_band(band, start, is_held)
                num_skipped += skipped
                found.append(_alike(sketches, pairs))
            # Turned round, since `unique` sorts by the first column; a pair may share many bands.
            every = np.unique(np.concatenate(found)[:, ::-1], axis=0)[:, ::-1]
            file.write(np.ascontiguousarray(every).tobytes())
    draft.replace(folder / PAIRS)
    return num_skipped


def read_pairs(folder: Path) -> "Array":
    """What `near_pairs` wrote, as (pairs, 2), on the disk."""
    import numpy as np

    if not (folder / PAIRS).stat().st_size:
        return np.zeros((0, 2), dtype=np.uint32)
    return np.memmap(folder / PAIRS, dtype=np.uint32, mode="r").reshape(-1, 2)


def _sorted_band(sketches: Sketches, band: int, left: "Array", folder: Path) -> Path:
    """Rows in the order of a band's values, and for each the place of the first with its value."""
    import numpy as np

    values = sketches.column("bands", band)[left]
    # Stable: rows with one value stay in their own order, the earlier before the later.
    order = np.argsort(values, kind="stable")
    values = values[order]
    places = np.arange(len(values), dtype=np.uint32)
    is_first = np.diff(values, prepend=~values[:1]) != 0
    first = np.maximum.accumulate(np.where(is_first, places, 0)).astype(np.uint32)
    file = folder / f"band-{band:02d}.npy"
    np.save(file, np.stack([left[order], first]))
    return file


def _pairs_of_band(file: Path, start: int, is_held: "Array") -> "tuple[Array, int]":
    """Pairs whose later row is one of the `ROWS_AT_ONCE` from `start` on."""
    import numpy as np

    rows, first = np.load(file, mmap_mode="r")
    is_in_block = (rows >= start) & (rows < start + ROWS_AT_ONCE)
    later = np.flatnonzero(is_in_block)
    later = later[~is_held[rows[later]]]
    before = later - first[later]
    pairs = []
    for distance in range(1, MOST_BEFORE + 1):
        some = later[before >= distance]
        pairs.append(np.stack([rows[some - distance], rows[some]], axis=1))
    is_far = before > MOST_BEFORE
    far = later[is_far]
    pairs.append(np.stack([rows[first[far]], rows[far]], axis=1))
    return np.concatenate(pairs), int((before[is_far] - MOST_BEFORE - 1).sum())


def _alike(sketches: Sketches, pairs: "Array") -> "Array":
    """Those whose minima say that they may be alike."""
    import numpy as np

    stays = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), COMPARED_AT_ONCE):
        some = pairs[start : start + COMPARED_AT_ONCE]
        same = sketches.minima(some[:, 0]) == sketches.minima(some[:, 1])
        stays[start : start + len(some)] = same.mean(axis=1) >= LEAST_ALIKE
    return np.asarray(pairs[stays])


def word_counts(files: Sequence[Path]) -> "Array":
    """In how many rows each word stands, by its slot."""
    import numpy as np

    counts = np.zeros(WORD_SLOTS, dtype=np.uint32)
    for file in files:
        slots = np.load(file)
        counts[slots[:, 0]] += slots[:, 1]
    return counts
