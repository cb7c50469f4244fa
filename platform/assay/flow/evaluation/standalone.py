"""Evaluating without a run: any model's files, or any OpenAI-compatible server, decided by a suite.

Files go into the store and the engine's slot `reference`, which never has traffic. What was
evaluated once is not evaluated again: answers are kept by the digests of the bytes, the engine and
the tasks.
"""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from assay.engines.deployment import ray_serve
from assay.engines.evaluation import openai_api
from assay.engines.evaluation.harness import TaskFile
from assay.errors import UsageError
from assay.flow.pipeline.artifacts import champion_model
from assay.flow.pipeline.attempts import begin_attempt
from assay.flow.pipeline.executor import StageExecutor, Watcher, only_one
from assay.flow.pipeline.graph import Stage, stopping_of
from assay.flow.pipeline.judging import measured_judge
from assay.flow.pipeline.keys import engine_fingerprint, folder_fingerprint
from assay.flow.place.identity import act
from assay.flow.release.slots import reference_slot
from assay.records.evaluation import URL_MARK, EvaluationRequest, ModelRef, SlotEvaluation
from assay.records.gate import Attempt, EvaluationRecord, GateRecord
from assay.records.inputs import StageInputs
from assay.records.record import digest_of
from assay.records.stages import DeploymentRecord, ModelRecord
from assay.reporting import document as reports
from assay.settings import Settings
from assay.spec.gate import HELD_OUT, REQUESTS_TO_A_REPLICA, LoadSpec, SuiteSpec
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec, ReplicasSpec, ServeSpec
from assay.stages import baseline, deploy, evaluate, fetch, gate, service
from assay.stages.context import Work
from assay.store.ledger import Ledger

ELSEWHERE: Literal["elsewhere"] = "elsewhere"
"""The slot, and the engine, of a server that is not ours."""
REQUESTS_TO_A_URL = 16
"""In flight to such a server, which has others to answer."""


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation without a run."""

    name: str
    """Under which the ledger keeps it; `assay report` and `assay gate compare` find it by this."""
    gate: GateRecord
    num_stages_run: int
    """0 when everything stood already."""


def run(
    requests: Sequence[EvaluationRequest],
    suites: Sequence[SuiteSpec],
    *,
    root: Path,
    settings: Settings,
    watcher: Watcher,
    before_work: Callable[[], None],
    api_key: str = "none",
    num_concurrent: int | None = None,
    num_replicas: int = 1,
) -> tuple[Evaluated, ...]:
    """Evaluates one candidate, and the base model where one is named, by each of the suites, which
    are asked together: `requests` differ in their suites alone. Each suite has a verdict and a
    record of its own. `num_concurrent` is as in `How`. `before_work` is called once, before the
    first thing that is not on record. Raises `UsageError` for a suite that cannot be asked without
    a run."""
    for request, suite in zip(requests, suites, strict=True):
        _check(request, suite)
    first, ledger = requests[0], Ledger(settings.ledger_url)
    actor = act(settings, ledger, "run")
    replicas = ReplicasSpec(min=num_replicas, max=num_replicas)
    how = EvalOptions(
        ServeSpec(engine=EngineSpec.model_validate(first.engine), replicas=replicas),
        num_concurrent,
        api_key,
    )
    connect = cache(before_work)
    cases = []
    with ExitStack() as held:
        for request, suite in zip(requests, suites, strict=True):
            tasks = evaluate.tasks_of(suite, root, None)
            name = _name(request, gate.suite_digest(suite, tasks))
            held.enter_context(only_one(settings.run_folder(name), name))
            ledger.open_run(
                name, name="(gate run)", spec=request.model_dump_json(), started_by=actor.name
            )
            cases.append(
                _Case(
                    request,
                    suite,
                    tasks,
                    StageExecutor(name, settings, root, ledger, watcher, connect),
                )
            )
        return _evaluate_and_decide(cases, how)


@dataclass(frozen=True)
class EvalOptions:
    """How models are asked, by whatever suite."""

    serve: ServeSpec
    num_concurrent: int | None = None
    """Requests in flight to each replica, or to a URL; REQUESTS_TO_A_REPLICA or _URL when not
    said."""
    api_key: str = "none"

    @property
    def num_to_replicas(self) -> int:
        """Requests in flight to all replicas together."""
        return (self.num_concurrent or REQUESTS_TO_A_REPLICA) * self.serve.replicas.min

    @property
    def num_to_url(self) -> int:
        """Requests in flight to a server that is not ours."""
        return self.num_concurrent or REQUESTS_TO_A_URL

    def serve_for(self, model: ModelRecord) -> ServeSpec:
        """The engine's settings, no longer a context than the model was made for."""
        engine = self.serve.engine
        if not 0 < model.context_length < engine.max_model_len:
            return self.serve
        fitting = {**engine.model_dump(), "max_model_len": model.context_length}
        return ServeSpec(engine=EngineSpec.model_validate(fitting), replicas=self.serve.replicas)


@dataclass(frozen=True)
class EvalCase:
    """What one suite asks of a model."""

    tasks: tuple[TaskFile, ...]
    load: LoadSpec | None = None
    """Under which the service is measured; None when it is not."""
    stopping: evaluate.Stopping | None = None
    """When it has seen enough; None when it asks everything."""


@dataclass(frozen=True, kw_only=True)
class AnswerInputs(StageInputs):
    """What a model's answers to one suite depend on."""

    artifact_digest: str
    engine: str
    tasks: tuple[TaskFile, ...]
    load: LoadSpec | None
    num_replicas: int
    """Under the load; 0 where none is measured."""
    stops_by: SuiteSpec | None
    """The suite whose limits end the asking early."""
    beside: tuple[str, ...]
    """Digests of the answers that these are compared with then."""

    @classmethod
    def of(cls, case: EvalCase, digest: str, engine: str, num_replicas: int) -> "AnswerInputs":
        """Of a model with this digest behind this engine."""
        stopping = case.stopping
        beside = stopping.beside if stopping else ()
        return cls(
            artifact_digest=digest,
            engine=engine,
            tasks=case.tasks,
            load=case.load,
            num_replicas=num_replicas if case.load else 0,
            stops_by=stopping.suite if stopping else None,
            beside=tuple(digest_of(other.model_dump()) if other else "" for other in beside),
        )


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


def _evaluate_and_decide(cases: Sequence[_Case], how: EvalOptions) -> tuple[Evaluated, ...]:
    request = cases[0].request
    executors = [case.executor for case in cases]
    whole = [EvalCase(case.tasks) for case in cases]
    bases: list[EvaluationRecord | None] = [None] * len(cases)
    if request.base:
        bases = [
            found.evaluation for found in _evaluate(request.base, whole, how, executors, "-base")
        ]
    champions = [
        (_champion(case, asking, how) or base) if "champion" in case.suite.references else None
        for case, asking, base in zip(cases, whole, bases, strict=True)
    ]
    askings = [
        EvalCase(
            case.tasks,
            case.suite.service.load if case.suite.service else None,
            stopping_of(case.suite, base, champion),
        )
        for case, base, champion in zip(cases, bases, champions, strict=True)
    ]
    begins = [partial(_begin, case) for case in cases]
    candidates = _evaluate(request.candidate, askings, how, executors, begins=begins)
    return tuple(
        _decide(case, candidate, base, champion)
        for case, candidate, base, champion in zip(cases, candidates, bases, champions, strict=True)
    )


def _decide(
    case: _Case,
    candidate: SlotEvaluation,
    base: EvaluationRecord | None,
    champion: EvaluationRecord | None,
) -> Evaluated:
    executor = case.executor
    attempt = _begin(case, candidate.deployment.artifact_digest, candidate.engine)
    selftest = reports.newest_selftest(gate.suite_digest(case.suite, case.tasks), executor.ledger)
    inputs = gate.Inputs(
        deployment=candidate.deployment,
        suite=case.suite,
        tasks=case.tasks,
        base=base,
        champion=champion,
        service=candidate.service,
        judge=measured_judge(case.suite, executor.root, executor.ledger)
        if case.suite.judged_tasks
        else None,
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
    how: EvalOptions,
    executors: Sequence[StageExecutor],
    mark: str = "",
    begins: Sequence[Callable[[str, str], object]] = (),
) -> list[SlotEvaluation]:
    """The subject's answers to each suite; `mark` tells the stages of the base model from the
    candidate's. `begins` are told of the model's digest and the engine before it is asked
    anything."""
    engine: str
    ask: Callable[[Sequence[EvalCase], Work], Sequence[SlotEvaluation]]
    if subject.url:
        deployment = _server(subject, how.api_key)
        digest, engine, ask = (
            deployment.artifact_digest,
            ELSEWHERE,
            partial(_ask_server, deployment, how),
        )
    else:
        model, *_ = [_fetch(subject, executor, mark) for executor in executors]
        engine = engine_fingerprint(how.serve_for(model).engine, executors[0].settings)
        digest, ask = model.artifact.digest, partial(ask_slot, model, how, engine)
    for begin in begins:
        begin(digest, engine)
    found: dict[int, SlotEvaluation] = {}

    def answers(number: int, work: Work) -> SlotEvaluation:
        """The first suite whose answers are not on record has the others asked with it."""
        if number not in found:
            found.update(enumerate(ask(askings[number:], work), start=number))
        return found[number]

    num_replicas = how.serve.replicas.min
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


def _champion(case: _Case, asking: EvalCase, how: EvalOptions) -> EvaluationRecord | None:
    """The champion's answers; it is asked in a slot of its own, for its users have the other. None
    when nobody has the traffic, or its model is not in the ledger any more."""
    executor = case.executor
    champion = executor.ledger.champion()
    model = champion_model(champion, executor.ledger) if champion else None
    if model is None:
        return None
    engine = engine_fingerprint(how.serve_for(model).engine, executor.settings)
    inputs = AnswerInputs.of(asking, model.artifact.digest, engine, how.serve.replicas.min)
    ask = partial(ask_slot, model, how, engine, [asking])
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


def ask_slot(
    model: ModelRecord, how: EvalOptions, engine: str, askings: Sequence[EvalCase], work: Work
) -> tuple[SlotEvaluation, ...]:
    """Deploys into the slot `reference`, asks for all suites at once, measures the service where
    that is wanted, and frees the slot, whatever happens."""
    api, serve = deploy.serve_api(work.settings), how.serve_for(model)

    def ask(deployment: DeploymentRecord) -> tuple[SlotEvaluation, ...]:
        evaluations = evaluate.run(
            deployment,
            [evaluate.EvalRequest(asking.tasks, asking.stopping) for asking in askings],
            engine=engine,
            tokenizer=model.artifact.path,
            num_concurrent=how.num_to_replicas,
            work=work,
            stands=lambda: ray_serve.holds(api, deployment),
        )
        gpus = serve.engine.tensor_parallel_size
        measured = {
            load: service.run(
                service.Inputs(deployment=deployment, load=load, gpus_a_replica=gpus), work, api=api
            )
            for load in dict.fromkeys(asking.load for asking in askings)
            if load is not None
        }
        return tuple(
            SlotEvaluation(
                deployment=deployment,
                engine=engine,
                evaluation=evaluation,
                service=measured[asking.load] if asking.load else None,
            )
            for asking, evaluation in zip(askings, evaluations, strict=True)
        )

    slot = partial(reference_slot, work.settings)

    def deployed() -> DeploymentRecord:
        return deploy.into(slot(), serve, model_name="evaluated", model=model, work=work)

    return baseline.run(deploy=deployed, evaluate=ask, slot=slot, api=api)


def _server(subject: ModelRef, api_key: str) -> DeploymentRecord:
    """Somebody else's server as a deployment. Its digest stands for what can be known of it: where
    it is, what it says of its model, and its revision where one was named. Without one every
    evaluation is of its own."""
    url = subject.url.rstrip("/")
    offered = openai_api.models(url, api_key)
    model = subject.model or (next(iter(offered)) if len(offered) == 1 else "")
    if model not in offered:
        there = f"it offers {', '.join(sorted(offered)) or 'none'}"
        raise UsageError(
            f"{url} has no model {model!r}; {there}"
            if model
            else f"say which model of {url}: {there}"
        )
    said = {key: offered[model].get(key) for key in ("id", "root", "owned_by", "max_model_len")}
    known = digest_of([url, said, subject.revision or secrets.token_hex(16)])
    return DeploymentRecord(
        slot=ELSEWHERE,
        model_name=model,
        artifact_digest=URL_MARK + known,
        url=url,
        deployed_at=time.time(),
        replicas=(),
    )


def _ask_server(
    deployment: DeploymentRecord, how: EvalOptions, askings: Sequence[EvalCase], work: Work
) -> tuple[SlotEvaluation, ...]:
    evaluations = evaluate.run(
        deployment,
        [evaluate.EvalRequest(asking.tasks, asking.stopping) for asking in askings],
        engine=ELSEWHERE,
        tokenizer=None,
        num_concurrent=how.num_to_url,
        work=work,
        api_key=how.api_key,
        on_cluster=False,
    )
    return tuple(
        SlotEvaluation(deployment=deployment, engine=ELSEWHERE, evaluation=evaluation)
        for evaluation in evaluations
    )
