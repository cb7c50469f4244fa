"""What rows are like: counted before and after the steps."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from assay.engines.data.cleaning.rows import Row, whole_text
from assay.engines.data.cleaning.steps.select import language_of
from assay.text import words

UNKNOWN = "?"


class Profile:
    """Rows by their entry, their language, and their length in words (a Chinese character is
    one), each length under the power of two that it does not exceed."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            "sources": Counter(),
            "languages": Counter(),
            "lengths": Counter(),
        }

    def add(self, row: Row) -> None:
        """Counts a row."""
        text = whole_text(row.example)
        self.counts["sources"][str(row.source)] += 1
        self.counts["languages"][language_of(text)[0] or UNKNOWN] += 1
        self.counts["lengths"][str(1 << (max(1, len(words(text))) - 1).bit_length())] += 1

    def merge(self, other: Mapping[str, Mapping[str, int]]) -> None:
        """Adds what `as_data` of another gave."""
        for name, counts in other.items():
            self.counts[name].update(counts)

    def as_data(self) -> dict[str, Any]:
        """As JSON data, the same for the same rows in any order."""
        return {name: dict(sorted(counts.items())) for name, counts in self.counts.items()}
