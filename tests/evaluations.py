"""A place with evaluations of models that never were: the answers are made up, everything after
them is real."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.engines.evaluation.lm_tasks import TaskFile
from assay.records.evaluations.evaluation import EvaluationRequest, ModelRef
from assay.records.evaluations.judge import JudgeAgreement
from assay.records.gate import Evaluation, EvaluationRecord, GateRecord, Sample, TaskResult
from assay.records.record import digest_of
from assay.records.stages import DeploymentRecord
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.stages import gate
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger


def items(
    rights: Sequence[float],
    *,
    metric: str = "exact_match",
    cluster_size: int = 1,
    said: str = "",
    asked: str = "",
) -> tuple[Sample, ...]:
    """One item for each score; so many neighbours as `cluster_size` says belong together."""
    return tuple(
        Sample(
            id=digest_of(["item", number]),
            prompt=f"question {number}? {asked}",
            target="yes",
            response=said or ("yes" if right else "no"),
            scores={metric: right, "abstained": 0.0},
            cluster=str(number // cluster_size) if cluster_size > 1 else None,
        )
        for number, right in enumerate(rights)
    )


def evaluation(model: str, tasks: Mapping[str, Sequence[Sample]]) -> Evaluation:
    """A model's answers to some tasks."""
    results = tuple(
        TaskResult(task=name, digest=digest_of(name), items=tuple(found))
        for name, found in tasks.items()
    )
    return Evaluation(
        artifact_digest=digest_of(model), model_name=model, tasks=results, seconds=2.0
    )


def decide(
    suite: SuiteSpec,
    candidate: Evaluation,
    base: Evaluation | None,
    settings: Settings,
    judge: JudgeAgreement | None = None,
) -> GateRecord:
    """The gate's decision on these answers, with its evidence in the place's store."""
    work = Work(
        settings, settings.home / "work", settings.home / "work" / "progress.jsonl", settings.home
    )
    inputs = gate.Inputs(
        suite=suite,
        suite_file="evals/facts.yaml",
        tasks=tuple(TaskFile(result.task, "", result.digest) for result in candidate.tasks),
        deployment=DeploymentRecord(
            slot="reference",
            model_name=candidate.model_name,
            artifact_digest=candidate.artifact_digest,
            url="http://127.0.0.1:8000/reference/v1",
            deployed_at=1_700_000_000.0,
            replicas=("reference#1",),
        ),
        base=_keep(base, settings) if base else None,
        judge=judge,
    )
    return gate.run(inputs, work, evaluate=lambda _: _keep(candidate, settings))


def write(name: str, decided: GateRecord, settings: Settings) -> None:
    """Puts a decision into the place's ledger, as an evaluation without a run."""
    ledger = Ledger(settings.ledger_url)
    request = EvaluationRequest(
        candidate=ModelRef(source="/models/facts"),
        base=None,
        suite=("evals/facts.yaml",),
        engine={},
    )
    ledger.open_run(name, name="(gate run)", spec=request.model_dump_json(), started_by="anna")
    ledger.finish_stage(ledger.begin_stage(name, "gate", digest_of(["gate", name])), decided)


def settings_in(folder: Path) -> Settings:
    """A place of its own, with nothing running."""
    return Settings(home=folder, ledger_url=f"sqlite:///{folder / 'ledger.db'}")


def _keep(evaluated: Evaluation, settings: Settings) -> EvaluationRecord:
    folder = settings.home / "made"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(evaluated.model_dump_json())
    return EvaluationRecord(
        evidence=ArtifactStore(settings.home / "artifacts").put(folder, "evidence"),
        artifact_digest=evaluated.artifact_digest,
        num_items=sum(len(task.items) for task in evaluated.tasks),
        seconds=evaluated.seconds,
    )
