"""What a suite names for free text: JSON schemas and the labels of a judge, read and checked."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import InvalidInput, Problem
from assay.loader.yaml.reader import Location, Positions
from assay.spec.gate import SuiteSpec, TaskSettings
from assay.spec.suite.judge import JudgeSpec
from assay.spec.values.patterns import check_pattern

MAX_LABELS = 100_000


@dataclass(frozen=True)
class JudgeLabel:
    """One answer, with a person's score."""

    question: str
    answer: str
    label: int
    """On the judge's scale."""
    reference: str = ""
    """A right answer, where there is one."""


def check_free_text(suite: SuiteSpec, positions: Positions, path: Path) -> list[Problem]:
    """The mistakes in what the suite in `path` names: files that are not there, schemas that decide
    nothing, labels that no person can have given, or too few of them."""
    folder, problems = path.with_suffix(""), []
    for task, settings in suite.tasks.items():
        at: Location = ("tasks", task, "json_schema")
        try:
            check_schema(schema_of(settings, folder))
        except ValueError as error:
            problems.append(_problem(positions, at, str(error)))
        except RecursionError:
            problems.append(_problem(positions, at, "the JSON schema is nested too deeply"))
    if suite.judge is not None and suite.judge.labels is not None:
        problems += _labels_problems(suite.judge, suite.confidence, positions, folder)
    return problems


def schema_of(settings: TaskSettings, folder: Path) -> dict[str, Any] | None:
    """The task's JSON schema, read where the suite names its file. Raises ValueError."""
    said = settings.json_schema
    if not isinstance(said, str):
        return said
    try:
        schema = json.loads((folder / said).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder / said} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / said} is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError(f"{folder / said} is no JSON object")
    return schema


def check_schema(schema: dict[str, Any] | None) -> None:
    """Raises ValueError for a schema that cannot be used: not valid, referring to another file, or
    with a search that nothing would end."""
    if schema is None:
        return
    import jsonschema
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        place = "/".join(map(str, error.absolute_path))
        raise ValueError(
            f"no JSON schema{f', at {place}' if place else ''}: {error.message}"
        ) from error
    keywords = list(_keywords(schema))
    for name, value in keywords:
        # A file or a URL that is read when an answer is scored may say something else by then.
        if name in ("$ref", "$dynamicRef") and isinstance(value, str) and not value.startswith("#"):
            raise ValueError(
                f"the JSON schema refers to {value}; put it under `$defs` and refer to `#/$defs/…`"
            )
        patterns: Iterable[Any] = ()
        if name == "pattern":
            patterns = [value]
        elif name == "patternProperties":
            patterns = value
        for pattern in patterns:
            check_pattern(str(pattern))
    if {"patternProperties", "unevaluatedProperties"} <= {name for name, _ in keywords}:
        raise ValueError(
            "patternProperties beside unevaluatedProperties takes searches that nothing would end"
        )


def read_labels(file: Path, scale: tuple[int, int]) -> tuple[JudgeLabel, ...]:
    """The labels in a file of JSON Lines. Raises InvalidInput with every line that is none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise InvalidInput(
            [Problem(str(file), 0, 0, "", "no_file", f"cannot be read: {reason}")]
        ) from error
    labels, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            labels.append(_label(line, scale))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(str(file), number, 1, "", "label", str(error)))
    if len(labels) > MAX_LABELS:
        problems.append(
            Problem(str(file), MAX_LABELS, 1, "", "label", f"more than {MAX_LABELS} labels")
        )
    if problems or not labels:
        raise InvalidInput(
            problems or [Problem(str(file), 0, 0, "", "label", "there are no labels in it")]
        )
    return tuple(labels)


def labels_needed(judge: JudgeSpec, confidence: float) -> int:
    """The fewest labels that can show the agreement which the suite asks for, if the judge agrees
    with all of them: the lower bound of n of n is (1 - confidence)^(1/n)."""
    if not judge.min_agreement:
        return 1
    if judge.min_agreement == 1:
        return MAX_LABELS + 1
    return math.ceil(math.log(1 - confidence) / math.log(judge.min_agreement))


def _labels_problems(
    judge: JudgeSpec, confidence: float, positions: Positions, folder: Path
) -> list[Problem]:
    assert judge.labels is not None
    at: Location = ("judge", "labels")
    try:
        num_labels = len(read_labels(folder / judge.labels, judge.scale))
    except InvalidInput as error:
        problems = []
        for problem in error.problems:
            # What has no line of its own is told where the suite names the file.
            if not problem.line:
                problem = _problem(positions, at, f"{problem.file} {problem.message}")
            problems.append(problem)
        return problems
    needed = labels_needed(judge, confidence)
    if num_labels >= needed:
        return []
    message = f"{num_labels} labels can never show an agreement of {judge.min_agreement:.0%}"
    if needed <= MAX_LABELS:
        hint = f"{needed} could, if the judge agrees with every one"
    else:
        hint = "no number can"
    return [_problem(positions, at, message, hint)]


def _label(line: str, scale: tuple[int, int]) -> JudgeLabel:
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("a label is an object with question, answer and label")
    for name in ("question", "answer"):
        if not isinstance(said.get(name), str):
            raise ValueError(f"{name} must be a text")
    label, reference = said.get("label"), said.get("reference", "")
    if isinstance(label, bool) or not isinstance(label, int | float) or not _is_whole(label):
        raise ValueError(f"label must be a whole number, not {label!r}")
    if not scale[0] <= label <= scale[1]:
        raise ValueError(f"the label {label} is not on the scale from {scale[0]} to {scale[1]}")
    if not isinstance(reference, str):
        raise ValueError("reference must be a text")
    return JudgeLabel(said["question"], said["answer"], int(label), reference)


def _is_whole(number: float) -> bool:
    return math.isfinite(number) and number == int(number)


def _keywords(value: Any) -> Iterator[tuple[str, Any]]:
    """Every name in a schema with what stands under it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _keywords(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keywords(inner)


def _problem(positions: Positions, at: Location, message: str, hint: str = "") -> Problem:
    return Problem(*positions.of_value(at), ".".join(map(str, at)), "value", message, hint)
