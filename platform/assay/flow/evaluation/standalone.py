"""Evaluating without a run: any model's files, or any OpenAI-compatible server, decided by a suite.

Files go into the store and the engine's slot `reference`, which never has traffic. What was
evaluated once is not evaluated again: answers are kept by the digests of the bytes, the engine and
the tasks.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit

from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import UsageError
from assay.flow.evaluation.answers import (
    ELSEWHERE,
    AnswerInputs,
    EvalCase,
    EvalOptions,
    ask_server,
    ask_slot,
    server,
)
from assay.flow.pipeline.artifacts import champion_model
from assay.flow.pipeline.attempts import begin_attempt
from assay.flow.pipeline.executor import StageExecutor, Watcher
from assay.flow.pipeline.graph import Stage, stopping_of
from assay.flow.pipeline.judging import measured_judge
from assay.flow.pipeline.keys import engine_fingerprint, folder_fingerprint
from assay.flow.place.identity import act
from assay.flow.place.run_lock import only_one
from assay.records.evaluations.evaluation import EvaluationRequest, ModelRef, SlotEvaluation
from assay.records.gate import Attempt, EvaluationRecord, GateRecord
from assay.records.inputs import StageInputs
from assay.records.record import digest_of
from assay.records.stages import ModelRecord
from assay.reporting import document as reports
from assay.settings import Settings
from assay.spec.gate import HELD_OUT, SuiteSpec
from assay.spec.model import ModelSpec
from assay.stages import evaluate, fetch, gate
from assay.stages.context import Work
from assay.store.ledger import Ledger


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation without a run."""

    name: str
    """Under which the ledger keeps it; `assay report` and `assay gate compare` find it by this."""
    gate: GateRecord
    num_stages_run: int
    """0 when everything stood already."""


def run(
    asked: Sequence[tuple[EvaluationRequest, SuiteSpec]],
    options: EvalOptions,
    *,
    root: Path,
    settings: Settings,
    watcher: Watcher,
    before_work: Callable[[], None],
) -> tuple[Evaluated, ...]:
    """Evaluates one candidate, and the base model where one is named, by each of the suites, which
    are asked together: the requests differ in their suites alone. Each suite has a verdict and a
    record of its own. `before_work` is called once, before the first thing that is not on record.
    Raises `UsageError` for a suite that cannot be asked without a run."""
    for request, suite in asked:
        _check(request, suite)
    ledger = Ledger(settings.ledger_url)
    actor = act(settings, ledger, "run")
    connect = cache(before_work)
    cases = []
    with ExitStack() as held:
        for request, suite in asked:
            tasks = evaluate.tasks_of(suite, root, None)
            name = _name(request, gate.suite_digest(suite, tasks))
            held.enter_context(only_one(settings.run_folder(name), name))
            ledger.open_run(
                name, name="(gate run)", spec=request.model_dump_json(), started_by=actor.name
            )
            executor = StageExecutor(name, settings, root, ledger, watcher, connect)
            cases.append(_Case(request, suite, tasks, executor))
        return _evaluate_and_decide(cases, options)


@dataclass(frozen=True, kw_only=True)
class DecisionInputs(StageInputs):
    """What a verdict without a run depends on."""

    gate: gate.Inputs
    answers: EvaluationRecord
    attempt: Attempt


@dataclass(frozen=True)
class _Case:
    """One suite of several that are evaluated together."""

    request: EvaluationRequest
    suite: SuiteSpec
    tasks: tuple[TaskFile, ...]
    executor: StageExecutor


@dataclass(frozen=True)
class _References:
    """The answers of what the candidate is compared with."""

    base: EvaluationRecord | None
    champion: EvaluationRecord | None


def _evaluate_and_decide(cases: Sequence[_Case], options: EvalOptions) -> tuple[Evaluated, ...]:
    references = _references(cases, options)
    askings = []
    for case, beside in zip(cases, references, strict=True):
        load = case.suite.service.load if case.suite.service else None
        stopping = stopping_of(case.suite, beside.base, beside.champion)
        askings.append(EvalCase(case.tasks, load, stopping))
    executors = [case.executor for case in cases]
    begins = [partial(_begin, case) for case in cases]
    candidate = cases[0].request.candidate
    answers = _evaluate(candidate, askings, options, executors, begins=begins)
    decided = []
    for case, found, beside in zip(cases, answers, references, strict=True):
        decided.append(_decide(case, found, beside))
    return tuple(decided)


def _references(cases: Sequence[_Case], options: EvalOptions) -> list[_References]:
    """Of each case the base model's answers and the champion's. All of both, for a reference is
    asked once for whatever candidates come, and may not be stopped early."""
    request = cases[0].request
    whole = [EvalCase(case.tasks) for case in cases]
    bases: list[EvaluationRecord | None] = [None] * len(cases)
    if request.base:
        executors = [case.executor for case in cases]
        answers = _evaluate(request.base, whole, options, executors, "-base")
        bases = [found.evaluation for found in answers]
    references = []
    for case, asking, base in zip(cases, whole, bases, strict=True):
        champion = None
        if "champion" in case.suite.references:
            # Before the first release the base model stands for it.
            champion = _champion(case, asking, options) or base
        references.append(_References(base, champion))
    return references


def _decide(case: _Case, candidate: SlotEvaluation, beside: _References) -> Evaluated:
    executor = case.executor
    attempt = _begin(case, candidate.deployment.artifact_digest, candidate.engine)
    selftest = reports.newest_selftest(gate.suite_digest(case.suite, case.tasks), executor.ledger)
    judge = None
    if case.suite.judged_tasks:
        judge = measured_judge(case.suite, executor.root, executor.ledger)
    inputs = gate.Inputs(
        deployment=candidate.deployment,
        suite=case.suite,
        tasks=case.tasks,
        base=beside.base,
        champion=beside.champion,
        service=candidate.service,
        judge=judge,
        suite_file=", ".join(case.request.suite),
    )
    run = partial(
        gate.run,
        evaluate=lambda _: candidate.evaluation,
        attempt=attempt,
        selftest=reports.summary(selftest),
    )
    # The answers and the attempt are no inputs of a run's gate, which asks and counts by itself.
    decided_by = DecisionInputs(gate=inputs, answers=candidate.evaluation, attempt=attempt)
    stage = Stage(
        "gate", gate.VERSION, GateRecord, lambda: decided_by, lambda _, work: run(inputs, work)
    )
    return Evaluated(executor.name, executor.record(stage, needs_cluster=False), executor.num_run)


def _check(request: EvaluationRequest, suite: SuiteSpec) -> None:
    """Refuses what only a run can answer."""
    if HELD_OUT in suite.limits:
        raise UsageError(
            f"the suite limits `{HELD_OUT}`, the split that a spec keeps sealed; without a run "
            "there is none"
        )
    if "base" in suite.references and request.base is None:
        raise UsageError("the suite compares with the base model; name it with --base")


def _name(request: EvaluationRequest, digest: str) -> str:
    candidate = request.candidate
    said = (
        candidate.model
        or urlsplit(candidate.url).hostname
        or Path(candidate.source.partition("@")[0]).name
    )
    slug = re.sub(r"[^\w.-]+", "-", said).strip("-.") or "model"
    return f"{slug}-{digest_of([request.model_dump(), digest])[:6]}"


def _evaluate(
    subject: ModelRef,
    askings: Sequence[EvalCase],
    options: EvalOptions,
    executors: Sequence[StageExecutor],
    mark: str = "",
    begins: Sequence[Callable[[str, str], object]] = (),
) -> list[SlotEvaluation]:
    """The subject's answers to each suite; `mark` tells the stages of the base model from the
    candidate's. `begins` are told of the model's digest and the engine before it is asked
    anything."""
    ask: Callable[[Sequence[EvalCase], Work], Sequence[SlotEvaluation]]
    if subject.url:
        deployment = server(subject, options.api_key)
        digest, engine = deployment.artifact_digest, str(ELSEWHERE)
        ask = partial(ask_server, deployment, options)
    else:
        # Each executor notes the stage in its own record; the model is the same.
        model, *_ = [_fetch(subject, executor, mark) for executor in executors]
        engine = engine_fingerprint(options.serve_of(model).engine, executors[0].settings)
        digest = model.artifact.digest
        ask = partial(ask_slot, model, options, engine)
    for begin in begins:
        begin(digest, engine)
    found: dict[int, SlotEvaluation] = {}

    def answers(number: int, work: Work) -> SlotEvaluation:
        """The first suite whose answers are not on record has the others asked with it."""
        if number not in found:
            found.update(enumerate(ask(askings[number:], work), start=number))
        return found[number]

    num_replicas = options.serve.replicas.min
    found_by: list[SlotEvaluation] = []
    for number, (asking, executor) in enumerate(zip(askings, executors, strict=True)):
        inputs = AnswerInputs.of(asking, digest, engine, num_replicas)
        stage = _answer_stage(f"evaluate{mark}", inputs, partial(answers, number))
        found_by.append(executor.record(stage, needs_cluster=not subject.url))
    return found_by


def _answer_stage(
    name: str, inputs: AnswerInputs, ask: Callable[[Work], SlotEvaluation]
) -> Stage[SlotEvaluation]:
    return Stage(
        name,
        evaluate.VERSION,
        SlotEvaluation,
        lambda: inputs,
        lambda _, work: ask(work),
        _is_answered,
    )


def _champion(case: _Case, asking: EvalCase, options: EvalOptions) -> EvaluationRecord | None:
    """The champion's answers; it is asked in a slot of its own, for its users have the other. None
    when nobody has the traffic, or its model is not in the ledger any more."""
    executor = case.executor
    champion = executor.ledger.champion()
    model = champion_model(champion, executor.ledger) if champion else None
    if model is None:
        return None
    engine = engine_fingerprint(options.serve_of(model).engine, executor.settings)
    inputs = AnswerInputs.of(asking, model.artifact.digest, engine, options.serve.replicas.min)
    ask = partial(ask_slot, model, options, engine, [asking])
    stage = _answer_stage("evaluate-champion", inputs, lambda work: ask(work)[0])
    return executor.record(stage).evaluation


def _is_answered(found: SlotEvaluation) -> bool:
    return not found.evaluation.num_errors


def _begin(case: _Case, digest: str, engine: str) -> Attempt:
    """Counts the candidate among those that were evaluated with these items."""
    run, ledger = case.executor.name, case.executor.ledger
    return begin_attempt(
        case.suite, case.tasks, artifact_digest=digest, engine=engine, run=run, ledger=ledger
    )


def _fetch(subject: ModelRef, executor: StageExecutor, mark: str) -> ModelRecord:
    source = ModelSpec(source=subject.source)
    inputs = fetch.Inputs(model=source, files=folder_fingerprint(source, executor.root))
    stage = Stage(f"fetch{mark}", fetch.VERSION, ModelRecord, lambda: inputs, fetch.run)
    return executor.record(stage)
