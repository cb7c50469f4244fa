"""Reading specs and suites: the one place where YAML becomes blocks. All mistakes are told at
once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import InvalidInput, Problem
from assay.loader.compose import Override, compose
from assay.loader.named.free_text import schema_of
from assay.loader.parse import in_order, validated
from assay.loader.references import SuiteFile, check_references, check_suite
from assay.loader.yaml.reader import Document, Positions
from assay.loader.yaml.repair import Repaired, repaired
from assay.spec.gate import LM_EVAL, SuiteSpec, TaskSettings
from assay.spec.spec import Spec
from assay.spec.suite.judge import JudgeSpec


@dataclass(frozen=True)
class Examined:
    """A spec with everything that is wrong with it and with what it refers to, as far as files can
    tell."""

    repaired: Repaired[Spec]
    """The spec, without its mistakes if it has some."""
    positions: Positions
    suites: tuple[SuiteFile, ...]
    problems: list[Problem]


def examine(path: Path, root: Path = Path(), overrides: Sequence[Override] = ()) -> Examined:
    """Reads a spec, composed with what it extends and what overrides it, and its suites. Paths
    inside it are relative to `root`. Raises InvalidInput where there is nothing that could be
    looked at."""
    spec, document, problems = validated(compose(path, overrides), Spec)
    if spec and not problems:
        whole = Repaired(spec, frozenset(), [])
    else:
        whole = repaired(document, Spec)
    if spec is not None and whole.block is None:
        whole = Repaired(spec, frozenset(), [])
    found = [*problems, *whole.problems]
    suites: list[SuiteFile] = []
    if whole.block is not None:
        told = check_references(whole.block, document.positions, root, suites.append)
        gone = {".".join(map(str, location)) for location in whole.gone}
        found += [one for one in told if not _lies_in(one.path, gone)]
    return Examined(whole, document.positions, tuple(suites), found)


def _lies_in(path: str, gone: Collection[str]) -> bool:
    return any(path == place or path.startswith(f"{place}.") for place in gone)


def load_spec(path: Path, root: Path = Path(), overrides: Sequence[Override] = ()) -> Spec:
    """The spec in `path`, composed with what it extends and what overrides it, with all that it
    refers to seen to exist. Paths inside it are relative to `root`, the current folder when not
    said. Raises InvalidInput."""
    seen = examine(path, root, overrides)
    if seen.problems or seen.repaired.block is None:
        raise InvalidInput(in_order(seen.problems))
    return seen.repaired.block


def resolve_spec(path: Path, overrides: Sequence[Override] = ()) -> tuple[Spec, Document]:
    """The composed spec, with what was written and where; what it refers to need not exist. Raises
    InvalidInput."""
    spec, document, problems = validated(compose(path, overrides), Spec)
    if problems or spec is None:
        raise InvalidInput(problems)
    return spec, document


def load_suite(path: Path) -> SuiteSpec:
    """The suite in `path`, with its task files seen to exist. Raises InvalidInput."""
    found, problems = check_suite(path, str(path))
    if problems or found is None:
        raise InvalidInput(in_order(problems))
    return found.suite


def load_suites(paths: Sequence[str], root: Path = Path()) -> SuiteSpec:
    """Several suites as one, with the source of every task as a path from `root`. Raises
    InvalidInput, also where two of them say different things."""
    suites = {path: load_suite(root / path) for path in paths}
    problems: list[Problem] = []
    joined: dict[str, object] = {"limits": {}, "tasks": {}}
    for path, suite in suites.items():
        for name in sorted(suite.model_fields_set - {"limits", "tasks"} | {"confidence"}):
            value = getattr(suite, name)
            if name == "judge" and suite.judge is not None:
                value = _labelled(suite.judge, Path(path).with_suffix(""))
            if name in joined and joined[name] != value:
                message = "says something else than another suite of this gate"
                problems.append(Problem(path, 0, 0, name, "value", message))
            joined[name] = value
    limits: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    standing = []
    for path, suite in suites.items():
        for task in suite.limits:
            standing.append((path, task))
            limits[task] = suite.limits[task]
            folder = Path(path).with_suffix("")
            settings[task] = _sourced(suite.settings(task), task, folder, root)
    for path, task in standing:
        if any(other != path and named == task for other, named in standing):
            message = "this task stands in two suites of this gate; give one of them another name"
            problems.append(Problem(path, 0, 0, f"limits.{task}", "value", message))
    if problems:
        raise InvalidInput(problems)
    joined["limits"], joined["tasks"] = limits, settings
    return SuiteSpec.model_validate(joined)


def _sourced(settings: TaskSettings, task: str, folder: Path, root: Path) -> TaskSettings:
    """The settings with the source as a path from `root`, and with the JSON schema that they name
    in them."""
    source = settings.source or f"{task}.yaml"
    if source.startswith(LM_EVAL):
        place = source
    else:
        place = (folder / source).as_posix()
    schema = schema_of(settings, root / folder)
    found = {**settings.model_dump(), "source": place} | (
        {"json_schema": schema} if schema is not None else {}
    )
    return TaskSettings.model_validate(found)


def _labelled(judge: JudgeSpec, folder: Path) -> JudgeSpec:
    """The judge with its labels as a path from where the suites' paths start."""
    if judge.labels is None:
        return judge
    return JudgeSpec.model_validate(
        {**judge.model_dump(), "labels": (folder / judge.labels).as_posix()}
    )
