"""What may stand where: the blocks' own annotations, asked by location, and put into words."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from assay.loader.yaml.reader import Location, Value
from assay.spec.block import Block, Duration, Fraction, Paths, Reference, Score
from assay.spec.data import Split
from assay.spec.model import ModelField

# Of a block whose keys are all named in a hint.
MOST_KEYS_SHOWN = 12
EXTENDS = "extends"
"""The key of a spec's first file that no block knows: it is gone when the blocks are read."""

SYNONYMS = {
    "approvers": "reviewers",
    "batchsize": "global_batch_size",
    "bf16": "precision",
    "cutoff_len": "max_length",
    "deploy": "serve",
    "epoch": "num_epochs",
    "eval": "gate",
    "include": "extends",
    "inherits": "extends",
    "eval_split": "selection",
    "evaluation": "gate",
    "fp16": "precision",
    "gradient_accumulation_steps": "micro_batch_size",
    "lora_target_modules": "target_modules",
    "lr_scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "max_replicas": "max",
    "max_seq_len": "max_length",
    "max_sequence_length": "max_length",
    "min_replicas": "min",
    "model_name_or_path": "source",
    "n_epochs": "num_epochs",
    "num_gpus": "gpus",
    "num_train_samples": "num_samples",
    "optim": "optimizer",
    "quantize": "compress",
    "scheduler_type": "schedule",
    "sequence_len": "max_length",
    "serving": "serve",
    "stage": "zero_stage",
    "system_prompt": "system",
    "tensor_parallel": "tensor_parallel_size",
    "training": "train",
    "val_set_size": "selection",
    "validation": "selection",
    "warmup_steps": "warmup_ratio",
    "base_model": "model",
    "batch_size": "global_batch_size",
    "dataset": "data",
    "epochs": "num_epochs",
    "gradient_clipping": "max_grad_norm",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_r": "r",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "num_train_epochs": "num_epochs",
    "per_device_train_batch_size": "micro_batch_size",
    "quantization": "compress",
    "rank": "r",
    "train_batch_size": "global_batch_size",
    "warmup": "warmup_ratio",
}
"""What other tools call a key, and what it is called here."""


def annotation_at(cls: type[Block], location: Location) -> Any:
    """The annotation of what stands at `location` in a `cls`; None for a place that the blocks do
    not know."""
    # Every item of a list has the same annotation, so that one of them is remembered for all.
    general = tuple(0 if isinstance(part, int) else part for part in location)
    return _annotation_at(cls, general)


@lru_cache(maxsize=1024)
def _annotation_at(cls: type[Block], location: Location) -> Any:
    current: Any = cls
    for part in location:
        if isinstance(part, int):
            # A single value may stand for a list of one.
            current = _part(current, tuple) or current
            continue
        block = _block_with(current, part)
        if block is not None:
            current = _hints(block)[part]
        else:
            current = _part(current, dict)
    return current


def _block_with(annotation: Any, key: str) -> type[Block] | None:
    """The first block in an annotation that has the key."""
    for leaf in leaves(annotation):
        if key in _hints(leaf):
            block: type[Block] = leaf
            return block
    return None


def field_at(cls: type[Block], location: Location) -> FieldInfo | None:
    """The field that a location ends in, if it ends in one."""
    if not location:
        return None
    key = str(location[-1])
    block = _block_with(annotation_at(cls, location[:-1]), key)
    if block is None:
        return None
    return block.model_fields[key]


def meaning(cls: type[Block], location: Location) -> str:
    """What the field says of itself that a location ends in; empty where there is none."""
    key = str(location[-1])
    block = _block_with(annotation_at(cls, location[:-1]), key)
    if block is None:
        return ""
    return meanings(block)[key]


@cache
def meanings(block: type[Block]) -> dict[str, str]:
    """What each field of a block says of itself: the string under it, on one line."""
    found: dict[str, str] = {}
    for cls in reversed(block.__mro__):
        if issubclass(cls, Block) and cls is not Block:
            found |= _strings_under_fields(cls)
    return {name: found.get(name, "") for name in block.model_fields}


def _strings_under_fields(cls: type[Block]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def leaves(annotation: Any) -> list[Any]:
    """The plain types in an annotation; for a Literal, the types of its values."""
    if get_origin(annotation) is Literal:
        return [type(value) for value in get_args(annotation)]
    if get_origin(annotation) is dict:
        return [dict]
    inner: dict[Any, None] = {}
    for part in _args(annotation):
        inner |= dict.fromkeys(leaves(part))
    return list(inner) or [annotation]


def keys_at(cls: type[Block], location: Location) -> list[str]:
    """The keys that the block at `location` knows."""
    keys: dict[str, None] = {}
    for block in leaves(annotation_at(cls, location)):
        keys |= dict.fromkeys(_hints(block))
    return list(keys)


def expected(annotation: Any) -> str:
    """What an annotation accepts, in words."""
    for special, words in _SPECIAL:
        if annotation == special:
            return words
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(parts[0])
    if origin is Literal:
        *most, last = map(str, parts)
        if most:
            return f"{', '.join(most)} or {last}"
        return last
    if origin in (Union, UnionType):
        offered = dict.fromkeys(expected(part) for part in parts if part is not type(None))
        # Of "a path" and "a path or a list of them" the second says both.
        lists = [words for words in offered if f"{words} or a list of them" not in offered]
        return " or ".join(lists)
    if isinstance(annotation, type) and issubclass(annotation, Block):
        needed = []
        for key, field in annotation.model_fields.items():
            if field.is_required():
                needed.append(key)
        if needed:
            return "a block with " + " and ".join(f"`{key}`" for key in needed)
        return "a block of keys"
    if origin is tuple and leaves(parts[0])[0] not in _PLAIN:
        return f"{expected(parts[0])} or a list of them"
    return _PLAIN.get(origin or annotation, "another value")


def choices(annotation: Any) -> list[str]:
    """The fixed texts that an annotation offers."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    found = []
    for part in _args(annotation):
        found += choices(part)
    return found


def fixed_numbers(annotation: Any) -> list[int | float]:
    """The fixed numbers that an annotation offers."""
    found: list[int | float] = []
    if get_origin(annotation) is Literal:
        for value in get_args(annotation):
            # Python's booleans are integers.
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.append(value)
        return found
    for part in _args(annotation):
        found += fixed_numbers(part)
    return found


def tuple_item(annotation: Any) -> Any:
    """The annotation of a list's items; None where no list may stand."""
    return _part(annotation, tuple)


def takes_share(annotation: Any) -> bool:
    """Whether a percentage may stand here."""
    return annotation in (Fraction, Score) or any(takes_share(part) for part in _args(annotation))


def takes_duration(annotation: Any) -> bool:
    """Whether a time such as `10m` may stand here."""
    return annotation == Duration or any(takes_duration(part) for part in _args(annotation))


def blocks_at(cls: type[Block], location: Location) -> list[type[Block]]:
    """The blocks that may stand at a location."""
    found = []
    for leaf in leaves(annotation_at(cls, location)):
        if isinstance(leaf, type) and issubclass(leaf, Block):
            found.append(leaf)
    return found


def reference_kind(annotation: Any, *, through_blocks: bool = True) -> Reference | None:
    """Whether text that stands here, or in the block that it is short for, may name the
    environment, and as what."""
    if isinstance(annotation, type):
        inner: Iterable[Any] = _hints(annotation).values() if through_blocks else ()
    else:
        for mark in _marks(annotation):
            if isinstance(mark, Reference):
                return mark
        inner = _args(annotation)
    for part in inner:
        kind = reference_kind(part, through_blocks=through_blocks)
        if kind is not None:
            return kind
    return None


def _marks(annotation: Any) -> tuple[Any, ...]:
    """What `Annotated` says besides the type."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1:]
    return ()


def reference_paths(cls: type[Block]) -> list[str]:
    """Every path whose text may name the environment."""
    found = []
    for home, key, annotation in _all_keys(cls, ""):
        if reference_kind(annotation, through_blocks=False):
            found.append(f"{home}.{key}" if home else key)
    return found


def spelled_out(annotation: Any, value: Value) -> Any:
    """What a short form stands for; the value itself where it is none."""
    for mark in _marks(annotation):
        if isinstance(mark, BeforeValidator):
            spell_out: Any = mark.func
            try:
                return spell_out(value)
            except ValueError:
                return value
    return value


@lru_cache(maxsize=256)
def key_hint(cls: type[Block], location: Location) -> tuple[str, str]:
    """For an unknown key: the hint, and the key of the same block that was probably meant, if
    any."""
    own, homes = keys_at(cls, location[:-1]), _homes(cls)
    if len(location) == 1 and "version" in own:
        own.append(EXTENDS)
    wanted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(location[-1])).replace("-", "_").lower()
    wanted = SYNONYMS.get(wanted, wanted)
    if wanted not in own and wanted in homes:
        return f"`{wanted}` belongs {' or '.join(homes[wanted])}", ""
    if close := get_close_matches(wanted, own, 1, 0.7):
        return f"did you mean `{close[0]}`?", close[0]
    if close := get_close_matches(wanted, homes, 1, 0.8):
        return f"did you mean `{close[0]}`? It belongs {' or '.join(homes[close[0]])}", ""
    if len(own) <= MOST_KEYS_SHOWN:
        return f"the keys here are {', '.join(own)}", ""
    return "", ""


@cache
def _homes(cls: type[Block]) -> dict[str, list[str]]:
    """Every key, and where it belongs."""
    found: dict[str, list[str]] = {}
    for home, key, _ in _all_keys(cls, ""):
        found.setdefault(key, []).append(f"under `{home}:`" if home else "at the top level")
    return found


def _all_keys(cls: type[Block], home: str) -> Iterator[tuple[str, str, Any]]:
    for key, annotation in _hints(cls).items():
        yield home, key, annotation
        inner = f"{home}.{key}" if home else key
        if values := _part(annotation, dict):
            inner, annotation = f"{inner}.NAME", values
        for leaf in leaves(annotation):
            yield from _all_keys(leaf, inner)


def _part(annotation: Any, collection: type) -> Any:
    """The annotation of what a dict or a tuple holds; None if there is none in `annotation`."""
    if get_origin(annotation) is collection:
        return get_args(annotation)[1 if collection is dict else 0]
    for inner in _args(annotation):
        part = _part(inner, collection)
        if part:
            return part
    return None


def _args(annotation: Any) -> tuple[Any, ...]:
    """The annotations inside an annotation."""
    if get_origin(annotation) is Literal:
        return ()
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[:1]
    return get_args(annotation)


@cache
def _hints(leaf: Any) -> dict[str, Any]:
    """Field annotations of a block, with what is inside `Annotated`; empty for anything else."""
    if not (isinstance(leaf, type) and issubclass(leaf, Block)):
        return {}
    hints = get_type_hints(leaf, include_extras=True)
    return {name: hints[name] for name in leaf.model_fields}


_SPECIAL: list[tuple[Any, str]] = [
    (Fraction, "a share such as 5% or 0.05"),
    (Score, "a share such as 5%, or a score of at most 1"),
    (Duration, "a time such as 500ms, 30s, 10m or 72h"),
    (Split, "a share such as 5%, or files"),
    (Paths, "a path, a glob, or a list of them"),
    (ModelField, "hf:ORG/NAME, package:NAME/FILE or a local folder"),
]
_PLAIN: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "a block of keys",
}
