"""A suite's self-test: stored answers are resampled, and damaged models are really evaluated where
one is asked for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.engines.cluster import tasks as ray_cluster
from assay.engines.evaluation.judge import judge_digest
from assay.engines.models import weight_noise
from assay.errors import NothingEvaluated, UsageError
from assay.flow.evaluation.answers import AnswerInputs, EvalCase, EvalOptions, ask_slot
from assay.flow.pipeline.executor import StageExecutor, Watcher
from assay.flow.pipeline.graph import Stage
from assay.flow.pipeline.judging import measured_judge
from assay.flow.pipeline.keys import engine_fingerprint
from assay.flow.place.identity import act
from assay.flow.place.run_lock import only_one
from assay.records.evaluations.evaluation import EvaluationRequest, SlotEvaluation
from assay.records.evaluations.selftest import NoisedModel, SelftestRecord
from assay.records.gate import Evaluation, GateRecord
from assay.records.inputs import StageInputs
from assay.records.record import read_as
from assay.records.stages import DatasetRecord, ModelRecord
from assay.reporting import document as reports
from assay.rules.gate import selftest
from assay.rules.gate.attempts import corrected_confidence
from assay.rules.gate.judging import trusted
from assay.rules.gate.verdict import evaluate_limits, overall
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.serve import EngineSpec, ServeSpec
from assay.spec.spec import Spec
from assay.stages import evaluate, gate
from assay.stages.context import Work
from assay.store.ledger import Ledger
from assay.store.schema.rows import RunRow

STAGE = "selftest"


@dataclass(frozen=True, kw_only=True)
class SelftestRequest:
    """A self-test as it was asked for."""

    suite: tuple[str, ...]
    """The suite's files."""
    evaluated: str = ""
    """Whose answers are drawn from, by the start of the id of a run or evaluation; the newest that
    were given to the suite when empty."""
    draws: int
    noises: tuple[float, ...] = ()
    """For each of these the model is damaged by so much, deployed and asked."""
    num_concurrent: int | None = None


def run(
    suite: SuiteSpec,
    asked: SelftestRequest,
    *,
    root: Path,
    settings: Settings,
    watcher: Watcher,
    before_work: Callable[[], None],
) -> SelftestRecord:
    """Tests the suite on stored answers, and on damaged models where there are to be some. The
    ledger keeps the outcome under the suite's digest. Raises `UsageError` when there are no such
    answers."""
    ledger = Ledger(settings.ledger_url)
    actor = act(settings, ledger, "run")
    source = _source(suite, asked.evaluated, root, ledger)
    name = f"selftest-{source.digest[:6]}"
    with only_one(settings.run_folder(name), name):
        ledger.open_run(
            name, name="(gate selftest)", spec='{"kind":"selftest"}', started_by=actor.name
        )
        attempt = ledger.begin_stage(name, STAGE, reports.selftest_key(source.digest))
        try:
            executor = StageExecutor(name, settings, root, ledger, watcher, before_work)
            noised = []
            for noise in asked.noises:
                noised.append(_noised(source, noise, asked.num_concurrent, executor))
            record = _tested(source, asked, noised)
        except BaseException as error:
            ledger.fail_stage(attempt, str(error) or type(error).__name__)
            raise
        ledger.finish_stage(attempt, record)
    return record


@dataclass(frozen=True)
class _Source:
    """Whose answers are drawn from, and what is needed to ask it again."""

    row: RunRow
    gate: GateRecord
    suite: SuiteSpec
    digest: str
    """The suite's."""
    data: DatasetRecord | None
    model: ModelRecord | None
    """What was deployed; None for a model behind a URL."""

    @property
    def candidate(self) -> Evaluation:
        """The answers."""
        return gate.read_evaluation(self.gate.candidate)

    @property
    def base(self) -> Evaluation | None:
        """The base model's, where there are any."""
        if self.gate.base:
            return gate.read_evaluation(self.gate.base)
        return None


def _source(suite: SuiteSpec, evaluated: str, root: Path, ledger: Ledger) -> _Source:
    rows = [ledger.find_run(evaluated)] if evaluated else ledger.runs()
    for row in rows:
        stages = reports.stages_of(row, ledger)
        decided = read_as(GateRecord, stages.get("gate"))
        if decided is None or decided.candidate.num_unasked:
            continue
        data = read_as(DatasetRecord, stages.get("prepare"))
        tasks = evaluate.tasks_of(suite, root, data)
        digest, answered = gate.suite_digest(suite, tasks), decided.scorecard.task_digests
        asked = {task.name: task.digest for task in tasks}
        # A task that cannot be had here, as `heldout` without a run, is in no `asked`.
        if suite.limits.keys() <= answered.keys() and asked.items() <= answered.items():
            model = read_as(ModelRecord, stages.get("compress") or stages.get("fetch"))
            return _Source(row, decided, suite, digest, data, model)
    if evaluated:
        raise UsageError(
            f"{rows[0].id} has no answers to all of this suite as it is now; evaluate it first, "
            "without `stop_early`"
        )
    raise NothingEvaluated(
        "nothing was evaluated by this suite as it is now; `assay run SPEC` or `assay gate run "
        "--suite SUITE "
        "--artifact FOLDER` does so, and --artifact does it here"
    )


def _tested(
    source: _Source, asked: SelftestRequest, noised: Sequence[NoisedModel]
) -> SelftestRecord:
    candidate, base, draws = source.candidate, source.base, asked.draws
    # Of the suite's own digest: the same suite has the same rates, whoever asks and when.
    seed = int(source.digest[:8], 16)
    limits = selftest.selftest_limits(source.suite, candidate, base, draws=draws, seed=seed)
    faults = list(selftest.faults_of(limits))
    for model in noised:
        if model.noise == 0 and model.outcome != source.gate.scorecard.outcome:
            faults.append(f"the same model, asked once more, was {model.outcome}")
    return SelftestRecord(
        suite=", ".join(asked.suite),
        suite_digest=source.digest,
        artifact_digest=candidate.artifact_digest,
        base_digest=base.artifact_digest if base else None,
        confidence=corrected_confidence(source.suite),
        draws=draws,
        limits=limits,
        planted=selftest.selftest_suite(source.suite, candidate, base, draws=draws, seed=seed),
        noised=tuple(noised),
        at=time.time(),
        faults=tuple(faults),
    )


@dataclass(frozen=True, kw_only=True)
class NoiseInputs(StageInputs):
    """What a damaged model depends on."""

    model: ModelRecord
    noise: float


def _noised(
    source: _Source, noise: float, num_concurrent: int | None, executor: StageExecutor
) -> NoisedModel:
    """The model with noise on its weights, deployed and asked; with none, the same model once
    more."""
    if source.model is None:
        raise UsageError("noise needs a model's files; a model behind a URL has none here")
    tasks = evaluate.tasks_of(source.suite, executor.root, source.data)
    how, model = EvalOptions(_serve(source.row), num_concurrent), source.model
    if noise:
        damage = NoiseInputs(model=model, noise=noise)
        name = f"noise {noise:g}"
        model = executor.record(
            Stage(name, weight_noise.VERSION, ModelRecord, lambda: damage, _damage)
        )
    engine = engine_fingerprint(how.serve_of(model).engine, executor.settings)
    # The same model must not be answered from what is on file.
    mark = engine if noise else f"{engine} once more"
    inputs = AnswerInputs.of(EvalCase(tasks), model.artifact.digest, mark, 0)
    found = executor.record(
        Stage(
            f"evaluate {noise:g}",
            evaluate.VERSION,
            SlotEvaluation,
            lambda: inputs,
            lambda _, work: ask_slot(model, how, mark, [EvalCase(tasks)], work)[0],
        )
    )
    return _compared(source, noise, gate.read_evaluation(found.evaluation), executor)


def _damage(inputs: NoiseInputs, work: Work) -> ModelRecord:
    model, noise = inputs.model, inputs.noise
    work.say(f"adding noise {noise:g} to the weights")
    folder = work.fresh_folder("model")
    seed = int(model.artifact.digest[:8], 16)
    ray_cluster.call(weight_noise.add_noise, Path(model.artifact.path), folder, noise, seed)
    return ModelRecord.model_validate(
        {**model.model_dump(), "artifact": work.store.put(folder, "model")}
    )


def _compared(
    source: _Source, noise: float, evaluation: Evaluation, executor: StageExecutor
) -> NoisedModel:
    suite = source.suite
    results = evaluate_limits(
        suite, evaluation, source.base, confidence=corrected_confidence(suite)
    )
    if suite.judged_tasks and suite.judge is not None:
        measured = measured_judge(suite, executor.root, executor.ledger)
        results = trusted(results, suite.judge, judge_digest(suite.judge), measured)
    before: dict[str, str] = {}
    for result in source.candidate.tasks:
        before |= {item.id: item.response for item in result.items}
    num_after = num_changed = 0
    for result in evaluation.tasks:
        for item in result.items:
            num_after += 1
            num_changed += before.get(item.id) != item.response
    missed = []
    for limit in results:
        if limit.outcome != "PASS":
            missed.append(f"{limit.task} {limit.metric}")
    return NoisedModel(
        noise=noise,
        artifact_digest=evaluation.artifact_digest,
        outcome=overall(results),
        changed_answers=num_changed / num_after,
        missed=tuple(missed),
    )


def _serve(row: RunRow) -> ServeSpec:
    """The engine's settings of a run or evaluation."""
    request = read_as(EvaluationRequest, row.spec)
    if request is not None:
        return ServeSpec(engine=EngineSpec.model_validate(request.engine))
    return Spec.model_validate_json(row.spec).serve
