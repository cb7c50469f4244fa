"""Reading specs and suites: the one place where YAML becomes blocks. All mistakes are told at once."""

from collections.abc import Sequence
from pathlib import Path

from assay.errors import InvalidInput, Problem
from assay.spec.check import check_blocks, check_references, check_suite
from assay.spec.compose import Override, compose
from assay.spec.gate import LM_EVAL, SuiteSpec, TaskSettings
from assay.spec.parse import in_order, validated
from assay.spec.spec import Spec
from assay.spec.yaml import Positions

WIDEST_EXCERPT = 100


def load_spec(path: Path, root: Path = Path(), overrides: Sequence[Override] = ()) -> Spec:
    """The spec in `path`, composed with what it extends and what overrides it, with all that it refers to seen to
    exist. Paths inside it are relative to `root`, the current folder when not said. Raises InvalidInput."""
    return read_spec(path, root, overrides)[0]


def read_spec(path: Path, root: Path = Path(), overrides: Sequence[Override] = ()) -> tuple[Spec, Positions]:
    """The same, with where each of its values stands."""
    spec, document, problems = validated(compose(path, overrides), Spec)
    if spec is not None:
        problems = [*problems, *check_references(spec, document.positions, root)]
    else:
        problems = [*problems, *check_blocks(document, root)]
    if problems or spec is None:
        raise InvalidInput(in_order(problems))
    return spec, document.positions


def load_suite(path: Path) -> SuiteSpec:
    """The suite in `path`, with its task files seen to exist. Raises InvalidInput."""
    suite, problems = check_suite(path)
    if problems or suite is None:
        raise InvalidInput(in_order(problems))
    return suite


def load_suites(paths: Sequence[str], root: Path = Path()) -> SuiteSpec:
    """Several suites as one, with the source of every task as a path from `root`. Raises InvalidInput, also where
    two of them say different things."""
    suites = {path: load_suite(root / path) for path in paths}
    problems: list[Problem] = []
    joined: dict[str, object] = {"limits": {}, "tasks": {}}
    for path, suite in suites.items():
        for name in sorted(suite.model_fields_set - {"limits", "tasks"} | {"confidence"}):
            if name in joined and joined[name] != getattr(suite, name):
                message = "says something else than another suite of this gate"
                problems.append(Problem(path, 0, 0, name, "value", message))
            joined[name] = getattr(suite, name)
    limits = [(path, task) for path, suite in suites.items() for task in suite.limits]
    for path, task in limits:
        if any(other != path and named == task for other, named in limits):
            message = "this task stands in two suites of this gate; give one of them another name"
            problems.append(Problem(path, 0, 0, f"limits.{task}", "value", message))
    if problems:
        raise InvalidInput(problems)
    joined["limits"] = {task: found for suite in suites.values() for task, found in suite.limits.items()}
    joined["tasks"] = {
        task: _sourced(suite.settings(task), task, Path(path).with_suffix(""))
        for path, suite in suites.items()
        for task in suite.limits
    }
    return SuiteSpec.model_validate(joined)


def _sourced(settings: TaskSettings, task: str, folder: Path) -> TaskSettings:
    source = settings.source or f"{task}.yaml"
    place = source if source.startswith(LM_EVAL) else (folder / source).as_posix()
    return TaskSettings.model_validate({**settings.model_dump(), "source": place})


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
