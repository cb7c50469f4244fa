"""Equal and near-equal texts of a data set, so that no split parts them.

Near-equal texts are found by MinHash over words in a row and by banding (Broder, "On the
resemblance and containment of documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", section 3.4). Sketches are made block by block, wherever; what is held for each text
while they are compared is a few bytes, the rest lies on the disk.
"""

import hashlib
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from assay.text import words

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SHINGLE_WORDS = 3
"""Words in a row that are compared."""
BANDS, BAND_ROWS = 16, 8
"""Two texts are compared where all of a band's minima are equal: 95 of 100 pairs of similarity 0.8
are, 6 of 0.5."""
NUM_MINIMA = BANDS * BAND_ROWS
SIMILARITIES = (0.85, 0.95, 1.0)
"""Jaccard, estimated, from which on two texts are near-equal; the next where a group came out too
large."""
SAME_QUESTION = 0.95
"""What equal questions with different answers count as: where most examples ask the same, they tell
nothing."""
LARGE_SHARE, FEW_MEMBERS = 0.02, 10
"""Of the data, and members: a larger group shares a form (an instruction before every text, a
template's sentences), not what it says."""
MIXER = 0x9E3779B97F4A7C15
"""An odd number without a pattern: 2^64 over the golden ratio."""
COMPARED_AT_ONCE = 100_000

DIGEST_BYTES = 8
QUESTION, WHOLE, FIRST_BAND = 0, 1, 2
"""Hashes of a sketch, in their order."""
SKETCH_BYTES = 8 * (FIRST_BAND + BANDS) + NUM_MINIMA


class TextToGroup(NamedTuple):
    """A text as it is grouped."""

    question: str
    """What is asked; those who ask the same are of one group, whatever is answered."""
    whole: str
    """With the answer."""


def sketches(texts: Sequence[TextToGroup]) -> bytes:
    """`SKETCH_BYTES` for each text: hashes of its question, of the whole and of each band, and the
    lowest byte of each minimum."""
    import numpy as np

    factors, summands, band_factors = _permutations()
    found = []
    for text in texts:
        shingles = _shingles(text.whole)
        # Multiply, add and take the upper half: unsigned integers wrap around, which costs no
        # division.
        minima = ((shingles[:, None] * factors + summands) >> np.uint64(32)).min(axis=0)
        bands = (minima.reshape(BANDS, BAND_ROWS) * band_factors).sum(axis=1, dtype=np.uint64)
        hashes = np.array([_normal_hash(text.question), _normal_hash(text.whole)], dtype=np.uint64)
        # A byte is enough to tell minima apart: two that differ are taken for equal once in 256.
        lowest = (minima & np.uint64(0xFF)).astype(np.uint8)
        found.append(hashes.tobytes() + bands.tobytes() + lowest.tobytes())
    return b"".join(found)


class Groups:
    """The groups of a data set's texts. Each text is known by the first eight bytes of its digest;
    a group, by the smallest of its members', so that neither order nor partitioning matters."""

    def __init__(self) -> None:
        self._digests = tempfile.TemporaryFile()  # noqa: SIM115  closed on exit
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115
        self._links: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._digests.close()
        self._rows.close()

    def add(self, digests: Iterable[bytes], sketched: bytes) -> None:
        """Adds texts with their `sketches`."""
        self._digests.write(b"".join(digest[:DIGEST_BYTES] for digest in digests))
        self._rows.write(sketched)

    def link(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Says that two texts, by the first eight bytes of their digests, belong together whatever
        they say."""
        self._links += [(_as_number(one), _as_number(other)) for one, other in pairs]

    def keys(self) -> dict[bytes, bytes]:
        """The group of each text that is in one with others."""
        import numpy as np

        self._rows.flush()
        self._digests.flush()
        num_texts = self._digests.tell() // DIGEST_BYTES
        if num_texts < 2:
            return {}
        # Big-endian, so that numbers and bytes have one order.
        digests = np.memmap(self._digests, dtype=">u8", mode="r").astype(np.uint64)
        rows = np.memmap(self._rows, dtype=np.uint8, mode="r").reshape(num_texts, SKETCH_BYTES)
        groups = _groups(digests, rows, _places(digests, self._links))
        smallest = np.full(int(groups.max()) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(smallest, groups, digests)
        has_others = np.zeros(len(smallest), dtype=bool)
        has_others[groups[smallest[groups] != digests]] = True
        members = np.flatnonzero(has_others[groups])
        return {_as_bytes(digests[one]): _as_bytes(smallest[groups[one]]) for one in members}


def _as_bytes(digest: Any) -> bytes:
    return int(digest).to_bytes(DIGEST_BYTES, "big")


def _as_number(digest: bytes) -> int:
    return int.from_bytes(digest[:DIGEST_BYTES], "big")


def _places(digests: "Array", links: Sequence[tuple[int, int]]) -> "Array":
    """Places of the texts that are linked, in pairs."""
    import numpy as np

    if not links:
        return np.zeros((0, 2), dtype=np.int64)
    order = np.argsort(digests, kind="stable")
    found = np.searchsorted(digests[order], np.array(links, dtype=np.uint64))
    return np.asarray(order[found])


def _groups(digests: "Array", rows: "Array", links: "Array") -> "Array":
    """The group's number for each text; those that are linked are of one group."""
    import numpy as np

    num_texts = len(rows)
    same = [_equal(digests, digests), _equal(_column(rows, WHOLE), digests), links]
    equal = np.concatenate(same)
    certain = _components(num_texts, equal)
    most = max(FEW_MEMBERS, int(LARGE_SHARE * (certain.max() + 1)))
    asked = _equal(_column(rows, QUESTION), digests)
    found = [_near(rows, band, digests) for band in range(FIRST_BAND, FIRST_BAND + BANDS)]
    found.append((asked, np.full(len(asked), round(SAME_QUESTION * NUM_MINIMA), dtype=np.uint8)))
    pairs, alike = map(np.concatenate, zip(*found, strict=True))
    groups = _components(num_texts, np.concatenate([equal, pairs]))
    # Only large groups are taken apart; what is equal stays together however large it is.
    for _, stricter in pairwise(SIMILARITIES):
        is_large = _num_distinct(groups, certain) > most
        stays = ~is_large[groups[pairs[:, 0]]] | (alike >= round(stricter * NUM_MINIMA))
        pairs, alike = pairs[stays], alike[stays]
        groups = _components(num_texts, np.concatenate([equal, pairs]))
    return groups


def _num_distinct(groups: "Array", certain: "Array") -> "Array":
    """How many different texts each group has; equal ones count once."""
    import numpy as np

    members = np.unique(np.stack([groups, certain], axis=1), axis=0)
    return np.asarray(np.bincount(members[:, 0], minlength=int(groups.max()) + 1))


def _equal(values: "Array", digests: "Array") -> "Array":
    """Pairs of the text with the smallest digest among those of one value, and each of the
    others."""
    import numpy as np

    order = np.lexsort((digests, values))
    begins = np.flatnonzero(np.diff(values[order], prepend=~values[order[:1]]))
    first = np.repeat(order[begins], np.diff(begins, append=len(order)))
    return np.asarray(np.stack([first, order], axis=1)[first != order])


def _near(rows: "Array", band: int, digests: "Array") -> "tuple[Array, Array]":
    """Pairs that are equal in a band and alike enough in the whole, and how many of their minima
    are equal."""
    import numpy as np

    pairs = _equal(_column(rows, band), digests)
    alike = np.zeros(len(pairs), dtype=np.uint8)
    minima = rows[:, -NUM_MINIMA:]
    for start in range(0, len(pairs), COMPARED_AT_ONCE):
        some = pairs[start : start + COMPARED_AT_ONCE]
        alike[start : start + len(some)] = (minima[some[:, 0]] == minima[some[:, 1]]).sum(axis=1)
    stays = alike >= round(SIMILARITIES[0] * NUM_MINIMA)
    return pairs[stays], alike[stays]


def _components(num_texts: int, pairs: "Array") -> "Array":
    """The number of the connected part that each text is in."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array(
        (np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])),
        shape=(num_texts, num_texts),
    )
    _, labels = connected_components(edges, directed=False)
    return np.asarray(labels)


def _column(rows: "Array", number: int) -> "Array":
    """One of the hashes of every text."""
    import numpy as np

    return np.ascontiguousarray(rows[:, 8 * number : 8 * number + 8]).view(np.uint64)[:, 0]


def _shingles(text: str) -> "Array":
    """A hash of each few words in a row."""
    import numpy as np

    hashed = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words(text)]
    if len(hashed) < SHINGLE_WORDS:
        short = repr(hashed) if hashed else text.strip()
        return np.array([_hash64(short.encode("utf-8", "surrogatepass"))], dtype=np.uint64)
    numbers = np.array(hashed, dtype=np.uint64)
    num_shingles = len(hashed) - SHINGLE_WORDS + 1
    found = np.zeros(num_shingles, dtype=np.uint64)
    for place in range(SHINGLE_WORDS):
        found = found * np.uint64(MIXER) + numbers[place : place + num_shingles]
    # An odd factor alone would leave the lower bits to the last word.
    return np.unique(found ^ (found >> np.uint64(29)))


def _normal_hash(text: str) -> int:
    """Of the words alone; of a text without any, of its letters."""
    return _hash64((" ".join(words(text)) or text.strip()).encode("utf-8", "surrogatepass"))


def _hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@cache
def _permutations() -> "tuple[Array, Array, Array]":
    """Factors and summands that take the place of random orders of the shingles, and factors that
    make one number of a band's minima."""
    import numpy as np

    # Named, and not numpy's default generator, which may be another one some day.
    generator = np.random.Generator(np.random.PCG64(1))
    factors, summands = generator.integers(0, 2**64, size=(2, NUM_MINIMA), dtype=np.uint64)
    bands = generator.integers(0, 2**64, size=BAND_ROWS, dtype=np.uint64)
    return factors | np.uint64(1), summands, bands | np.uint64(1)
