"""`mask`: personal data are replaced, and nothing that is stored leads back to them."""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from assay.engines.data.cleaning.masking.recognizers import spans_of
from assay.engines.data.cleaning.masking.surrogates import surrogate
from assay.engines.data.cleaning.steps.results import Result, RowStep, map_texts
from assay.engines.data.reading.examples import Example
from assay.spec.steps import MaskSpec

PSEUDONYM_DIGITS = 12
"""48 bits: a million names of one kind collide with a chance of 1 in 600."""

Replace = Callable[[str, str], str]
"""What stands in the stead of a text of a kind."""


def masker(spec: MaskSpec, key: bytes) -> RowStep:
    """The step. What has the same kind and the same letters and digits has the same surrogate or
    pseudonym, wherever it stands."""
    replace: Mapping[str, Replace] = {
        "label": lambda kind, _: f"[{kind.upper()}]",
        "pseudonym": partial(_pseudonym, key),
        "surrogate": lambda kind, text: surrogate(kind, text, _digest(key, kind, text)),
    }
    patterns = {kind: re.compile(pattern) for kind, pattern in spec.patterns.items()}
    return partial(_masked, spec.kinds, patterns, replace[spec.by])


def _masked(
    kinds: tuple[str, ...],
    patterns: Mapping[str, re.Pattern[str]],
    replace: Replace,
    example: Example,
) -> Result:
    counts: Counter[str] = Counter()

    def change(text: str) -> str:
        parts, at = [], 0
        for span in spans_of(text, kinds, patterns):
            counts[span.kind] += 1
            parts += [text[at : span.start], replace(span.kind, text[span.start : span.end])]
            at = span.end
        return "".join([*parts, text[at:]])

    return Result(map_texts(example, change), counts)


def _pseudonym(key: bytes, kind: str, text: str) -> str:
    return f"[{kind.upper()}-{_digest(key, kind, text).hex()[:PSEUDONYM_DIGITS]}]"


def _digest(key: bytes, kind: str, text: str) -> bytes:
    """HMAC-SHA-256 of what is said, however it is written: `138-0013-8000` is `13800138000`."""
    plain = "".join(char for char in text.casefold() if char.isalnum())
    return hmac.new(key, f"{kind}:{plain}".encode(), hashlib.sha256).digest()
