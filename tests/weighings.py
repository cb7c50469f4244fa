"""A place with weighings of models that never were: the answers are made up, everything after them is real."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.engines.evaluation.harness import TaskFile
from assay.records.evaluation import Subject, WeighingRequest
from assay.records.gate import GateRecord, Item, TaskResult, Weighing, WeighingRecord
from assay.records.record import digest_of
from assay.records.stages import DeploymentRecord
from assay.settings import Place
from assay.spec.gate import SuiteSpec
from assay.stages import gate
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger


def items(
    rights: Sequence[float], *, metric: str = "exact_match", cluster_size: int = 1, said: str = "", asked: str = ""
) -> tuple[Item, ...]:
    """One item for each score; so many neighbours as `cluster_size` says belong together."""
    return tuple(
        Item(
            id=digest_of(["item", number]),
            prompt=f"question {number}? {asked}",
            target="yes",
            response=said or ("yes" if right else "no"),
            scores={metric: right, "abstained": 0.0},
            cluster=str(number // cluster_size) if cluster_size > 1 else None,
        )
        for number, right in enumerate(rights)
    )


def weighing(model: str, tasks: Mapping[str, Sequence[Item]]) -> Weighing:
    """A model's answers to some tasks."""
    results = tuple(TaskResult(task=name, digest=digest_of(name), items=tuple(found)) for name, found in tasks.items())
    return Weighing(artifact_digest=digest_of(model), model_name=model, tasks=results, seconds=2.0)


def decide(suite: SuiteSpec, candidate: Weighing, base: Weighing | None, place: Place) -> GateRecord:
    """The gate's decision on these answers, with its evidence in the place's store."""
    work = Work(place, place.home / "work", place.home / "work" / "progress.jsonl", place.home)
    return gate.run(
        suite,
        suite_file="evals/facts.yaml",
        tasks=[TaskFile(result.task, "", result.digest) for result in candidate.tasks],
        deployment=DeploymentRecord(
            slot="reference",
            model_name=candidate.model_name,
            artifact_digest=candidate.artifact_digest,
            url="http://127.0.0.1:8000/reference/v1",
            deployed_at=1_700_000_000.0,
            replicas=("reference#1",),
        ),
        base=_keep(base, place) if base else None,
        weigh=lambda _: _keep(candidate, place),
        work=work,
    )


def write(name: str, decided: GateRecord, place: Place) -> None:
    """Puts a decision into the place's ledger, as a weighing without a run."""
    ledger = Ledger(place.ledger_url)
    request = WeighingRequest(
        candidate=Subject(source="/models/facts"), base=None, suite=("evals/facts.yaml",), engine={}
    )
    ledger.open_run(name, name="(gate run)", spec=request.model_dump_json(), started_by="anna")
    ledger.finish_stage(ledger.begin_stage(name, "gate", digest_of(["gate", name])), decided)


def place_in(folder: Path) -> Place:
    """A place of its own, with nothing running."""
    return Place(home=folder, ledger_url=f"sqlite:///{folder / 'ledger.db'}")


def _keep(weighed: Weighing, place: Place) -> WeighingRecord:
    folder = place.home / "made"
    folder.mkdir(parents=True)
    (folder / "weighing.json").write_text(weighed.model_dump_json())
    return WeighingRecord(
        evidence=ArtifactStore(place.home / "artifacts").put(folder, "evidence"),
        artifact_digest=weighed.artifact_digest,
        num_items=sum(len(task.items) for task in weighed.tasks),
        seconds=weighed.seconds,
    )
