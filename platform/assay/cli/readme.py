"""The parts of the documents that are made from the code, and the JSON schemas for editors.

`python -m assay.cli.readme`, run at the top of the repository, writes them anew; with `--check` it
writes nothing, and exits 1 when one is stale.
"""

import ast
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from pydantic.json_schema import GenerateJsonSchema

from assay.cli import reference_tables
from assay.cli.main import INTERRUPTED, assay
from assay.errors import EXIT_CODE_MEANINGS, ExitCode
from assay.loader.field_docs import Entry, about, entries, entry
from assay.loader.json_schema import spec_schema, suite_schema
from assay.records.report import Report
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

FILES = ("README.md", "specs/README.md", "platform/README.md", "platform/operations.md")

SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "specs/schema.json": spec_schema,
    "evals/schema.json": suite_schema,
    "evals/scorecard.schema.json": lambda: scorecard_schema(),
}
"""JSON schemas, and what makes them."""

NAMES_SCHEMA = "# yaml-language-server: $schema=schema.json\n"
"""The first line of each shipped spec and suite, for editors."""

PACKAGE = "assay"
FLOOR = ("errors", "secrets_file", "settings", "text")
"""What every room may use; the drawing would be full of arrows to them."""

TRANSLATION = "README.zh.md"
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_PART = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n.*?<!-- end generated -->", re.DOTALL)


@click.command()
@click.option(
    "--check", is_flag=True, help="Write nothing; exit 1 and name the parts that are stale."
)
def readme(check: bool) -> None:
    """Write the generated parts of the documents anew, and the JSON schemas."""
    num_stale = 0
    for file, text, parts in _made():
        num_stale += len(parts)
        for part in parts:
            state = "is stale; `python -m assay.cli.readme` writes it" if check else "written"
            click.echo(f"{file}: {part} {state}")
        if parts and not check:
            file.write_text(text)
    sys.exit(ExitCode.FAILED if check and num_stale else ExitCode.DONE)


def _made() -> Iterator[tuple[Path, str, list[str]]]:
    """Every file with something made in it: its path, the text it should have, and which parts of
    it are stale."""
    texts = {file: refreshed(file.read_text()) for file in map(Path, FILES)}
    for file, (text, stale) in texts.items():
        yield file, text, stale
    english, chinese = texts[Path("README.md")][0], Path(TRANSLATION).read_text()
    text = with_blocks_of(english, chinese)
    yield Path(TRANSLATION), text, [] if text == chinese else ["code and output"]
    for name, schema in SCHEMAS.items():
        path, text = Path(name), json.dumps(schema(), indent=1) + "\n"
        is_fresh = path.is_file() and path.read_text() == text
        yield path, text, [] if is_fresh else ["schema"]
        if path.name != "schema.json":
            continue
        for shipped in sorted(path.parent.glob("*.yaml")):
            text = shipped.read_text()
            names_it = text.startswith(NAMES_SCHEMA)
            yield shipped, NAMES_SCHEMA + text, [] if names_it else ["name of the schema"]


def with_blocks_of(original: str, translation: str) -> str:
    """The translation with the original's fenced blocks: code, output and drawings are not
    translated."""
    blocks = iter(_BLOCK.findall(original))
    return _BLOCK.sub(lambda block: next(blocks, block[0]), translation)


def refreshed(text: str) -> tuple[str, list[str]]:
    """The text with every generated part made anew, and the names of those that were stale."""
    stale = []

    def anew(part: re.Match[str]) -> str:
        made = (
            f"<!-- generated: {part['name']} -->\n{PARTS[part['name']]()}\n<!-- end generated -->"
        )
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


def scorecard_schema() -> dict[str, Any]:
    """JSON schema of what `assay report --json` prints. It allows fields that a later version may
    add."""
    schema = {
        "$schema": GenerateJsonSchema.schema_dialect,
        **Report.model_json_schema(mode="serialization"),
    }
    opened: dict[str, Any] = _open(schema)
    return opened


def _open(schema: Any) -> Any:
    if isinstance(schema, dict):
        opened = {}
        for key, value in schema.items():
            if key != "additionalProperties" or value is not False:
                opened[key] = _open(value)
        return opened
    if isinstance(schema, list):
        return [_open(value) for value in schema]
    return schema


def exit_codes() -> str:
    """Every exit code and its meaning."""
    rows = [(str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()]
    rows.append((str(INTERRUPTED), "interrupted by Ctrl-C; finished stages are kept"))
    return _table(("code", "meaning"), rows)


def settings_table() -> str:
    """Every setting of the place, with its default where that is the same everywhere."""
    rows = []
    for value, text in _documented_fields(Settings):
        variable, _, meaning = text.partition(": ")
        rows.append((variable, _fixed_default(value), meaning))
    return _table(("variable", "default", "meaning"), rows)


def spec_reference() -> str:
    """Every key of a spec: a table of the blocks, and one for each of them."""
    rows = [_row(entry(Spec, (key,), field)) for key, field in Spec.model_fields.items()]
    parts = [_table(_COLUMNS, rows)]
    for key in Spec.model_fields:
        if text := about(Spec, (key,)):
            parts += [f"### `{key}`", text, _table(_COLUMNS, map(_row, entries(Spec, (key,))))]
    return "\n\n".join(parts)


def suite_reference() -> str:
    """Every key of a suite."""
    return _table(_COLUMNS, map(_row, entries(SuiteSpec, ())))


def recommended() -> str:
    """The settings that `assay init` writes."""
    first = reference_tables.formulas()[0]
    return "\n\n".join(
        [_table(*reference_tables.rates()), _table(*reference_tables.lengths()), first]
    )


def hardware() -> str:
    """What `assay plan` reckons with, by model and method."""
    tables = [_table(*reference_tables.training()), _table(*reference_tables.serving())]
    sentences = "\n".join(f"- {sentence}" for sentence in reference_tables.formulas()[1:])
    return "\n\n".join([*tables, sentences])


def rooms() -> str:
    """Which room imports which, as a drawing; an arrow means "stands on"."""
    lines = ["```mermaid", "flowchart TB"]
    for importer, imported in sorted(set(_room_imports())):
        lines.append(f"    {importer} --> {imported}")
    return "\n".join([*lines, "```"])


def _room_imports() -> Iterator[tuple[str, str]]:
    package = Path(inspect.getfile(Settings)).parent
    for file in sorted(package.rglob("*.py")):
        room = file.relative_to(package).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module is None or not module.startswith(f"{PACKAGE}."):
                continue
            imported = module.split(".")[1]
            if room != "__init__" and imported not in (room, *FLOOR):
                yield room, imported


def demo_runs() -> str:
    """What became of the demo's specs with other seeds and precisions, as they are on file."""
    file = Path(DEMO_RUNS)
    if not file.is_file():
        return "No run of `make bench-demo` is on file yet."
    return demo_table([json.loads(line) for line in file.read_text().splitlines()])


def demo_table(rows: Sequence[dict[str, Any]]) -> str:
    """The worst of each spec and precision, of the rows that `make bench-demo` keeps."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    lines = [_demo_row(kinds[kind]) for kind in sorted(kinds)]
    return _table(_DEMO_COLUMNS, lines)


def _kind(row: dict[str, Any]) -> tuple[str, str]:
    return row["spec"], row["precision"]


def _demo_row(rows: Sequence[dict[str, Any]]) -> Sequence[str]:
    spec, precision = _kind(rows[0])
    of: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            of.setdefault(key, []).append(value)
    verdicts = sorted(Counter(of["verdict"]).items())
    instructions = sorted({", ".join(row["instructions"]) or "none for bf16" for row in rows})
    return (
        f"`{spec}`, {precision}",
        f"{len(rows)}: {', '.join(map(str, sorted(of['seed'])))}",
        ", ".join(f"{count} {verdict}" for verdict, count in verdicts),
        str(90 - max(of["wrong"])),
        str(max(of["refused"])),
        str(max(of["answered"])),
        _from_to(of["chemistry"]) + f" ({rows[0]['chemistry_base']})",
        _from_to(of["date"]),
        "; ".join(instructions),
    )


def _from_to(values: Sequence[Any]) -> str:
    low, high = min(values), max(values)
    if low == high:
        return str(low)
    return f"{low} to {high}"


DEMO_RUNS = "tests/bench/demo.jsonl"
"""Where `make bench-demo` keeps its rows."""

_DEMO_COLUMNS = (
    "spec, precision",
    "runs: seeds",
    "verdicts",
    "right of 90, fewest",
    "refused of 90, most",
    "answered of 120, most",
    "chemistry of 60 (base model)",
    "date",
    "instructions",
)

PARTS: dict[str, Callable[[], str]] = {
    "demo-runs": demo_runs,
    "rooms": rooms,
    "commands": commands,
    "exit-codes": exit_codes,
    "settings": settings_table,
    "spec-reference": spec_reference,
    "suite-reference": suite_reference,
    "recommended": lambda: recommended(),
    "hardware": lambda: hardware(),
}
"""What a part is called in a file, and what makes it."""


_COLUMNS = ("key", "what may stand there", "default", "meaning")


def _row(said: Entry) -> Sequence[str]:
    if said.required:
        default = "required"
    elif said.default:
        default = f"`{said.default}`"
    else:
        default = ""
    return f"`{said.path}`", said.takes, default, said.meaning


def _documented_fields(cls: type[Any]) -> Iterator[tuple[ast.expr | None, str]]:
    """Each field's value, as it stands in the code, and the text under it."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in pairwise(definition.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            yield field.value, str(below.value.value)


def _fixed_default(value: ast.expr | None) -> str:
    """The default that `_env` is given; empty where that is found out at run time."""
    for node in ast.walk(value) if value else ():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "_env"
        ):
            default = node.args[1]
            text = default.value if isinstance(default, ast.Constant) else ""
            if isinstance(text, str) and text:
                return f"`{text}`"
            return ""
    return ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        lines.append([_cell(text) for text in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    readme()
