"""Names of people, in English and Chinese."""

import re
from collections.abc import Iterator

from assay.engines.data.cleaning.masking.chinese_names import chinese_names
from assay.engines.data.cleaning.masking.english_names import english_names


def name_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where names stand; a name that is found in one place is found in all places of the text."""
    names = english_names(text) | chinese_names(text)
    for name in sorted(names, key=lambda one: (-len(one), one)):
        whole = rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])"
        for match in re.finditer(whole, text):
            yield match.span()
