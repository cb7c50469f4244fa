"""Whether two texts that are alike also say the same: what a template's texts do not, of which
each has another number or name."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from assay.text import UNSPACED

_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_FACT = re.compile(
    r"(?:(?<!\w)[-\u2212])?[$€£¥]?\d+(?:[.,:/-]\d+)*[%‰°$€£¥]?"  # numbers, amounts, dates, times
    r"|[<>=+*^&|~#@\\_]+"  # what tells C from C++, and a < b from a > b
)
_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_ENDS = frozenset(".!?。！？:：\n")
NEGATIONS = {"not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "without"} | {
    *("cannot", "t"),
    *"不没無无非未别別勿莫否",
}
"""The `t` of "don't", which is two words here."""
FILLERS = {
    *("a", "an", "the", "please", "kindly", "just", "really", "very", "so", "well"),
    *("hi", "hello", "hey", "thanks", "thank", "you", "dear", "oh", "um", "uh", "ok", "okay"),
    *"请請您你好吗嗎呢吧啊呀哦嗯的地得了谢謝麻烦煩问問下",
}
"""Words that may come, go, or stand for each other."""
LONG_TEXT = 20
"""For so many words that two texts have, one of content may be more or fewer."""
SLIP_LETTERS = 5
"""A shorter word is too often another word by one letter."""
SLIP_RATIO = 10
"""So much more often the right word is there than the slip of the pen: `house` and `horse` are both
frequent."""

Frequency = Callable[[str], int]
"""In how many rows a word stands, about."""


class Token(NamedTuple):
    """A word, or a letter of a script without spaces."""

    folded: str
    is_name: bool
    """Whether it has a capital where no sentence begins."""


class Compared(NamedTuple):
    """What two texts come to."""

    similarity: float
    """Words in common, in order, as a share of all: 2 LCS(a, b) / (|a| + |b|), from 0 to 1."""
    difference: str
    """What is not the same, in words."""
    same_facts: bool


def tokens_of(text: str) -> list[Token]:
    """The words of a text, in order."""
    normal = unicodedata.normalize("NFKC", text)
    found = []
    for match in _TOKEN.finditer(normal):
        word = match[0]
        is_name = word[:1].isupper() and not _begins_sentence(normal, match.start())
        found.append(Token(word.casefold(), is_name))
    return found


def _begins_sentence(text: str, place: int) -> bool:
    while place and text[place - 1] in " \t\"'“\u2018(«":
        place -= 1
    return place == 0 or text[place - 1] in _ENDS


def facts_of(text: str) -> str:
    """The numbers of a text, in order, with the signs that bear on a meaning."""
    return " ".join(_FACT.findall(unicodedata.normalize("NFKC", text)))


def compare(a: Sequence[Token], b: Sequence[Token], frequency: Frequency) -> Compared:
    """Compares two texts whose `facts_of` are the same."""
    from rapidfuzz.distance import LCSseq

    ours, theirs = [token.folded for token in a], [token.folded for token in b]
    blocks = LCSseq.editops(ours, theirs).as_matching_blocks()
    common = sum(block.size for block in blocks)
    similarity = 2 * common / (len(a) + len(b)) if a or b else 1.0
    judged = _Differences(frequency)
    for left, right in _gaps(blocks):
        judged.add(a[left], b[right])
    fits = judged.num_content * LONG_TEXT <= common
    return Compared(similarity, judged.in_words(), judged.same_facts and fits)


def _gaps(blocks: Sequence[object]) -> Iterator[tuple[slice, slice]]:
    """What stands between the parts that are the same."""
    at_a = at_b = 0
    for block in blocks:
        start_a, start_b, size = block.a, block.b, block.size  # type: ignore[attr-defined]
        if start_a > at_a or start_b > at_b:
            yield slice(at_a, start_a), slice(at_b, start_b)
        at_a, at_b = start_a + size, start_b + size


class _Differences:
    """Counts what kinds of difference two texts have."""

    def __init__(self, frequency: Frequency) -> None:
        self.frequency = frequency
        self.same_facts = True
        self.num_slips = 0
        self.num_fillers = 0
        self.num_content = 0

    def add(self, a: Sequence[Token], b: Sequence[Token]) -> None:
        """Takes what one text has where the other has something else, or nothing."""
        ours, theirs = [token.folded for token in a], [token.folded for token in b]
        if "".join(ours) == "".join(theirs):
            return  # written apart or together
        if FILLERS.issuperset(ours + theirs):
            self.num_fillers += len(ours) + len(theirs)
        elif a and b:
            if len(a) == len(b) and all(map(self._is_slip, a, b)):
                self.num_slips += len(a)
            else:
                self.same_facts = False
        elif any(token.is_name or token.folded in NEGATIONS for token in (*a, *b)):
            self.same_facts = False
        else:
            self.num_content += sum(token not in FILLERS for token in ours + theirs)

    def in_words(self) -> str:
        """Such as `1 slip, 2 fillers`; nothing where the words are the same."""
        counts = {
            "slip": self.num_slips,
            "filler": self.num_fillers,
            "word more or fewer": self.num_content,
        }
        return ", ".join(f"{count} x {name}" for name, count in counts.items() if count)

    def _is_slip(self, a: Token, b: Token) -> bool:
        """Whether one is the other with a letter wrong, and hardly ever written so."""
        from rapidfuzz.distance import OSA

        if a.folded == b.folded:
            return True
        if a.is_name or b.is_name or _UNSPACED_LETTER.match(a.folded + b.folded):
            return False
        shorter, longer = sorted((len(a.folded), len(b.folded)))
        if shorter + 1 < SLIP_LETTERS or longer < SLIP_LETTERS:
            return False
        if OSA.distance(a.folded, b.folded) > 1 + (shorter >= 2 * SLIP_LETTERS - 2):
            return False
        rare, frequent = sorted((self.frequency(a.folded), self.frequency(b.folded)))
        return frequent >= SLIP_RATIO * max(1, rare)
