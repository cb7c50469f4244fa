"""The whole check: what `validate`, `plan` and `run` refuse before anything is started, all of it
at once."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from assay import secrets_file
from assay.engines.cluster.passed_on import ENDPOINT, endpoint_fault
from assay.errors import InvalidInput, Problem
from assay.flow.place.known import KnownPlace
from assay.flow.preflight.data import DataCheck
from assay.flow.preflight.lengths import BaseModel, base_model, check_model, check_service_length
from assay.flow.preflight.people import check_people
from assay.flow.preflight.places import Places
from assay.flow.preflight.policy import check_policy
from assay.flow.preflight.power import check_power
from assay.flow.preflight.tasks import check_tasks, limit_location
from assay.loader.compose import Override
from assay.loader.load import Examined, examine, load_suites
from assay.loader.parse import in_order
from assay.loader.references import SuiteFile
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

UNKNOWN = KnownPlace(None)


def check(
    path: Path,
    *,
    root: Path,
    overrides: Sequence[Override] = (),
    place: KnownPlace = UNKNOWN,
    reads_data: bool = True,
    is_run_here: bool = False,
) -> tuple[Spec, SuiteSpec]:
    """The spec in `path` and its suites as one, with nothing wrong that can be known of it at
    `place`. With `reads_data` every example is read, and limits that their samples can never
    meet are refused; with `is_run_here` what this machine lacks is told, too. Raises InvalidInput
    with every problem."""
    seen = examine(path, root, overrides)
    spec = seen.repaired.block
    problems = list(seen.problems)
    if spec is not None:
        found = _all(spec, seen, root, place, reads_data=reads_data, is_run_here=is_run_here)
        problems += [one for one in found if _is_known(one, seen)]
    if problems or spec is None:
        raise InvalidInput(in_order(_without_echoes(problems)))
    return spec, load_suites(spec.gate.suite, root)


def _all(
    spec: Spec,
    seen: Examined,
    root: Path,
    place: KnownPlace,
    *,
    reads_data: bool,
    is_run_here: bool,
) -> Iterator[Problem]:
    places = Places(seen.positions)
    if seen.repaired.is_known(("model",)):
        base = base_model(spec.model, root)
    else:
        base = BaseModel(None, 0, frozenset(), None)
    yield from check_model(spec, base, places)
    yield from check_people(spec.approval, seen.suites, places, place.user)
    yield from check_policy(place.policy, spec, seen.suites, places)
    yield from _suite_conflicts(spec, seen, root)
    max_model_len = spec.serve.engine.max_model_len
    for file in seen.suites:
        is_gguf = spec.serve.engine.kind == "llama_cpp"
        yield from check_tasks(file, root, max_model_len, generates_alone=is_gguf)
        if is_gguf and file.suite.parity is not None:
            message = "parity reads log-probabilities of a prompt, and llama.cpp tells none"
            hint = "take parity out: compress compares the file with the model token by token"
            yield Places(file.positions).problem(("parity",), "engine", message, hint)
        yield from check_service_length(file, max_model_len)
        if spec.train_steps[-1].objective.classifies:
            yield from _needs_a_head(file)
        if file.suite.parity is not None and spec.data.selection == 0.0:
            message = "the suite's parity is measured on the selection split, which is empty"
            yield places.problem(
                ("data", "selection"), "value", message, "give it a share such as 5%"
            )
    num_held_out = None
    if reads_data and seen.repaired.is_known(("data",)):
        data = DataCheck(spec, root, places)
        yield from data.problems
        num_held_out = data.num_held_out(spec.data)
    if reads_data:
        for file in seen.suites:
            yield from check_power(file, root, num_held_out)
    if is_run_here:
        yield from _missing_here(spec, seen, places)


def _suite_conflicts(spec: Spec, seen: Examined, root: Path) -> Iterator[Problem]:
    """Suites that say different things; only where each is right by itself."""
    if len(spec.gate.suite) < 2 or len(seen.suites) < len(spec.gate.suite):
        return
    try:
        load_suites(spec.gate.suite, root)
    except InvalidInput as error:
        yield from error.problems


def _missing_here(spec: Spec, seen: Examined, places: Places) -> Iterator[Problem]:
    """Libraries, keys and addresses that the run would ask for on its way."""
    asks_hub = spec.model.kind == "hf"
    for data in spec.all_data:
        asks_hub = asks_hub or any(one.startswith("hf:") for one in data.patterns)
    if asks_hub and (fault := endpoint_fault()):
        yield Problem(ENDPOINT, 0, 0, "", "environment", fault)
    for data in spec.all_data:
        for step in data.steps:
            asked = step.augment.ask if step.augment else None
            if asked and asked.api_key_env and not secrets_file.value(asked.api_key_env):
                message = f"augment's API key is read from {asked.api_key_env}, which is not set"
                hint = f"export {asked.api_key_env}=..., or put it into the place's secrets"
                yield places.problem(("data", "steps"), "no_key", message, hint)
    for index, train in enumerate(spec.train_steps):
        at = ("train", index) if isinstance(spec.train, tuple) else ("train",)
        for name in train.report_to:
            # Looked for, and not imported: that takes long, and nothing of it is needed here.
            if importlib.util.find_spec(name) is None:
                message, hint = f"{name} is not installed", f"pip install 'assay[{name}]'"
                yield places.problem((*at, "report_to"), "no_library", message, hint)
    if spec.compress.gguf and importlib.util.find_spec("xllamacpp") is None:
        message, hint = "xllamacpp is not installed", "pip install 'assay[llama-cpp]'"
        yield places.problem(("compress",), "no_library", message, hint)
    for file in seen.suites:
        judge = file.suite.judge
        if judge is not None and judge.api_key_env and not secrets_file.value(judge.api_key_env):
            message = f"the judge's API key is read from {judge.api_key_env}, which is not set"
            location = ("judge", "api_key_env")
            yield Places(file.positions).problem(
                location,
                "no_key",
                message,
                f"export {judge.api_key_env}=..., or put it into the place's secrets",
            )


def _is_known(problem: Problem, seen: Examined) -> bool:
    """Whether a problem rests on what the user wrote, and not on what stands in for a mistake."""
    if problem.file not in _files(seen):
        return True
    path = tuple(int(part) if part.isdecimal() else part for part in problem.path.split("."))
    return seen.repaired.is_known(path)


def _files(seen: Examined) -> set[str]:
    return {place.file for place in seen.positions.values.values()}


def _needs_a_head(file: SuiteFile) -> Iterator[Problem]:
    """Limits that compare a classifier with the base model, which has no head that classifies."""
    for task, limits in file.suite.limits.items():
        for index, limit in enumerate(limits):
            if limit.reference == "base":
                message = (
                    "the base model has no head that classifies, so that there is nothing to "
                    "compare with"
                )
                key = "no_worse_than" if limit.no_worse_than else "better_than"
                at = limit_location(file, task, index, key)
                yield Places(file.positions).problem(
                    at, "value", message, "compare with champion, or with a number"
                )


def _without_echoes(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once: two suites may name one task, and two checks one place."""
    return list(dict.fromkeys(problems))
