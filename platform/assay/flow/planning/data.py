"""What there is to train on, counted where it is prepared, else estimated from the examples' characters."""

from pathlib import Path

from assay.engines.data.readers import Example, read_examples
from assay.engines.data.split_lengths import split_lengths
from assay.errors import AssayError
from assay.flow.pipeline.context import RunContext, numbered
from assay.loader.globs import matching_files
from assay.records.plan import DataPlan
from assay.records.stages import DatasetRecord
from assay.rules.planning.workload import Passage, estimated_data
from assay.spec.data import DataSpec, HeldOut

MOST_BYTES_READ = 32 * 2**20
"""Data of more bytes is not read for a plan."""


def data_plans(context: RunContext, notes: list[str]) -> list[DataPlan | None]:
    """The training split of each training run; None where nothing can be said, and then `notes` says why."""
    return [_data(context, index, notes) for index in range(len(context.spec.train_steps))]


def _data(context: RunContext, index: int, notes: list[str]) -> DataPlan | None:
    prepared = context.records.get(numbered("prepare", index))
    if isinstance(prepared, DatasetRecord):
        try:
            counted = split_lengths(Path(prepared.artifact.path) / prepared.train.file)
        except (OSError, ValueError, KeyError):
            notes.append("the prepared data cannot be read; its tokens are estimated")
        else:
            num_gate = prepared.gate.num_examples if prepared.gate else None
            return DataPlan.model_validate({**counted.model_dump(), "num_gate": num_gate})
    return _estimated(context.data_spec(index), context.spec.train_steps[index].max_length, context.root, notes)


def _estimated(data: DataSpec, max_length: int, root: Path, notes: list[str]) -> DataPlan | None:
    files = [file for pattern in data.train for file in matching_files(pattern, root)]
    if sum(file.stat().st_size for file in files) > MOST_BYTES_READ:
        notes.append(f"data of more than {MOST_BYTES_READ >> 20} MiB are not counted before they are prepared")
        return None
    try:
        examples = read_examples(data.train, data.format, data.system, root)
        held = data.gate
        num_gate = len(read_examples(held.source, data.format, None, root)) if isinstance(held, HeldOut) else None
    except AssayError as error:
        notes.append(f"the data cannot be read: {str(error).splitlines()[0]}; `assay validate` says more")
        return None
    return estimated_data([_passages(one) for one in examples], data, num_gate, max_length=max_length)


def _passages(example: Example) -> list[Passage]:
    """Every text of an example; of a pair the last answers alone bear loss."""
    found = [Passage(len(text), bears_loss=True) for text in (example.text,) if text]
    found += [Passage(len(m.content), bears_loss=m.role == "assistant") for m in (*example.messages, *example.rejected)]
    return [*found, Passage(len(example.label), bears_loss=True)] if isinstance(example.label, str) else found
