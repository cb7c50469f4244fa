"""Whether a response declines to answer."""

import re
import unicodedata
from collections.abc import Iterator

from assay.rules.languages import LANGUAGES
from assay.rules.languages.table import NAME


def abstained(response: str) -> bool:
    """Whether the response says that the answer is not known, and nothing more.

    The response is cut into clauses. At least one must be an abstention ("I don't know", "文中没有提到",
    "Keine Ahnung", "There is no ...", "... does not exist") and every other one an abstention too,
    or an aside: a courtesy, a source, a sentence of advice ("I'm sorry", "according to the text",
    "please ask someone else"). So "I don't know, but it is Paris" is an answer, in every language,
    as is all that the tables do not know. Every short "There is no ..." counts, so a task whose
    right answer is such a sentence needs another score.

    Reads English, Chinese (simplified and traditional), Japanese, German, French and Spanish; what
    the languages say stands in `rules/languages`. Case, full-width forms, curly apostrophes,
    emphasis, quotation marks around the whole, and a label such as "Answer:" do not matter. What is
    quoted inside is a name. The time is linear in the length of the response.

    An empty response is not an abstention: it tells the asker nothing, and a model that falls
    silent must not meet a limit on hallucination by it. (It is not an answer either; a limit on a
    score such as `exact_match` is what notices it.)
    """
    abstains = False
    for sentence in _SENTENCE_END.split(_plain(response)):
        advises = False
        for clause in _clauses(sentence):
            if any(table.is_abstention(clause) for table in LANGUAGES):
                abstains = True
            elif any(table.is_advice(clause) for table in LANGUAGES):
                advises = True
            elif any(table.is_aside(clause) for table in LANGUAGES):
                continue
            elif not advises or any(table.states_something(clause) for table in LANGUAGES):
                return False
    return abstains


_APOSTROPHES = re.compile(
    "[\u2018\u2019\u02bc\u0060\u00b4](?=\\w)|(?<=\\w)[\u2018\u2019\u02bc\u0060\u00b4]"
)
_EMPHASIS = re.compile("[*_#~]+")
_LABELS = "|".join("|".join(table.labels) for table in LANGUAGES if table.labels)
_LABEL = re.compile(rf"\s*(?:{_LABELS}) ?:")
_PAIRS = (
    "\u201c\u201d",
    '""',
    "\u300c\u300d",
    "\u300e\u300f",
    "\u00ab\u00bb",
    "\u201e\u201c",
    "\u201e\u201d",
    "\u2018\u2019",
)
_QUOTATIONS = tuple(re.compile(f"{marks[0]}([^{marks}]*){marks[1]}") for marks in _PAIRS)


def _plain(response: str) -> str:
    """Small letters in their usual widths, without emphasis, label, and quotation marks around the
    whole; a quotation inside is one letter."""
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", response)).casefold().strip()
    text = _EMPHASIS.sub("", text).strip()
    label = _LABEL.match(text)
    if label:
        text = text[label.end() :].strip()
    for quotation in _QUOTATIONS:
        whole = quotation.fullmatch(text)
        text = whole[1].strip() if whole else quotation.sub(NAME, text)
    return text


_SENTENCE_END = re.compile(
    r"(?<!\bst)(?<!\bmt)(?<!\bdr)\.(?=\s|$)|[!?\n\u3002\u00a1\u00bf]+"
    r"|[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]+"
)
"""Punctuation, a line's end, pictures."""
_CLAUSE_END = re.compile(r"[,;:()\[\]\u2026\u2013\u2014\u3001]+|\.{2,}|\s-+\s")
_ASIDE_IN_BRACKETS = re.compile(r"\([^()]{0,60}\)(?=\s*\w)")
"""In the middle of a clause brackets hold another name of what was named; at its end they may hold
the answer."""


def _clauses(sentence: str) -> Iterator[str]:
    """What is said, one clause after the other, without white space and stray marks around it."""
    for clause in _CLAUSE_END.split(_ASIDE_IN_BRACKETS.sub("", sentence)):
        spoken = " ".join(clause.split()).strip(" .'-\"\u201c\u201d\u300c\u300d\u00ab\u00bb\u201e")
        if spoken:
            yield spoken
