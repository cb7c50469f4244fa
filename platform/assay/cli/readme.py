"""The parts of the README files, and the JSON schema of the scorecard, that are made from the code.

`python -m assay.cli.readme`, run at the top of the repository, writes them anew; with `--check` it writes
nothing, and exits 1 when one is stale.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from assay.cli.main import INTERRUPTED, assay
from assay.errors import EXIT_CODE_MEANINGS, ExitCode
from assay.place import Place
from assay.records.report import Report
from assay.spec.block import Block, Duration
from assay.spec.gate import SuiteSpec
from assay.spec.shape import annotation_at, expected, leaves, takes_share
from assay.spec.spec import Spec
from assay.spec.yaml import Location

FILES = ("README.md", "specs/README.md")
SCHEMA_FILE = "evals/scorecard.schema.json"

_PART = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n.*?<!-- end generated -->", re.DOTALL)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name the parts that are stale.")
def readme(check: bool) -> None:
    """Write the generated parts of README.md and specs/README.md, and the scorecard's schema, anew."""
    num_stale = 0
    if _read(Path(SCHEMA_FILE)) != (schema := scorecard_schema()):
        num_stale += 1
        click.echo(f"{SCHEMA_FILE} {'is stale; `python -m assay.cli.readme` writes it' if check else 'written'}")
        if not check:
            Path(SCHEMA_FILE).write_text(schema)
    for file in map(Path, FILES):
        text, stale = refreshed(file.read_text())
        num_stale += len(stale)
        for name in stale:
            click.echo(f"{file}: {name} {'is stale; `python -m assay.cli.readme` writes it' if check else 'written'}")
        if stale and not check:
            file.write_text(text)
    sys.exit(ExitCode.FAILED if check and num_stale else ExitCode.DONE)


def refreshed(text: str) -> tuple[str, list[str]]:
    """The text with every generated part made anew, and the names of those that were stale."""
    stale = []

    def anew(part: re.Match[str]) -> str:
        made = f"<!-- generated: {part['name']} -->\n{PARTS[part['name']]()}\n<!-- end generated -->"
        if made != part[0]:
            stale.append(part["name"])
        return made

    return _PART.sub(anew, text), stale


def commands() -> str:
    """Every command with its arguments and its help."""
    return _table(("command", "what it does"), _commands(assay, ("assay",)))


def _commands(group: click.Group, before: tuple[str, ...]) -> Iterator[Sequence[str]]:
    """A row for each command; a group stands for those in it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*before, name))
        elif not command.hidden:
            pieces = command.collect_usage_pieces(click.Context(command, info_name=name))
            call = " ".join([*before, name, *(piece for piece in pieces if piece != "[OPTIONS]")])
            yield f"`{call}`", command.help or ""


def scorecard_schema() -> str:
    """JSON schema of what `assay report --json` prints. It allows fields that a later version may add."""
    schema = {"$schema": GenerateJsonSchema.schema_dialect, **Report.model_json_schema(mode="serialization")}
    return json.dumps(_open(schema), indent=1, ensure_ascii=False) + "\n"


def _open(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _open(value) for key, value in schema.items() if key != "additionalProperties" or value is not False
        }
    return [_open(value) for value in schema] if isinstance(schema, list) else schema


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def exit_codes() -> str:
    """Every exit code and its meaning."""
    rows = [(str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()]
    return _table(("code", "meaning"), [*rows, (str(INTERRUPTED), "interrupted by Ctrl-C; finished stages are kept")])


def settings() -> str:
    """Every setting of the place, with its default where that is the same everywhere."""
    rows = []
    for value, text in _documented_fields(Place):
        variable, _, meaning = text.partition(": ")
        rows.append((variable, _fixed_default(value), meaning))
    return _table(("variable", "default", "meaning"), rows)


def spec_reference() -> str:
    """Every key of a spec: a table of the blocks, and one for each of them."""
    parts = [_table(_COLUMNS, [_row(Spec, (), key, field) for key, field in Spec.model_fields.items()])]
    for key in Spec.model_fields:
        for block in _blocks(Spec, (key,)):
            parts += [f"### `{key}`", inspect.cleandoc(block.__doc__ or ""), _table(_COLUMNS, _rows(Spec, (key,)))]
    return "\n\n".join(parts)


def suite_reference() -> str:
    """Every key of a suite."""
    return _table(_COLUMNS, _rows(SuiteSpec, ()))


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "exit-codes": exit_codes,
    "settings": settings,
    "spec-reference": spec_reference,
    "suite-reference": suite_reference,
}
"""What a part is called in a file, and what makes it."""


_COLUMNS = ("key", "what may stand there", "default", "meaning")
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _rows(cls: type[Block], location: Location) -> Iterator[Sequence[str]]:
    """A row for each key under a location, those inside a block after the block's own."""
    for block in _blocks(cls, location):
        for key, field in block.model_fields.items():
            yield _row(cls, location, key, field)
            inner: Location = (*location, key)
            yield from _rows(cls, (*inner, "NAME") if leaves(annotation_at(cls, inner)) == [dict] else inner)


def _blocks(cls: type[Block], location: Location) -> list[type[Block]]:
    """The blocks that may stand at a location."""
    return [leaf for leaf in leaves(annotation_at(cls, location)) if isinstance(leaf, type) and issubclass(leaf, Block)]


def _row(cls: type[Block], location: Location, key: str, field: FieldInfo) -> Sequence[str]:
    annotation = annotation_at(cls, (*location, key))
    default = "required" if field.is_required() else _written(field.default, annotation)
    return (
        f"`{'.'.join(map(str, (*location, key)))}`",
        expected(annotation) + _bounds(annotation, field),
        f"`{default}`" if default and not field.is_required() else default,
        field.description or "",
    )


def _bounds(annotation: Any, field: FieldInfo) -> str:
    """The smallest and largest number, in words."""
    if expected(annotation) not in ("a number", "a whole number"):
        return ""
    said = [(words, getattr(item, name, None)) for item in field.metadata for name, words in _BOUNDS.items()]
    return "".join(f", {words} {bound:g}" for words, bound in said if bound is not None)


def _written(value: Any, annotation: Any) -> str:
    """A default as one would write it in YAML; empty for one that is not written."""
    if value is None:
        return ""
    if isinstance(value, Block):
        said = value.model_dump(exclude_defaults=True)
        return yaml.safe_dump(said, default_flow_style=True).strip() if said else ""
    if isinstance(value, tuple):
        return f"[{', '.join(_written(item, annotation) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if annotation == Duration:
        return f"{value / 3600:g}h" if value >= 3600 else f"{value:g}s"
    if takes_share(annotation):
        return f"{100 * value:g}%"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _documented_fields(cls: type[Any]) -> Iterator[tuple[ast.expr | None, str]]:
    """Each field's value, as it stands in the code, and the text under it."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield field.value, str(below.value.value)


def _fixed_default(value: ast.expr | None) -> str:
    """The default that `_env` is given; empty where that is found out at run time."""
    for node in ast.walk(value) if value else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_env":
            default = node.args[1]
            text = default.value if isinstance(default, ast.Constant) else ""
            return f"`{text}`" if isinstance(text, str) and text else ""
    return ""


def _table(columns: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    readme()
