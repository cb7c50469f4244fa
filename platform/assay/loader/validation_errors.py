"""Pydantic's errors in the user's own terms: one problem for each mistake, with its place and a
hint."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from assay.errors import OtherLocation, Problem
from assay.loader.annotations import (
    annotation_at,
    choices,
    expected,
    key_hint,
    leaves,
    meaning,
    takes_share,
    tuple_item,
)
from assay.loader.hints import rule_hint, value_hint
from assay.loader.yaml import full_width
from assay.loader.yaml.reader import Document, Location, SourceLocation, Value
from assay.spec.block import Block
from assay.spec.values.names import slug

# Mistakes that are told one by one; whoever has more reads no further.
MAX_TOLD = 25


def mistakes(cls: type[Block], document: Document, errors: Iterable[ErrorDetails]) -> list[Problem]:
    """What is wrong with a document as a `cls`, given pydantic's `errors`."""
    findings = _one_per_union(_finding(error, document.value) for error in errors)
    told: list[_Mistake] = []
    for finding in _without_echoes(cls, findings[:MAX_TOLD]):
        told += _all_told(cls, document.value, finding)
    truths = list(islice(_misplaced_truths(cls, document.value, ()), MAX_TOLD))
    # What a rule says of a `true` that was read as 1 is no mistake of its own.
    told = [one for one in told if not set(_named(document.value, one)) & set(truths)]
    told += [_wrong_kind(cls, document.value, location) for location in truths]
    problems: dict[tuple[Location, str], Problem] = {}
    for mistake in told:
        # Of one value one mistake is told; of a block each of its rules that is broken.
        rule = mistake.message if mistake.code == "value" else ""
        problems.setdefault((mistake.location, rule), _problem(document, mistake))
    if left := len(findings[MAX_TOLD:]):
        place = document.positions.of_key(findings[MAX_TOLD].location)
        problems[("more",), ""] = Problem(*place, "", "more", f"... and {left} more from here on")
    return list(problems.values())


class _Finding(NamedTuple):
    """One of pydantic's errors, with its location in the user's own terms."""

    location: Location
    tags: tuple[tuple[Location, str], ...]
    """Names that pydantic put into the location, such as a union's branch, and where."""
    error: ErrorDetails


def _finding(error: ErrorDetails, value: Value) -> _Finding:
    """Follow the error's location through the user's own data, and set aside what is not there."""
    location: Location = ()
    tags: list[tuple[Location, str]] = []
    for index, part in enumerate(error["loc"]):
        is_missing = error["type"] == "missing" and index == len(error["loc"]) - 1
        if isinstance(value, dict) and (part in value or is_missing):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            tags.append((location, str(part)))
            continue
        location = (*location, part)
    return _Finding(location, tuple(tags), error)


def located(errors: Iterable[ErrorDetails], value: Value) -> list[tuple[ErrorDetails, Location]]:
    """The errors of what was probably meant, each with its place in the user's own terms: without
    the names that pydantic puts in, such as a union's branch; of what a short form leaves out, the
    short form."""
    findings = _one_per_union(_finding(error, value) for error in errors)
    return [(finding.error, finding.location) for finding in findings]


def keys_named(error: ErrorDetails, location: Location, value: Value) -> list[Location]:
    """The keys that a rule between keys of the block at `location` names, among those that were
    written."""
    cause = error.get("ctx", {}).get("error")
    reasons = getattr(cause, "reasons", None) or [str(cause)]
    keys: list[Location] = []
    for reason in reasons:
        keys += _named(value, _Mistake(location, "value", reason))
    return keys


def _one_per_union(findings: Iterable[_Finding]) -> list[_Finding]:
    """Of the branches of a union, the one that the user most probably meant."""
    kept: list[_Finding] = []
    groups: dict[Location, dict[str, list[_Finding]]] = {}
    for finding in findings:
        if finding.tags:
            place, tag = finding.tags[0]
            groups.setdefault(place, {}).setdefault(tag, []).append(finding)
        else:
            kept.append(finding)
    for place, branches in groups.items():
        meant = []
        for branch in branches.values():
            if not all(_wrong_shape(one, place) for one in branch):
                meant.append(branch)
        chosen = meant[0] if meant else next(iter(branches.values()))[:1]
        # There may be a union inside this branch.
        kept += _one_per_union(one._replace(tags=one.tags[1:]) for one in chosen)
    return kept


def _wrong_shape(finding: _Finding, place: Location) -> bool:
    """Whether the value is of a kind that this branch does not take at all."""
    return finding.location == place and finding.error["type"].endswith(
        ("_type", "_parsing", "literal_error")
    )


def _without_echoes(cls: type[Block], findings: list[_Finding]) -> list[_Finding]:
    """Leave out the missing key that was only misspelt: the unknown key beside it says so
    already."""
    meant = set()
    for location, _, error in findings:
        if error["type"] == "extra_forbidden" and (key := key_hint(cls, location)[1]):
            meant.add((*location[:-1], key))
    left = []
    for one in findings:
        if one.error["type"] != "missing" or one.location not in meant:
            left.append(one)
    return left


def _misplaced_truths(cls: type[Block], value: Value, location: Location) -> Iterator[Location]:
    """Where `true` or `false` stands for something else; pydantic would read them as 1 and 0."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _misplaced_truths(cls, inner, (*location, key))
    elif isinstance(value, bool):
        annotation = annotation_at(cls, location)
        if annotation is not None and bool not in leaves(annotation):
            yield location


class _Mistake(NamedTuple):
    location: Location
    code: str
    message: str
    hint: str = ""


def _all_told(cls: type[Block], document: Value, finding: _Finding) -> list[_Mistake]:
    """One finding in words: one mistake, or each of a block's contradictions."""
    reasons = getattr(finding.error.get("ctx", {}).get("error"), "reasons", None)
    if not reasons:
        return [_told(cls, document, finding)]
    return [_Mistake(finding.location, "value", reason) for reason in reasons]


def _told(cls: type[Block], document: Value, finding: _Finding) -> _Mistake:
    """One finding in words."""
    location, error = finding.location, finding.error
    kind, context = error["type"], error.get("ctx", {})
    annotation = annotation_at(cls, location)
    value = _value_at(document, location)
    if kind == "extra_forbidden":
        return _unknown_key(cls, document, location)
    if kind == "missing" and isinstance(value, list):
        return _Mistake(
            location, "length", f"expected at least {len(value) + 1} values, found {len(value)}"
        )
    if kind == "missing" and isinstance(value, str):  # a short form that is too short
        key = str(error["loc"][-1])
        message = f"{value} needs `{key}`, which its name alone does not say"
        inner = annotation_at(cls, (*location, value, key))
        return _Mistake(
            location, "value", message, f"write {{{value}: {{{key}: {_example(inner)}}}}}"
        )
    if kind == "missing":
        return _Mistake(
            location,
            "missing",
            f"missing; needs {expected(annotation)}",
            _first_sentence(meaning(cls, location)),
        )
    if kind == "value_error":
        if isinstance(value, dict):
            hint = ""
        else:
            hint = value_hint(cls, location, value)
        return _Mistake(location, "value", str(context["error"]), hint)
    if kind in _BOUNDS:
        (bound,) = context.values()
        message = f"expected a number {_BOUNDS[kind]} {bound:g}, found {_shown(value)}"
        return _Mistake(
            location,
            "range",
            message,
            value_hint(cls, location, value) if takes_share(annotation) else "",
        )
    if kind in ("too_short", "too_long"):
        if kind == "too_short":
            bound = f"least {context['min_length']}"
        else:
            bound = f"most {context['max_length']}"
        message = f"expected at {bound} values, found {context['actual_length'] or 'none'}"
        return _Mistake(location, "length", message.replace(" 1 values", " 1 value"))
    if kind == "string_pattern_mismatch" and location == ("name",):
        hint = f"{_first_sentence(meaning(cls, location))}; such as `{slug(str(value))}`"
        return _Mistake(location, "value", f"{_shown(value)} is not allowed", hint)
    if kind == "string_pattern_mismatch":
        return _Mistake(
            location,
            "value",
            f"{_shown(value)} is not allowed",
            _first_sentence(meaning(cls, location)),
        )
    if annotation is not None and (
        kind.endswith(("_type", "_parsing")) or kind in ("literal_error", "int_from_float")
    ):
        return _wrong_kind(cls, document, location)
    return _Mistake(location, "value", error["msg"])


def _unknown_key(cls: type[Block], document: Value, location: Location) -> _Mistake:
    key = str(location[-1])
    if (at := full_width.first(key)) is not None:
        what, hint = full_width.named(key[at])
        return _Mistake(location, "full_width", f"{what} where YAML wants the plain one", hint)
    hint = key_hint(cls, location)[0]
    if key == "warmup_steps":
        hint = _warmup_hint(document, location) or hint
    return _Mistake(location, "unknown_key", "unknown key", hint)


def _warmup_hint(document: Value, location: Location) -> str:
    """Warm-up is a share here: what the steps come to, where it is known of how many."""
    warmup, steps = (
        _value_at(document, location),
        _value_at(document, (*location[:-1], "max_steps")),
    )
    if not isinstance(warmup, int) or not isinstance(steps, int) or not steps > 0:
        return ""
    if warmup >= steps:
        return (
            f"{warmup} steps of warm-up are all of max_steps: {steps}; warm-up is a share, "
            "`warmup_ratio: 6%`"
        )
    return f"warm-up is a share of the steps: write `warmup_ratio: {warmup / steps:.2g}`"


def _example(annotation: Any) -> str:
    """Something that could stand where a key is missing."""
    offered = choices(annotation)
    if not offered:
        blocks = []
        for leaf in leaves(annotation):
            if isinstance(leaf, type) and issubclass(leaf, Block):
                blocks.append(leaf)
        inner = []
        for block in blocks:
            if "name" in block.model_fields:
                inner.append(annotation_at(block, ("name",)))
        offered = choices(inner[0]) if inner else []
    shown = offered[0] if offered else "..."
    if tuple_item(annotation) is not None:
        return f"[{shown}]"
    return shown


def _wrong_kind(cls: type[Block], document: Value, location: Location) -> _Mistake:
    value = _value_at(document, location)
    message = f"expected {expected(annotation_at(cls, location))}, found {_shown(value)}"
    if isinstance(value, str) and (at := full_width.first(value)) is not None:
        what, hint = full_width.named(value[at])
        return _Mistake(
            location, "type", f"{message}, with {what}", f"{hint}: {full_width.plainly(value)}"
        )
    return _Mistake(location, "type", message, value_hint(cls, location, value))


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].removesuffix(".")


_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "of at least",
    "less_than": "less than",
    "less_than_equal": "of at most",
}


def _problem(document: Document, mistake: _Mistake) -> Problem:
    """The mistake at its place; a rule between keys at the first that it names, and at another."""
    named = _named(document.value, mistake)
    first = named[0] if named else mistake.location
    if named:
        place = document.positions.of_key(first)
    else:
        place = _location(document, mistake)
    other = None
    if len(named) > 1:
        other = OtherLocation(*document.positions.of_key(named[1]), ".".join(map(str, named[1])))
    hint = mistake.hint or rule_hint(mistake.message, [str(location[-1]) for location in named])
    return Problem(*place, ".".join(map(str, first)), mistake.code, mistake.message, hint, other)


def _named(value: Value, mistake: _Mistake) -> list[Location]:
    """The keys, among those that were written, that the message of a rule between keys names."""
    block = _value_at(value, mistake.location)
    if mistake.code != "value" or not isinstance(block, dict):
        return []
    found = []
    for words in re.findall(r"\w+(?:\.\w+)*", mistake.message):
        inner = tuple(words.split("."))
        if inner[0] in block and _has(block, inner) and (*mistake.location, *inner) not in found:
            found.append((*mistake.location, *inner))
    return found


def _location(document: Document, mistake: _Mistake) -> SourceLocation:
    """Where a mistake stands: an unknown key at the key, a missing one at its block."""
    positions, location = document.positions, mistake.location
    if mistake.code == "missing":
        return positions.of_key(location[:-1])
    if mistake.code == "unknown_key" or isinstance(
        _value_at(document.value, location), dict | list
    ):
        return positions.of_key(location)
    return positions.of_value(location)


def _has(value: Value, location: Location) -> bool:
    return _value_at(value, location) is not None


def _value_at(value: Value, location: Location) -> Value:
    for part in location:
        if isinstance(value, dict):
            value = value.get(str(part))
        else:
            if isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                value = None
    return value


def _shown(value: Value) -> str:
    """A value as the user would have written it, shortened."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a block of keys"
        case list():
            return "a list"
        case str():
            return repr(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
