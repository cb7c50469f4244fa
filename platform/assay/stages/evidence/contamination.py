"""`contamination`: the suite's items are looked for in the training data, before anything is
trained on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.engines.cluster import tasks as ray_cluster
from assay.engines.data import contamination
from assay.engines.data.contamination import SampleText
from assay.engines.evaluation import lm_tasks
from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import UsageError
from assay.records.gate import ContaminationRecord
from assay.records.inputs import StageInputs, only
from assay.records.stages import DatasetRecord, ModelRecord
from assay.spec.suite.measured import ContaminationSpec
from assay.stages.context import Work

VERSION = 2
NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What is looked for, and where."""

    data: DatasetRecord
    contamination: ContaminationSpec
    tasks: tuple[TaskFile, ...]
    model: ModelRecord = only()
    """Whose tokenizer the data were prepared with."""


Output = ContaminationRecord


def run(inputs: Inputs, work: Work) -> ContaminationRecord:
    """Compares every item of the tasks with every training text. Raises `UsageError` where an item
    stands in the training data and the suite does not allow it: to train first would be for
    nothing."""
    wanted, tasks, data, model = inputs.contamination, inputs.tasks, inputs.data, inputs.model
    work.say("looking for the suite's items in the training data")
    found, num_items = ray_cluster.call(
        _search,
        list(tasks),
        Path(model.artifact.path),
        Path(data.artifact.path) / data.train.file,
        wanted,
    )
    record = ContaminationRecord(
        train_digest=data.train.digest,
        task_digests={task.name: task.digest for task in tasks},
        num_items=num_items,
        num_examples=found.num_texts,
        exact=found.exact if wanted.exact != "ignore" else (),
        near=found.near if wanted.near != "ignore" else (),
        ngram=wanted.ngram,
        similarity=wanted.similarity,
    )
    if wanted.exact == "fail" and record.exact:
        raise UsageError(_told(record))
    return record


def _search(
    tasks: Sequence[TaskFile], tokenizer: Path, split: Path, wanted: ContaminationSpec
) -> tuple[contamination.Found, int]:
    items = []
    for task in tasks:
        for question, answer in lm_tasks.documents(task):
            items.append(SampleText(task.name, question, answer))
    return contamination.search(tokenizer, split, items, wanted, in_parallel=True), len(items)


def _told(record: ContaminationRecord) -> str:
    lines = [f"  {hit.task}: {hit.item[:120]}" for hit in record.exact[:NUM_SHOWN]]
    more = len(record.exact) - NUM_SHOWN
    if more > 0:
        lines.append(f"  and {more} more")
    return (
        f"{len(record.exact)} of the suite's {record.num_items} items stand word for word in the "
        "training data, so "
        "their answers would prove nothing. Take them out of the one or the other (`contamination: "
        "{exact: list}` in "
        "the suite only lists them):\n" + "\n".join(lines)
    )
