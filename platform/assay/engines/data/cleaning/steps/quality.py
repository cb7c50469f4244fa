"""Rules of quality that were published for large corpora of web pages, with their thresholds.

`gopher` and `gopher_repetition`: Rae et al., "Scaling Language Models: Methods, Analysis & Insights
from Training Gopher" (2021), appendix A.1 and table A1. `c4`: Raffel et al., "Exploring the Limits
of Transfer Learning with a Unified Text-to-Text Transformer" (2020), section 2.2, of which the
rules for whole pages are here; those that take single lines out of a page are not.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from assay.text import words

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
WORDS_OF_A_PAGE = 50, 100_000
MEAN_WORD_LENGTH = 3, 10
TOP_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
"""Most characters that the most frequent n-gram may hold, as a share."""
REPEATED_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Most characters that n-grams which come more than once may hold."""
REPEATED_LINES, REPEATED_LINE_CHARACTERS = 0.30, 0.20
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")


def gopher(text: str) -> str:
    """What rule of Gopher's a page of English breaks; nothing where it breaks none."""
    found = text.split()
    if not WORDS_OF_A_PAGE[0] <= len(found) <= WORDS_OF_A_PAGE[1]:
        return f"{len(found)} words, not {WORDS_OF_A_PAGE[0]} to {WORDS_OF_A_PAGE[1]}"
    mean = sum(map(len, found)) / len(found)
    if not MEAN_WORD_LENGTH[0] <= mean <= MEAN_WORD_LENGTH[1]:
        return f"words of {mean:.1f} letters on average, not 3 to 10"
    symbols = text.count("#") + text.count("...") + text.count("…")
    if symbols / len(found) > 0.1:
        return "more than a hash or an ellipsis for ten words"
    num_with_letters = sum(any(map(str.isalpha, word)) for word in found)
    if num_with_letters / len(found) < 0.8:
        return "fewer than 80 % of the words have a letter"
    if len(STOP_WORDS.intersection(word.lower() for word in found)) < 2:
        return "fewer than two of the most frequent English words"
    return _lines(text)


def _lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.startswith(("•", "-", "*")) for line in lines) > 0.9 * len(lines):
        return "more than 90 % of the lines begin with a bullet"
    if sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return "more than 30 % of the lines end with an ellipsis"
    return ""


def gopher_repetition(text: str) -> str:
    """What is repeated too much; a Chinese character is a word. Lines and paragraphs count
    alike."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    repeated = _repeated(lines)
    if len(repeated) > REPEATED_LINES * len(lines):
        return f"{len(repeated)} of {len(lines)} lines are repeated"
    if sum(map(len, repeated)) > REPEATED_LINE_CHARACTERS * len(text):
        return "repeated lines hold more than 20 % of the characters"
    return _grams(words(text))


def _repeated(lines: Sequence[str]) -> list[str]:
    """Those that were there before."""
    seen: set[str] = set()
    found = []
    for line in lines:
        if line in seen:
            found.append(line)
        seen.add(line)
    return found


def _grams(found: Sequence[str]) -> str:
    num_characters = sum(map(len, found)) or 1
    for num, most in TOP_GRAMS.items():
        grams = Counter(_runs(found, num))
        top, count = max(grams.items(), key=lambda one: one[1], default=((), 0))
        # Of a few words any n-gram holds a large share; it is a repetition from two on.
        if count > 1 and count * sum(map(len, top)) > most * num_characters:
            return f"one run of {num} words holds more than {most:.0%} of the characters"
    for num, most in REPEATED_GRAMS.items():
        if _share_of_repeated(found, num) > most * num_characters:
            return f"repeated runs of {num} words hold more than {most:.0%} of the characters"
    return ""


def _runs(found: Sequence[str], num: int) -> Iterator[tuple[str, ...]]:
    """Each `num` words in a row."""
    # As many views of the list, each a word further on, side by side.
    return zip(*(found[place:] for place in range(num)), strict=False)


def _share_of_repeated(found: Sequence[str], num: int) -> int:
    """Characters of words in n-grams that were there before; each word counts once."""
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for place, gram in enumerate(_runs(found, num)):
        if gram in seen:
            repeated.update(range(place, place + num))
        seen.add(gram)
    return sum(len(found[place]) for place in repeated)


def c4(text: str) -> str:
    """What rule of C4's for pages the text breaks."""
    lower = text.lower()
    if "lorem ipsum" in lower:
        return "lorem ipsum"
    if "{" in text:
        return "a curly bracket, as in code"
    if len(_SENTENCE_END.findall(text)) < 3:
        return "fewer than three sentences"
    return ""


QUALITY: dict[str, Callable[[str], str]] = {
    "gopher": gopher,
    "gopher_repetition": gopher_repetition,
    "c4": c4,
}
