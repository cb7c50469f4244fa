"""Measures the code by the limits that it is held to, and prints each with its limit: `make house`.

A line of code is one that is neither blank nor a comment alone, nor part of a docstring.

Two bars are held by tests: no import runs upwards or in a circle (`make check`), and from `promote`
on the command line to the weights in HAProxy a parameter passes at most 8 files. It passes 6:
cli/releases, flow/release/operations, promote and writer, serving/gateway and admin
(tests/test_release_gateway.py follows one).
"""

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "platform" / "assay"
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

MOST_FILES = 14
MEDIAN_LINES, MOST_LINES = 150, 400
FUNCTION_LINES_P90, MOST_PARAMETERS = 25, 6
NODES_A_LINE = 8.0
COMPREHENSIONS_IN_1000, CONDITIONALS_IN_1000 = 25, 20
COMMENTS_IN_1000 = 25
WIDTH = 100
# A setting that is known in few places: its name, in any of the files.
SETTING, MOST_NAMING = "learning_rate", 4
MOST_NAMED = 8  # of what is worst in each measure


@dataclass
class Density:
    """What is counted in one file, or in all."""

    code_lines: int = 0
    nodes: int = 0
    comprehensions: int = 0
    conditionals: int = 0
    comments: int = 0

    def in_1000(self, count: int) -> float:
        """So many in a thousand lines of code."""
        return 1000 * count / max(1, self.code_lines)


@dataclass
class Measured:
    """What is counted over all files."""

    file_lines: dict[str, int] = field(default_factory=dict)
    function_lines: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    wide: list[str] = field(default_factory=list)
    files: dict[str, Density] = field(default_factory=dict)
    naming: list[str] = field(default_factory=list)
    """Files that name the setting."""

    @property
    def whole(self) -> Density:
        """Of all files together."""
        every = self.files.values()
        return Density(
            sum(one.code_lines for one in every),
            sum(one.nodes for one in every),
            sum(one.comprehensions for one in every),
            sum(one.conditionals for one in every),
            sum(one.comments for one in every),
        )


def main() -> int:
    """Prints the table; 1 when a limit is missed."""
    measured = measure(sorted(PACKAGE.rglob("*.py")))
    rows = [*rows_of_files(measured), *rows_of_functions(measured), *rows_of_lines(measured)]
    width = max(len(name) for name, *_ in rows)
    for name, value, limit, is_met in rows:
        print(f"{name:<{width}}  {value:>9}  {limit:>9}  {'met' if is_met else 'MISSED'}")
    for name, found in worst(measured):
        print(f"\n{name}:\n  " + "\n  ".join(found))
    return 0 if all(is_met for *_, is_met in rows) else 1


def measure(files: list[Path]) -> Measured:
    """Counts everything in these files."""
    measured = Measured()
    for file in files:
        name, text = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = text.splitlines()
        measured.file_lines[name] = len(lines)
        if SETTING in text:
            measured.naming.append(name)
        density = measured.files[name] = Density()
        density.code_lines = sum(_is_code(line) for line in lines) - _docstring_lines(tree)
        wide = (number for number, line in enumerate(lines, start=1) if len(line) > WIDTH)
        measured.wide += [f"{name}:{number}" for number in wide]
        density.comments = sum(1 for _ in _comments(text))
        _count_nodes(tree, name, measured)
    return measured


def rows_of_files(measured: Measured) -> Iterator[tuple[str, str, str, bool]]:
    """Folders and files against their limits."""
    folders = Counter(
        str(Path(name).parent) for name in measured.file_lines if not name.endswith("__init__.py")
    )
    most = max(folders.values())
    yield "files in a folder, at most", f"{most}", f"{MOST_FILES}", most <= MOST_FILES
    lines = [count for name, count in measured.file_lines.items() if "__init__" not in name]
    median = statistics.median(lines)
    yield "lines of a file, median", f"{median:g}", f"{MEDIAN_LINES}", median <= MEDIAN_LINES
    yield "lines of a file, at most", f"{max(lines)}", f"{MOST_LINES}", max(lines) <= MOST_LINES
    naming = len(measured.naming)
    yield f"files that name {SETTING}", f"{naming}", f"{MOST_NAMING}", naming <= MOST_NAMING


def rows_of_functions(measured: Measured) -> Iterator[tuple[str, str, str, bool]]:
    """Functions against their limits."""
    p90 = statistics.quantiles(measured.function_lines.values(), n=10)[-1]
    limit = FUNCTION_LINES_P90
    yield "lines of a function, p90", f"{p90:g}", f"{limit}", p90 <= limit
    most = max(measured.parameters.values())
    limit = MOST_PARAMETERS
    yield "parameters of a function, at most", f"{most}", f"{limit}", most <= limit


def rows_of_lines(measured: Measured) -> Iterator[tuple[str, str, str, bool]]:
    """Density against its limits."""
    whole = measured.whole
    nodes = whole.nodes / whole.code_lines
    yield "syntax nodes a line", f"{nodes:.1f}", f"{NODES_A_LINE:g}", nodes <= NODES_A_LINE
    counts = (
        ("comprehensions in 1,000 lines", whole.comprehensions, COMPREHENSIONS_IN_1000),
        ("conditional expressions in 1,000", whole.conditionals, CONDITIONALS_IN_1000),
    )
    for name, count, limit in counts:
        share = whole.in_1000(count)
        yield name, f"{share:.0f}", f"{limit}", share <= limit
    comments = whole.in_1000(whole.comments)
    yield (
        "comments in 1,000 lines, at least",
        f"{comments:.0f}",
        f"{COMMENTS_IN_1000}",
        comments >= COMMENTS_IN_1000,
    )
    yield f"lines over {WIDTH} columns", f"{len(measured.wide)}", "0", not measured.wide


def worst(measured: Measured) -> Iterator[tuple[str, list[str]]]:
    """What misses a limit, worst first."""
    long_files = [name for name, lines in measured.file_lines.items() if lines > MOST_LINES]
    long_files.sort(key=lambda name: -measured.file_lines[name])
    if long_files:
        yield "files too long", [f"{measured.file_lines[name]} {name}" for name in long_files]
    greedy = [name for name, count in measured.parameters.items() if count > MOST_PARAMETERS]
    if greedy:
        found = sorted(greedy, key=lambda name: -measured.parameters[name])
        yield "too many parameters", [f"{measured.parameters[name]} {name}" for name in found]
    long_functions = sorted(measured.function_lines.items(), key=lambda pair: -pair[1])
    yield "longest functions", [f"{lines} {name}" for name, lines in long_functions[:MOST_NAMED]]
    yield from worst_files(measured)


def worst_files(measured: Measured) -> Iterator[tuple[str, list[str]]]:
    """The files in which most is to be gained, of each measure of density."""
    excess = {
        "syntax nodes beyond the limit": lambda one: one.nodes - NODES_A_LINE * one.code_lines,
        "most comprehensions": lambda one: one.comprehensions,
        "most conditional expressions": lambda one: one.conditionals,
        "comments missing": lambda one: one.code_lines * COMMENTS_IN_1000 / 1000 - one.comments,
    }
    for title, count in excess.items():
        files = sorted(measured.files.items(), key=lambda pair, count=count: -count(pair[1]))
        yield title, [f"{count(one):.0f} {name}" for name, one in files[:MOST_NAMED]]
    yield "too wide", measured.wide[:MOST_NAMED]


def _count_nodes(tree: ast.Module, name: str, measured: Measured) -> None:
    density = measured.files[name]
    for node in ast.walk(tree):
        density.nodes += 1
        density.comprehensions += isinstance(node, COMPREHENSIONS)
        density.conditionals += isinstance(node, ast.IfExp)
        if isinstance(node, FUNCTIONS):
            where = f"{name}:{node.lineno} {node.name}"
            assert node.end_lineno is not None
            measured.function_lines[where] = node.end_lineno - node.lineno + 1
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            own = [argument for argument in every if argument.arg not in ("self", "cls")]
            measured.parameters[where] = len(own)


def _comments(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_directive = token.string.startswith(("# type:", "# noqa", "# fmt:", "#!"))
        if token.type == tokenize.COMMENT and not is_directive:
            yield token.string


def _docstring_lines(tree: ast.Module) -> int:
    """Lines of strings that stand alone: docstrings, and those under fields."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            assert node.end_lineno is not None
            count += node.end_lineno - node.lineno + 1
    return count


def _is_code(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


if __name__ == "__main__":
    sys.exit(main())
