"""The order of the stages, as a plain table: what each reads (which makes its key) and what it runs."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from assay.engines.data import remote
from assay.engines.deployment import ray_serve
from assay.engines.evaluation.harness import TaskFile
from assay.errors import StageFailed
from assay.flow.pipeline.artifacts import champion_model
from assay.flow.pipeline.attempts import begin_attempt
from assay.loader.globs import matching_files
from assay.records.gate import ContaminationRecord, EvaluationRecord, GateRecord, ParityRecord, ServiceRecord
from assay.records.record import Record, digest_of
from assay.records.release import Champion
from assay.records.stages import DatasetRecord, DeploymentRecord, ModelRecord, SweepRecord, TrainingRecord
from assay.rules.gate.attempts import corrected_confidence
from assay.rules.gate.measurements import joined_contamination
from assay.settings import Settings
from assay.spec.data import DataSpec, is_remote
from assay.spec.gate import ContaminationSpec, LoadSpec, ParitySpec, SuiteSpec
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec
from assay.spec.spec import Spec
from assay.spec.sweep import with_parameters
from assay.spec.train import WITHOUT_EFFECT, TrainSpec
from assay.stages import (
    baseline,
    compress,
    contamination,
    deploy,
    evaluate,
    fetch,
    gate,
    merge,
    parity,
    prepare,
    service,
    sweep,
    train,
)
from assay.stages.context import Work

R = TypeVar("R", bound=Record)


@dataclass
class Context:
    """What the stages of one run have to go by; `records` fills up as they finish."""

    spec: Spec
    suite: SuiteSpec
    root: Path
    settings: Settings
    champion: Champion | None
    records: dict[str, Record] = field(default_factory=dict)

    def record(self, stage: str, kind: type[R]) -> R:
        """The record of a finished stage."""
        found = self.records[stage]
        assert isinstance(found, kind), f"{stage} left a {type(found).__name__}"
        return found

    def found(self, stage: str, kind: type[R]) -> R | None:
        """The record of a stage that is not always wanted."""
        return self.record(stage, kind) if stage in self.records else None

    @property
    def model(self) -> ModelRecord:
        """The base model."""
        return self.record("fetch", ModelRecord)

    @property
    def data(self) -> DatasetRecord:
        """The prepared data."""
        return self.record("prepare", DatasetRecord)

    @property
    def training(self) -> TrainingRecord:
        """The last training run."""
        return self.record(numbered("train", len(self.spec.train_steps) - 1), TrainingRecord)

    @property
    def merged(self) -> ModelRecord:
        """What training came to."""
        return self.record(numbered("merge", len(self.spec.train_steps) - 1), ModelRecord)

    @property
    def candidate(self) -> ModelRecord:
        """The model that will serve."""
        return self.record("compress", ModelRecord)

    def train_spec(self, index: int) -> TrainSpec:
        """One training run; the first has what the sweep chose."""
        train = self.spec.train_steps[index]
        if index or self.spec.sweep is None:
            return train
        return with_parameters(train, self.record("sweep", SweepRecord).parameters)

    def data_spec(self, index: int) -> DataSpec:
        """The data of one training run."""
        return self.spec.train_steps[index].data or self.spec.data

    def start(self, index: int) -> ModelRecord:
        """The model that a training run starts from: what the last run before it made that can answer."""
        before = [i for i, train in enumerate(self.spec.train_steps[:index]) if train.objective.generates]
        return self.record(numbered("merge", before[-1]), ModelRecord) if before else self.model

    def scorer(self, index: int) -> ModelRecord | None:
        """The reward model that a `grpo` run asks, if it does."""
        grpo = self.spec.train_steps[index].objective.grpo
        if grpo is None or all(reward.name != "reward_model" for reward in grpo.rewards):
            return None
        scorers = [i for i, train in enumerate(self.spec.train_steps[:index]) if train.objective.reward is not None]
        return self.record(numbered("merge", scorers[-1]), ModelRecord)

    def teacher(self, index: int) -> ModelRecord | None:
        """The teacher of a `distill` run."""
        found = self.records.get(numbered("teacher", index))
        return found if isinstance(found, ModelRecord) else None

    @cached_property
    def tasks(self) -> tuple[TaskFile, ...]:
        """The suite's tasks, as their files are when they are first asked for."""
        return evaluate.tasks_of(self.suite, self.root, self.data)

    @property
    def wants_champion(self) -> bool:
        """Whether the candidate stands beside the champion; before the first release that is the base model."""
        return self.spec.gate.baseline == "champion" or "champion" in self.suite.references

    @property
    def wants_base(self) -> bool:
        """Whether the base model is evaluated, for itself or in the champion's stead."""
        wanted = self.spec.gate.baseline == "base" or "base" in self.suite.references
        return wanted or (self.wants_champion and self.champion is None)

    @property
    def champion_model(self) -> ModelRecord:
        """The model that has the traffic. Raises `StageFailed` when the ledger does not know it any more."""
        from assay.store.ledger import Ledger

        assert self.champion is not None
        model = champion_model(self.champion, Ledger(self.settings.ledger_url))
        if model is None:
            raise StageFailed(f"the model of the champion {self.champion.run} is not in the ledger any more")
        return model

    def evaluate(
        self,
        deployment: DeploymentRecord,
        *,
        model: ModelRecord,
        work: Work,
        stopping: evaluate.Stopping | None = None,
    ) -> EvaluationRecord:
        """Asks a deployment of `model` all of the suite's questions, or as many as decide."""
        (found,) = evaluate.run(
            deployment,
            [evaluate.EvalRequest(self.tasks, stopping)],
            engine=engine_fingerprint(self.spec.serve.engine, self.settings),
            tokenizer=model.artifact.path,
            num_concurrent=self.spec.gate.num_concurrent * self.spec.serve.replicas.min,
            work=work,
            stands=lambda: ray_serve.holds(deploy.serve_api(work), deployment),
        )
        return found


@dataclass(frozen=True)
class Step:
    """One stage in the order."""

    name: str
    version: int
    record: type[Record]
    reads: Callable[[Context], object]
    """Everything that the stage's outcome depends on, as JSON data."""
    run: Callable[[Context, Work], Record]
    wanted: Callable[[Context], bool] = lambda _: True
    stands: Callable[[Context, Record], bool] = lambda _, __: True
    """Whether what the record tells of is still so, beyond its artifact's bytes."""

    def key(self, context: Context) -> str:
        """SHA-256 of what the stage reads and of its version."""
        return digest_of([self.name, self.version, self.reads(context)])


def numbered(stage: str, index: int) -> str:
    """A stage's name in the training run of this index: `train`, `train-2`, `train-3`."""
    return stage if index == 0 else f"{stage}-{index + 1}"


def wanted_steps(context: Context) -> list[Step]:
    """The stages of this run, in their order."""
    return [step for step in steps(len(context.spec.train_steps)) if step.wanted(context)]


def steps(num_train_steps: int = 1) -> tuple[Step, ...]:
    """From the base model to the gate; approval and promotion follow on a person's word."""
    return (
        Step(
            "fetch",
            fetch.VERSION,
            ModelRecord,
            reads=lambda c: [c.spec.model.model_dump(), folder_fingerprint(c.spec.model, c.root)],
            run=lambda c, w: fetch.run(c.spec.model, work=w),
        ),
        *(step for index in range(num_train_steps) for step in _training_steps(index)),
        Step(
            "compress",
            compress.VERSION,
            ModelRecord,
            reads=lambda c: [c.merged.artifact.digest, c.spec.compress.model_dump()],
            run=lambda c, w: compress.run(c.spec.compress, merged=c.merged, work=w),
        ),
        Step(
            "baseline",
            baseline.VERSION,
            EvaluationRecord,
            reads=lambda c: [c.model.artifact.digest, _engine(c), [[t.name, t.digest] for t in c.tasks]],
            run=_baseline,
            wanted=lambda c: c.wants_base,
            stands=_is_answered,
        ),
        Step(
            "champion",
            baseline.VERSION,
            EvaluationRecord,
            reads=lambda c: [
                c.champion.artifact_digest if c.champion else None,
                _engine(c),
                [[t.name, t.digest] for t in c.tasks],
            ],
            run=_champion,
            wanted=lambda c: c.wants_champion and c.champion is not None,
            stands=_is_answered,
        ),
        Step(
            "deploy",
            deploy.VERSION,
            DeploymentRecord,
            reads=lambda c: [c.candidate.artifact.digest, c.spec.served_name, _engine(c)],
            run=lambda c, w: deploy.run(
                c.spec.serve,
                model_name=c.spec.served_name,
                model=c.candidate,
                champion=c.champion,
                work=w,
            ),
            stands=_is_deployed,
        ),
        Step(
            "service",
            service.VERSION,
            ServiceRecord,
            reads=lambda c: [c.record("deploy", DeploymentRecord).model_dump(), _load(c).model_dump()],
            run=lambda c, w: service.run(
                _load(c),
                deployment=c.record("deploy", DeploymentRecord),
                gpus_a_replica=c.spec.serve.engine.tensor_parallel_size,
                api=deploy.serve_api(w),
                work=w,
            ),
            wanted=lambda c: c.suite.service is not None,
        ),
        Step(
            "parity",
            parity.VERSION,
            ParityRecord,
            reads=lambda c: [
                c.data.artifact.digest,
                c.training.artifact.digest,
                c.record("deploy", DeploymentRecord).model_dump(),
                _parity(c).num_probes,
            ],
            run=lambda c, w: parity.run(
                _parity(c),
                data=c.data,
                base=c.start(len(c.spec.train_steps) - 1),
                training=c.training,
                merged=c.merged,
                compressed=c.candidate,
                deployment=c.record("deploy", DeploymentRecord),
                work=w,
            ),
            wanted=lambda c: c.suite.parity is not None,
        ),
        Step(
            "gate",
            gate.VERSION,
            GateRecord,
            reads=lambda c: [
                c.record("deploy", DeploymentRecord).model_dump(),
                gate.suite_digest(c.suite, c.tasks),
                [
                    c.record(stage, EvaluationRecord).evidence.digest if stage in c.records else None
                    for stage in _BESIDE
                ],
                _dumped(_contamination(c)),
                _dumped(c.found("parity", ParityRecord)),
                c.record("service", ServiceRecord).evidence.digest if "service" in c.records else None,
            ],
            run=_gate,
            stands=_is_answered,
        ),
    )


_BESIDE = ("baseline", "champion")


def _training_steps(index: int) -> tuple[Step, ...]:
    """The stages of one training run. The first has the sweep."""
    prepare_name, teacher_name, train_name = (numbered(stage, index) for stage in ("prepare", "teacher", "train"))
    sweep_step = Step(
        "sweep",
        sweep.VERSION,
        SweepRecord,
        reads=lambda c: [
            c.model.artifact.digest,
            c.data.artifact.digest,
            c.spec.sweep.model_dump(exclude={"max_concurrent_trials"}) if c.spec.sweep else None,
            c.spec.train_steps[0].model_dump(exclude={"learning_rate"} | WITHOUT_EFFECT),
            _digest_of(c.teacher(0)),
        ],
        run=_sweep,
        wanted=lambda c: c.spec.sweep is not None,
    )
    return (
        Step(
            prepare_name,
            prepare.VERSION,
            DatasetRecord,
            reads=lambda c: [
                c.model.artifact.digest,
                c.data_spec(index).model_dump(),
                data_digests(c.data_spec(index), c.root),
                c.spec.train_steps[index].max_length,
                c.spec.train_steps[index].objective.model_dump(),
                _ewc_digests(c.spec.train_steps[index], c.root),
                c.data.artifact.digest if index else None,
            ],
            run=lambda c, w: prepare.run(
                c.data_spec(index),
                train=c.spec.train_steps[index],
                model=c.model,
                work=w,
                sealed=c.data if index else None,
            ),
        ),
        Step(
            numbered("contamination", index),
            contamination.VERSION,
            ContaminationRecord,
            reads=lambda c: [
                c.record(prepare_name, DatasetRecord).artifact.digest,
                c.suite.contamination.model_dump(),
                [[task.name, task.digest] for task in c.tasks],
            ],
            run=lambda c, w: contamination.run(
                c.suite.contamination,
                tasks=c.tasks,
                data=c.record(prepare_name, DatasetRecord),
                model=c.model,
                work=w,
            ),
            wanted=lambda c: bool(c.suite.limits) and not _ignores(c.suite.contamination),
        ),
        Step(
            teacher_name,
            fetch.VERSION,
            ModelRecord,
            reads=lambda c: [_teacher(c, index).model_dump(), folder_fingerprint(_teacher(c, index), c.root)],
            run=lambda c, w: fetch.run(_teacher(c, index), work=w),
            wanted=lambda c: c.spec.train_steps[index].objective.distill is not None,
        ),
        *([] if index else [sweep_step]),
        Step(
            train_name,
            train.VERSION,
            TrainingRecord,
            reads=lambda c: [
                c.start(index).artifact.digest,
                c.record(prepare_name, DatasetRecord).artifact.digest,
                c.train_spec(index).model_dump(exclude=WITHOUT_EFFECT),
                _digest_of(c.teacher(index)),
                _digest_of(c.scorer(index)),
            ],
            run=lambda c, w: train.run(
                c.train_spec(index),
                model=c.start(index),
                data=c.record(prepare_name, DatasetRecord),
                work=w,
                teacher=c.teacher(index),
                scorer=c.scorer(index),
            ),
        ),
        Step(
            numbered("merge", index),
            merge.VERSION,
            ModelRecord,
            reads=lambda c: [c.start(index).artifact.digest, c.record(train_name, TrainingRecord).artifact.digest],
            run=lambda c, w: merge.run(c.record(train_name, TrainingRecord), base=c.start(index), work=w),
        ),
    )


def data_digests(data: DataSpec, root: Path) -> list[list[str]]:
    """Every data file of the spec with the SHA-256 of its bytes."""
    return _digests_of_files(data.patterns, root)


def _ewc_digests(train: TrainSpec, root: Path) -> list[list[str]]:
    return _digests_of_files(train.ewc.data, root) if train.ewc else []


def _digests_of_files(patterns: Sequence[str], root: Path) -> list[list[str]]:
    files = sorted({file for pattern in patterns for file in matching_files(pattern, root)})
    elsewhere = [mark for pattern in patterns if is_remote(pattern) for mark in remote.mark(pattern)]
    return [*([os.path.relpath(file, root), file_digest(file)] for file in files), *elsewhere]


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def run_id(spec: Spec, suite: SuiteSpec, root: Path) -> str:
    """The spec's name and six digits of what it says, its data and its suite: the same request is the same run."""
    tasks = evaluate.tasks_of(suite, root, None)
    data = [data_digests(one, root) for one in spec.all_data] + [_ewc_digests(one, root) for one in spec.train_steps]
    said = [spec.model_dump(mode="json"), data, gate.suite_digest(suite, tasks)]
    return f"{spec.name}-{digest_of(said)[:6]}"


def _teacher(context: Context, index: int) -> ModelSpec:
    distill = context.spec.train_steps[index].objective.distill
    assert distill is not None
    return distill.teacher


def _digest_of(model: ModelRecord | None) -> str | None:
    return model.artifact.digest if model else None


def _sweep(context: Context, work: Work) -> SweepRecord:
    assert context.spec.sweep is not None
    return sweep.run(
        context.spec.sweep,
        base=context.spec.train_steps[0],
        trial=partial(train.part, teacher=context.teacher(0)),
        model=context.model,
        data=context.data,
        work=work,
    )


def _baseline(context: Context, work: Work) -> EvaluationRecord:
    """The base model's answers."""
    return _evaluate_reference(context, context.model, context.spec.served_name, work)


def _champion(context: Context, work: Work) -> EvaluationRecord:
    """The champion's answers; it is asked in a slot of its own, for its users have the other."""
    assert context.champion is not None
    return _evaluate_reference(context, context.champion_model, context.champion.model_name, work)


def _evaluate_reference(context: Context, model: ModelRecord, name: str, work: Work) -> EvaluationRecord:
    """A model's answers, asked for in the slot `reference`. One that has answered everything before is not started."""
    engine = engine_fingerprint(context.spec.serve.engine, context.settings)
    known = evaluate.finished(model.artifact.digest, name, context.tasks, engine=engine, work=work)
    if known is not None:
        return known
    return baseline.run(
        deploy=partial(
            deploy.into, "reference", context.spec.serve, model_name=context.spec.served_name, model=model, work=work
        ),
        evaluate=partial(context.evaluate, model=model, work=work),
        api=deploy.serve_api(work),
    )


def _is_answered(_: Context, record: Record) -> bool:
    """Whether an evaluation got all its answers; one that did not is made again, and asks for those alone."""
    evaluation = record.candidate if isinstance(record, GateRecord) else record
    assert isinstance(evaluation, EvaluationRecord)
    return evaluation.num_errors == 0


def _dumped(record: Record | None) -> object:
    return record.model_dump(mode="json") if record else None


def _contamination(context: Context) -> ContaminationRecord | None:
    """What was found in the data of all training runs."""
    names = [numbered("contamination", index) for index in range(len(context.spec.train_steps))]
    found = [record for name in names if (record := context.found(name, ContaminationRecord))]
    return joined_contamination(found) if found else None


def _gate(context: Context, work: Work) -> GateRecord:
    """Counts the attempt, then evaluates."""
    from assay.reporting.document import newest_selftest, summary
    from assay.store.ledger import Ledger  # a plan without a ledger has no need of its library

    ledger = Ledger(context.settings.ledger_url)
    deployment = context.record("deploy", DeploymentRecord)
    base = context.found("baseline", EvaluationRecord)
    champion = context.found("champion" if context.champion else "baseline", EvaluationRecord)
    champion = champion if context.wants_champion else None
    attempt = begin_attempt(
        context.suite,
        context.tasks,
        artifact_digest=deployment.artifact_digest,
        engine=engine_fingerprint(context.spec.serve.engine, context.settings),
        run=run_id(context.spec, context.suite, context.root),
        ledger=ledger,
    )
    return gate.run(
        context.suite,
        suite_file=", ".join(context.spec.gate.suite),
        tasks=context.tasks,
        deployment=deployment,
        base=base,
        champion=champion,
        attempt=attempt,
        evaluate=partial(
            context.evaluate,
            model=context.candidate,
            work=work,
            stopping=stopping_of(context.suite, base, champion),
        ),
        contamination=_contamination(context),
        parity=context.found("parity", ParityRecord),
        service=context.found("service", ServiceRecord),
        selftest=summary(newest_selftest(gate.suite_digest(context.suite, context.tasks), ledger)),
        work=work,
    )


def stopping_of(
    suite: SuiteSpec, base: EvaluationRecord | None, champion: EvaluationRecord | None
) -> evaluate.Stopping | None:
    """When the candidate has answered enough; None where it is asked everything."""
    if not suite.stop_early:
        return None
    return evaluate.Stopping(
        suite,
        gate.read_evaluation(base) if base else None,
        gate.read_evaluation(champion) if champion else None,
        corrected_confidence(suite),
    )


def folder_fingerprint(model: ModelSpec, root: Path) -> object:
    """A local model folder has no revision: the names, sizes and times of its files stand for one."""
    if model.kind != "folder":
        return None
    folder = (root / model.source).expanduser()
    return sorted([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in folder.iterdir())


def _engine(context: Context) -> object:
    return [context.spec.serve.engine.model_dump(), context.spec.serve.replicas.model_dump()]


def _ignores(wanted: ContaminationSpec) -> bool:
    return wanted.exact == wanted.near == "ignore"


def _parity(context: Context) -> ParitySpec:
    assert context.suite.parity is not None
    return context.suite.parity


def _load(context: Context) -> LoadSpec:
    assert context.suite.service is not None
    return context.suite.service.load


def engine_fingerprint(engine: EngineSpec, settings: Settings) -> str:
    """The engine and its settings, as far as they bear on an answer; the number of replicas does not."""
    return digest_of([engine.model_dump(), ray_serve.engine_packages(settings.engine_python)])


def _is_deployed(context: Context, record: Record) -> bool:
    """Whether the slot still holds this very deployment."""
    assert isinstance(record, DeploymentRecord)
    settings = context.settings
    api = ray_serve.ServeApi(settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python)
    try:
        state = ray_serve.state(api, record.slot)
    except Exception:
        return False
    return (
        state is not None
        and state.is_running
        and state.deployed_at == record.deployed_at
        and bool(set(state.replicas) & set(record.replicas))
        and state.model_path == context.candidate.artifact.path
    )
