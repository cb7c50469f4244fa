"""Examples that were made of others, and these: no split may part them."""

from collections.abc import Mapping
from typing import NamedTuple

from assay.engines.data.learned_rows import digest_of_example
from assay.engines.data.reading.examples import Example

KEY_BYTES = 8


class Families(NamedTuple):
    """What `augment` made, by `family_key`."""

    of: Mapping[bytes, str] = {}
    """The family of each product, and of what it was made of; of no others."""
    products: frozenset[bytes] = frozenset()
    """What was made, and is nowhere as it was read."""


def family_key(example: Example) -> bytes:
    """Eight bytes of the example's digest, without the system's prompt, which may come to it after
    it was made."""
    messages = tuple(turn for turn in example.messages if turn.role != "system")
    rejected = tuple(turn for turn in example.rejected if turn.role != "system")
    alone = example._replace(messages=messages, rejected=rejected)
    return bytes.fromhex(digest_of_example(alone))[:KEY_BYTES]
