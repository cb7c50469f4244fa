"""sacrebleu, rouge_score, regex and jsonschema: what a generated answer scores against its
references, or by itself.

Every score is of one sample and lies between 0 and 1, so that a mean of them has the bounds of
`rules.statistics.means`. BLEU and chrF of all samples together are made too, as information.

The libraries know English. What they lack elsewhere is their cutting of text into words: ROUGE's
own tokenizer throws away every letter beyond a to z. Here a word is a run of letters or digits of
any script, and a letter of a script without spaces is a word; on English both cut alike.
"""

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from assay.spec.gate import TaskSettings

# Rises when an answer would score otherwise than before.
VERSION = 1

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")

NAMES = ("bleu", "chrf", *ROUGE, "token_f1", "contains", "regex", "json_valid", "json_schema")

# How long one regular expression may search one answer.
SEARCH_S = 1.0

# Words of the answer times words of the reference: ROUGE-L takes some 2 s for so many.
MAX_CELLS = 4_000_000

_KANA_AND_THAI = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_KANA_AND_THAI}{_HAN}]|[^\W_{_KANA_AND_THAI}{_HAN}]+")


class Unscored(Exception):
    """An answer has no score, through no fault of its own; the message says why."""


def scores_of(
    response: str, references: Sequence[str], wanted: Sequence[str], settings: TaskSettings
) -> tuple[dict[str, float], dict[str, str]]:
    """The wanted metrics of one answer, and why those have none that are not among them. With
    several references the best one counts."""
    scores: dict[str, float] = {}
    unscored: dict[str, str] = {}
    for name in wanted:
        try:
            scores[name] = min(1.0, max(0.0, _score(name, response, references, settings)))
        except Unscored as why:
            unscored[name] = str(why)
    return scores, unscored


def corpus_score(name: str, responses: Sequence[str], references: Sequence[Sequence[str]]) -> str:
    """BLEU or chrF of all answers together, in words and with sacrebleu's signature; empty where
    the metric has no such thing."""
    if name not in ("bleu", "chrf") or not responses:
        return ""
    most = max(map(len, references))
    # sacrebleu takes the first reference of every answer, then the second of every answer, ...
    streams = []
    for n in range(most):
        streams.append([each[n] if n < len(each) else None for each in references])
    everything = "".join(reference for each in references for reference in each)
    if name == "bleu":
        metric = _bleu(_bleu_tokenizer(everything), False)
    else:
        metric = _chrf()
    found = metric.corpus_score(list(responses), streams)
    return f"corpus {found.name} {found.score:.1f} ({metric.get_signature()})"


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def _score(name: str, response: str, references: Sequence[str], settings: TaskSettings) -> float:
    if name == "bleu":
        metric = _bleu(_bleu_tokenizer("".join(references)), True)
        return float(metric.sentence_score(response, list(references)).score) / 100
    if name == "chrf":
        return float(_chrf().sentence_score(response, list(references)).score) / 100
    if name in ROUGE:
        return _rouge(name, response, references)
    if name == "token_f1":
        return max((_token_f1(response, reference) for reference in references), default=0.0)
    if name == "contains":
        return float(_contains(response, references, settings.contains))
    if name == "regex":
        return float(_found(settings.regex or "", response))
    return float(_is_json(response, settings.json_schema if name == "json_schema" else None))


@cache
def _bleu(tokenizer: str, is_sentence: bool) -> Any:
    """Of single sentences without the n-grams that a short one cannot have ("effective order")."""
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenizer, effective_order=is_sentence)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _bleu_tokenizer(text: str) -> str:
    """sacrebleu's for the script: it has none for Thai, and that for Japanese takes a
    dictionary."""
    if re.search(f"[{_KANA_AND_THAI}]", text):
        return "char"
    if re.search(f"[{_HAN}]", text):
        return "zh"
    return "13a"


class _Tokenizer:
    """What rouge_score asks for words."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge_scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], tokenizer=_Tokenizer())


def _rouge(name: str, response: str, references: Sequence[str]) -> float:
    size = len(words(response))
    if any(size * len(words(reference)) > MAX_CELLS for reference in references):
        raise Unscored("answer and reference are too long for ROUGE")
    if not references:
        return 0.0
    return float(_rouge_scorer(name).score_multi(list(references), response)[name].fmeasure)


def _token_f1(response: str, reference: str) -> float:
    """Rajpurkar et al., "SQuAD" (arXiv 1606.05250), section 6.1: harmonic mean of precision and
    recall of the words; where either has none, 1 if both have none."""
    ours, theirs = _squad_words(response), _squad_words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def _squad_words(text: str) -> list[str]:
    """Words without case, punctuation and articles, as SQuAD counts them."""
    kept = "".join(character for character in _plain(text) if not _is_mark(character))
    without_articles = re.sub(r"\b(a|an|the)\b", " ", kept)
    spaced = re.sub(f"([{_KANA_AND_THAI}{_HAN}])", r" \1 ", without_articles)
    return spaced.split()


def _is_mark(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _plain(text: str) -> str:
    """Full-width forms as usual ones, small letters, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _contains(response: str, references: Sequence[str], required: Sequence[str]) -> bool:
    said = _plain(response)
    if required:
        return all(_plain(text) in said for text in required)
    return any(_plain(reference) in said for reference in references if reference.strip())


def _found(pattern: str, text: str) -> bool:
    import regex

    try:
        return regex.search(pattern, text, timeout=SEARCH_S) is not None
    except TimeoutError:
        raise Unscored(f"the search for {pattern!r} took longer than {SEARCH_S:g} s") from None


def _is_json(response: str, schema: Mapping[str, Any] | str | None) -> bool:
    """Whether all of the answer is JSON (RFC 8259: no NaN, no Infinity), and meets the schema."""
    try:
        value = json.loads(response, parse_constant=_refuse)
    except ValueError:
        return False
    except RecursionError:
        raise Unscored("the answer's JSON is nested too deeply") from None
    if schema is None:
        return True
    from referencing.exceptions import Unresolvable

    try:
        # `iter_errors` alone takes no error's best match, which costs more than the check.
        return next(_validator(json.dumps(schema)).iter_errors(value), None) is None
    except RecursionError:
        raise Unscored("the JSON schema and the answer are nested too deeply") from None
    except Unresolvable as error:
        raise Unscored(f"the JSON schema refers to {error.ref}, which is not in it") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


@cache
def _validator(schema_text: str) -> Any:
    """A validator that fetches nothing, and whose searches end: jsonschema's own would follow
    references to the network, and search with `re`, which knows no time limit."""
    import referencing
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend, validator_for

    schema = json.loads(schema_text)
    usual = validator_for(schema, default=Draft202012Validator)
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    }
    return extend(usual, own)(schema, registry=referencing.Registry())


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not _found(pattern, value):
        yield ValidationError(f"does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, _: Any
) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    for pattern, schema in patterns.items():
        for name, inner in value.items():
            if _found(pattern, name):
                yield from validator.descend(inner, schema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, extra: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not isinstance(value, dict):
        return
    patterns = schema.get("patternProperties", {})
    for name, inner in value.items():
        is_named = name in schema.get("properties", {})
        if is_named or any(_found(pattern, name) for pattern in patterns):
            continue
        if extra is False:
            yield ValidationError(f"has the property {name!r} besides")
        elif isinstance(extra, dict):
            yield from validator.descend(inner, extra, path=name)
