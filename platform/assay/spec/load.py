"""Reading specs and suites: the one place where YAML becomes blocks. All mistakes are told at once."""

from pathlib import Path

from assay.errors import InvalidInput, Problem
from assay.spec.check import check_blocks, check_references, check_suite
from assay.spec.gate import SuiteSpec
from assay.spec.parse import in_order, parse
from assay.spec.spec import Spec

WIDEST_EXCERPT = 100


def load_spec(path: Path, root: Path = Path()) -> Spec:
    """The spec in `path`, with all that it refers to seen to exist. Paths inside it are relative to `root`,
    the current folder when not said. Raises InvalidInput."""
    spec, document, problems = parse(path, Spec)
    if spec is not None:
        problems = [*problems, *check_references(spec, document.positions, str(path), root)]
    else:
        problems = [*problems, *check_blocks(document, str(path), root)]
    if problems or spec is None:
        raise InvalidInput(in_order(problems))
    return spec


def load_suite(path: Path) -> SuiteSpec:
    """The suite in `path`, with its task files seen to exist. Raises InvalidInput."""
    suite, problems = check_suite(path)
    if problems or suite is None:
        raise InvalidInput(in_order(problems))
    return suite


def problem_excerpt(problem: Problem, text: str) -> str:
    """The problem's line between its neighbours, with a caret under the place; empty when no line is known."""
    lines = text.removeprefix("\ufeff").split("\n")
    if not 1 <= problem.line <= len(lines):
        return ""
    offset = max(0, problem.column - WIDEST_EXCERPT * 3 // 4)
    width = len(str(problem.line + 1))
    shown: list[str] = []
    for number in range(problem.line - 1, problem.line + 2):
        if 1 <= number <= len(lines):
            shown.append(
                f"{number:>{width}} | {_printable(lines[number - 1])[offset : offset + WIDEST_EXCERPT]}".rstrip()
            )
        if number == problem.line:
            shown.append(f"{'':>{width}} | {'':>{max(0, problem.column - 1 - offset)}}^")
    return "\n".join(shown)


def _printable(line: str) -> str:
    """The line with one visible character for each of its own, so that the caret stays under its place."""
    return "".join(
        char if char.isprintable() else "→" if char == "\t" else " " if char == "\r" else "�" for char in line
    )
