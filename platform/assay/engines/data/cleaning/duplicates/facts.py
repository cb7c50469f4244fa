"""Whether two texts that are alike also say the same: what a template's texts do not, of which
each has another number or name."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from assay.text import UNSPACED

_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_FACT = re.compile(
    r"(?:(?<!\w)[-\u2212])?[$€£¥]?\d+(?:[.,:/-]\d+)*[%‰°$€£¥]?"  # numbers, amounts, dates, times
    r"|[<>=+*^&|~#@\\_]+"  # what tells C from C++, and a < b from a > b
)
_CAPITAL = re.compile(
    r"(?<![0-9A-Za-z_\u00c0-\u024f\u0370-\u04ff])"
    r"[A-Z\u00c0-\u00de\u0391-\u03a9\u0400-\u042f][0-9A-Za-z_\u00c0-\u024f\u0370-\u04ff]*"
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
    *("oh", "um", "uh", "ok", "okay", "already", "now", "still", "also", "even", "quite"),
    *("actually", "basically", "simply", "currently", "then", "there", "here"),
    *"请請您你吗嗎呢吧啊呀哦嗯的地得了",
}
"""Words that may come, go, or stand for each other."""
LONG_TEXT = 40
"""For so many words that two texts have, one of content may be more or fewer."""
SLIP_LETTERS = 5
"""A shorter word is too often another word by one letter."""
SLIP_RATIO = 10
"""So much more often the right word is there than the slip of the pen: `house` and `horse` are both
frequent."""

_POLITE = re.compile(
    r"""(?<![a-z])(?:
    (?:hello|hi|hey|dear\ all)(?:[ ]there)? | good[ ](?:morning|afternoon|evening|day)
    | (?:many[ ])?thanks(?:[ ]a[ ]lot|[ ]so[ ]much)?(?:[ ]in[ ]advance)?
    | thank[ ]you(?:[ ](?:very|so)[ ]much)?(?:[ ]in[ ]advance)?
    | (?:best|kind)[ ]regards
    )(?![a-z])
    | 非常感[谢謝] | 多[谢謝] | 感[谢謝] | [谢謝]{2} | 麻[烦煩](?:[您你])?了? | 辛苦了 | [您你](?:们|們)?好
    | [请請][问問]""",
    re.VERBOSE | re.IGNORECASE,
)
"""Greetings and thanks, which say nothing of what is asked."""

Frequency = Callable[[str], int]
"""In how many rows a word stands, about."""


class Tokens(NamedTuple):
    """The words of a text, and the letters of scripts without spaces, in order."""

    folded: list[str]
    names: frozenset[str]
    """Those that have a capital where no sentence begins."""


class Compared(NamedTuple):
    """Two texts that say the same."""

    similarity: float
    """Words in common, in order, as a share of all: 2 LCS(a, b) / (|a| + |b|), from 0 to 1."""
    difference: str
    """What is not the same, in words."""


def tokens_of(text: str) -> Tokens:
    """The words of a text, without greetings and thanks."""
    normal = unicodedata.normalize("NFKC", text)
    asked = _POLITE.sub(" ", normal)
    if _TOKEN.search(asked):
        normal = asked
    folded = [word.casefold() for word in _TOKEN.findall(normal)]
    if _is_in_capitals(normal):
        return Tokens(folded, frozenset())  # a capital says nothing there
    names = set()
    for match in _CAPITAL.finditer(normal):
        # Every word has a capital there.
        if not _begins_sentence(normal, match.start()):
            names.add(match[0].casefold())
    return Tokens(folded, frozenset(names))


def _is_in_capitals(text: str) -> bool:
    capitals = sum(map(str.isupper, text))
    return capitals > sum(map(str.islower, text))


def _begins_sentence(text: str, place: int) -> bool:
    while place and text[place - 1] in " \t\"'“\u2018(«":
        place -= 1
    return place == 0 or text[place - 1] in _ENDS


def facts_of(text: str) -> str:
    """The numbers of a text, in order, with the signs that bear on a meaning."""
    return " ".join(_FACT.findall(unicodedata.normalize("NFKC", text)))


def compare(
    a: Tokens, b: Tokens, *, least: float, same_facts: bool, frequency: Frequency
) -> Compared | None:
    """Compares two texts; None where they are less similar than `least`, or, where `same_facts` is
    wanted, do not say the same. Their `facts_of` are compared before."""
    from rapidfuzz.distance import LCSseq

    num_both = len(a.folded) + len(b.folded)
    blocks = LCSseq.editops(a.folded, b.folded).as_matching_blocks()
    common = sum(block.size for block in blocks)
    similarity = 2 * common / num_both if num_both else 1.0
    if similarity < least:
        return None
    found = _Differences(a.names | b.names, frequency)
    for ours, theirs in _gaps(blocks):
        found.before = a.folded[ours.start - 1] if ours.start else ""
        if not found.add(a.folded[ours], b.folded[theirs]) and same_facts:
            return None
    if same_facts and found.num_content * LONG_TEXT > common:
        return None
    return Compared(similarity, found.in_words())


def _gaps(blocks: Sequence[Any]) -> Iterator[tuple[slice, slice]]:
    """What stands between the parts that are the same."""
    at_a = at_b = 0
    for block in blocks:
        if block.a > at_a or block.b > at_b:
            yield slice(at_a, block.a), slice(at_b, block.b)
        at_a, at_b = block.a + block.size, block.b + block.size


class _Differences:
    """Counts what kinds of difference two texts have."""

    def __init__(self, names: frozenset[str], frequency: Frequency) -> None:
        self.names, self.frequency = names, frequency
        self.before = ""
        """The word before what is added next."""
        self.num_slips = 0
        self.num_fillers = 0
        self.num_content = 0
        self.num_others = 0

    def add(self, ours: Sequence[str], theirs: Sequence[str]) -> bool:
        """Takes what one text has where the other has something else, or nothing. False when that
        makes another fact of it."""
        both = [*ours, *theirs]
        if "".join(ours) == "".join(theirs):
            return True  # written apart or together
        if FILLERS.issuperset(both):
            self.num_fillers += len(both)
            return True
        if ours and theirs:
            are_slips = len(ours) == len(theirs) and all(map(self._is_slip, ours, theirs))
            self.num_slips += len(ours) if are_slips else 0
            self.num_others += 0 if are_slips else 1
            return are_slips
        if self._is_stutter(both):
            self.num_slips += len(both)
            return True
        self.num_content += sum(word not in FILLERS for word in both)
        return self.names.isdisjoint(both) and NEGATIONS.isdisjoint(both)

    def _is_stutter(self, words: Sequence[str]) -> bool:
        """Whether it is the word before once more: `我我想`, `the the`."""
        return set(words) == {self.before}

    def in_words(self) -> str:
        """Such as `1 x slip, 2 x filler`; nothing where the words are the same."""
        counts = {
            "slip": self.num_slips,
            "filler": self.num_fillers,
            "word more or fewer": self.num_content,
            "other words": self.num_others,
        }
        return ", ".join(f"{count} x {name}" for name, count in counts.items() if count)

    def _is_slip(self, ours: str, theirs: str) -> bool:
        """Whether one is the other with a letter wrong, and hardly ever written so."""
        from rapidfuzz.distance import OSA

        if ours == theirs:
            return True
        if ours in self.names or theirs in self.names or _UNSPACED_LETTER.match(ours + theirs):
            return False
        shorter, longer = sorted((len(ours), len(theirs)))
        if shorter + 1 < SLIP_LETTERS or longer < SLIP_LETTERS:
            return False
        if OSA.distance(ours, theirs) > 1 + (shorter >= 2 * SLIP_LETTERS - 2):
            return False
        rare, frequent = sorted((self.frequency(ours), self.frequency(theirs)))
        return frequent >= SLIP_RATIO * max(1, rare)
