"""What there is to say about each key of a spec or a suite, for the README, `assay explain` and
editors."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo

from assay.loader.annotations import (
    SYNONYMS,
    annotation_at,
    blocks_at,
    choices,
    expected,
    leaves,
    meaning,
    takes_duration,
    takes_share,
    tuple_item,
)
from assay.loader.yaml.reader import Location
from assay.loader.yaml.writer import written
from assay.spec.block import Block, Paths


@dataclass(frozen=True)
class Entry:
    """One key."""

    path: str
    """From the top, joined by dots; NAME stands for any name."""
    takes: str
    """What may stand there, in words, with its bounds."""
    required: bool
    default: str
    """As one would write it; empty where the key is required or has none."""
    choices: tuple[str, ...]
    """The fixed texts that it offers."""
    unit: str
    example: str
    """As one would write it; empty where there is none to give."""
    meaning: str


def entry(cls: type[Block], location: Location, field: FieldInfo) -> Entry:
    """What there is to say about a field at its location in a `cls`."""
    annotation = annotation_at(cls, location)
    if field.is_required() or field.default is None:
        default = ""
    else:
        default = written(field.default, annotation)
    return Entry(
        path=".".join(map(str, location)),
        takes=expected(annotation) + _bounds(annotation, field),
        required=field.is_required(),
        default="" if default == "{}" else default,
        choices=tuple(choices(annotation)),
        unit=_unit(annotation, str(location[-1])),
        example=_example(annotation, ".".join(map(str, location)), field),
        meaning=meaning(cls, location),
    )


def entries(cls: type[Block], location: Location) -> Iterator[Entry]:
    """An entry for each key under a location, those inside a block after the block's own."""
    for block in blocks_at(cls, location):
        for key, field in block.model_fields.items():
            inner: Location = (*location, key)
            yield entry(cls, inner, field)
            yield from entries(
                cls, (*inner, "NAME") if leaves(annotation_at(cls, inner)) == [dict] else inner
            )


def about(cls: type[Block], location: Location) -> str:
    """What the block at a location says of itself; empty where there is none."""
    return next((inspect.cleandoc(block.__doc__ or "") for block in blocks_at(cls, location)), "")


def similar_paths(classes: Sequence[type[Block]], said: str) -> list[str]:
    """Paths that were probably meant: those that end in the same key, or else the one that looks
    most alike."""
    paths: list[str] = []
    for cls in classes:
        paths += [one.path for one in entries(cls, ())]
    last = said.split(".")[-1]
    ends = [path for path in paths if path.split(".")[-1] == SYNONYMS.get(last, last)]
    return ends[:3] or get_close_matches(said, paths, 1, 0.7)


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _bounds(annotation: Any, field: FieldInfo) -> str:
    """The smallest and largest number, in words."""
    if expected(annotation) not in ("a number", "a whole number"):
        return ""
    said = []
    for item in field.metadata:
        for name, words in _BOUNDS.items():
            said.append((words, getattr(item, name, None)))
    text = ""
    for words, bound in said:
        if bound is not None:
            text += f", {words} {bound:g}"
    return text


def _unit(annotation: Any, key: str) -> str:
    if takes_duration(annotation):
        return "a time; a plain number is seconds"
    if takes_share(annotation):
        return "a share; 5% is 0.05"
    return next((unit for ending, unit in _UNITS if key.endswith(ending)), "")


_UNITS = (
    ("_gb", "gigabytes"),
    ("_gb_on_cpu", "gigabytes"),
    ("_bytes", "bytes"),
    ("_tokens", "tokens"),
)


def _example(annotation: Any, path: str, field: FieldInfo) -> str:
    """A value that may stand there: the default where that says something, else one of its kind."""
    if path in _EXAMPLES:
        return _EXAMPLES[path]
    if (
        not field.is_required()
        and field.default not in (None, (), {})
        and not isinstance(field.default, Block)
    ):
        return written(field.default, annotation)
    return _of_kind(annotation, path, field)


def _of_kind(annotation: Any, path: str, field: FieldInfo) -> str:
    if tuple_item(annotation) is not None:
        if annotation == Paths:
            return "[data/*.jsonl]"
        return ""
    if offered := choices(annotation):
        return offered[0]
    if takes_duration(annotation) or takes_share(annotation):
        if takes_duration(annotation):
            return "10m"
        return "5%"
    kinds = leaves(annotation)
    if blocks := [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Block)]:
        needed = []
        for key, inner in blocks[0].model_fields.items():
            if inner.is_required():
                needed.append((key, inner))
        said = {}
        for key, inner in needed:
            said[key] = _example(annotation_at(blocks[0], (key,)), f"{path}.{key}", inner)
        whole = "{" + ", ".join(f"{key}: {text}" for key, text in said.items()) + "}"
        if said and all(said.values()):
            return whole
        return ""
    if int in kinds or float in kinds:
        bounds = []
        for item in field.metadata:
            for name in ("ge", "gt"):
                bounds.append(getattr(item, name, None))
        least = max((bound for bound in bounds if bound is not None), default=0)
        return str(max(8, int(least)) if int in kinds else 0.1)
    if bool in kinds:
        return "true"
    return ""


_EXAMPLES = {
    "version": "1",
    "name": "support-bot",
    "model.source": "hf:Qwen/Qwen3-8B",
    "model.revision": "9c925d6",
    "data.system": "Answer briefly.",
    "compress.steps": "[{quantize: {scheme: W4A16, method: gptq}}]",
    "compress.steps.quantize.modules": "{self_attn: W8A8}",
    "sweep": "{learning_rate: [1e-4, 3e-4, 1e-3]}",
    "sweep.learning_rate": "[1e-4, 3e-4, 1e-3]",
    "sweep.learning_rate.loguniform": "[1e-5, 5e-4]",
    "train.method": "{lora: {r: 16, alpha: 32}}",
    "train.method.lora.layers": "15-29",
    "train.objective": "dpo",
    "gate.suite": "evals/support-bot.yaml",
    "approval.reviewers": "[ana, ben]",
    "serve.model_name": "support-bot",
    "limits": "{heldout: {metric: exact_match, at_least: 80%}}",
}
"""Of paths whose values have a form of their own."""
