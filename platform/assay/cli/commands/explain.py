"""`assay explain`: what a key of a spec or a suite means, from the same text as the reference in
specs/README.md."""

import textwrap
from collections.abc import Sequence
from functools import cache

import click

from assay.errors import UsageError
from assay.loader.field_docs import Entry, about, entries, similar_paths
from assay.spec.block import Block
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

WIDTH = 110
ROOTS: tuple[tuple[str, type[Block]], ...] = (("A spec", Spec), ("A suite", SuiteSpec))


def explain(path: str) -> str:
    """What is to be said about a path; about all blocks when it is empty. Raises UsageError on an
    unknown one."""
    if not path:
        roots = []
        for name, cls in ROOTS:
            roots.append(f"{click.style(name, bold=True)}: {_block(cls, '')}")
        return "\n\n".join(roots)
    for _, cls in ROOTS:
        found = next((one for one in _every(cls) if _matches(one.path, path)), None)
        if found is not None:
            return _key(cls, found)
    close = similar_paths([cls for _, cls in ROOTS], path)
    if close:
        hint = f"did you mean {' or '.join(f'`{one}`' for one in close)}?"
    else:
        hint = "`assay explain` lists the blocks"
    raise UsageError(f"there is no key `{path}`: {hint}")


@cache
def _every(cls: type[Block]) -> tuple[Entry, ...]:
    return tuple(entries(cls, ()))


def _matches(path: str, said: str) -> bool:
    """Whether a path, in which NAME stands for any name, is the one that was said."""
    own, asked = path.split("."), said.split(".")
    return len(own) == len(asked) and all(
        one in ("NAME", other) for one, other in zip(own, asked, strict=True)
    )


def _key(cls: type[Block], found: Entry) -> str:
    facts = [
        ("takes", found.takes),
        ("allowed", ", ".join(found.choices)),
        ("unit", found.unit),
        ("default", found.default or ("none, it must be said" if found.required else "not set")),
        ("example", f"{found.path.split('.')[-1]}: {found.example}" if found.example else ""),
    ]
    lines = [click.style(found.path, bold=True), *textwrap.wrap(found.meaning, WIDTH)]
    lines += [f"  {name:<8} {fact}" for name, fact in facts if fact]
    block = _block(cls, found.path)
    return "\n".join([*lines, "", block] if block else lines)


def _block(cls: type[Block], path: str) -> str:
    """What a block says of itself, and its keys; empty where there is none."""
    location = tuple(path.split(".")) if path else ()
    inside = []
    for one in _every(cls):
        if one.path.startswith(f"{path}." if path else ""):
            inside.append(one)
    keys = [one for one in inside if _depth(one.path) == len(location) + 1]
    keys = keys or [one for one in inside if _depth(one.path) == len(location) + 2]
    text = textwrap.wrap(about(cls, location), WIDTH)
    return "\n".join([*text, *_rows(keys)])


def _depth(path: str) -> int:
    return path.count(".") + 1


def _rows(keys: Sequence[Entry]) -> list[str]:
    width = max((len(one.path) for one in keys), default=0)
    rows = []
    for one in keys:
        meaning = textwrap.shorten(one.meaning, WIDTH - width, placeholder="...")
        rows.append(f"  {one.path:<{width}}  {meaning}")
    return rows
