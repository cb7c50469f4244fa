"""What there is to train on, counted where it is prepared, else estimated from the examples'
characters."""

import json
from collections import Counter
from pathlib import Path

from assay.engines.data.learned_rows import worded
from assay.engines.data.reading.examples import Example
from assay.engines.data.reading.sources import read_examples
from assay.engines.data.split_lengths import split_lengths
from assay.errors import AssayError
from assay.flow.pipeline.context import RunContext, numbered
from assay.loader.named.globs import matching_files
from assay.records.plan import DataPlan
from assay.records.stages import DatasetRecord
from assay.rules.planning.tokens import estimated_tokens
from assay.rules.planning.workload import SYSTEM_TOKENS, Passage, estimated_data
from assay.spec.data import DataSpec, HeldOut
from assay.spec.train import TrainSpec
from assay.spec.values.metrics import fitting_metric, num_words

# Data of more bytes is not read for a plan.
MOST_BYTES_READ = 32 * 2**20


def data_plans(
    context: RunContext, vocab_size: int | None, notes: list[str]
) -> list[DataPlan | None]:
    """The training split of each training run; None where nothing can be said, and then `notes`
    says why. What is estimated is so for a vocabulary of this size."""
    plans = []
    for index in range(len(context.spec.train_steps)):
        plans.append(_data(context, index, vocab_size, notes))
    return plans


def _data(
    context: RunContext, index: int, vocab_size: int | None, notes: list[str]
) -> DataPlan | None:
    prepared = context.records.get(numbered("prepare", index))
    if isinstance(prepared, DatasetRecord):
        try:
            counted = split_lengths(Path(prepared.artifact.path) / prepared.train.file)
        except (OSError, ValueError, KeyError):
            notes.append("the prepared data cannot be read; its tokens are estimated")
        else:
            num_gate = prepared.gate.num_examples if prepared.gate else None
            said = {"num_gate": num_gate, "gate_metric": _prepared_metric(prepared)}
            return DataPlan.model_validate({**counted.model_dump(), **said})
    return _estimated(
        context.data_spec(index), context.spec.train_steps[index], vocab_size, context.root, notes
    )


def _estimated(
    data: DataSpec, train: TrainSpec, vocab_size: int | None, root: Path, notes: list[str]
) -> DataPlan | None:
    num_bytes = 0
    for pattern in data.train:
        num_bytes += sum(file.stat().st_size for file in matching_files(pattern, root))
    if num_bytes > MOST_BYTES_READ:
        notes.append(
            f"data of more than {MOST_BYTES_READ >> 20} MiB are not counted before they are "
            "prepared"
        )
        return None
    try:
        examples = read_examples(data.train, data.format, data.system, root)
        if isinstance(data.gate, HeldOut):
            held = read_examples(data.gate.source, data.format, None, root)
        else:
            held = None
    except AssayError as error:
        notes.append(
            f"the data cannot be read: {str(error).splitlines()[0]}; `assay validate` says more"
        )
        return None
    if data.steps:
        notes.append("the data are counted as they are before data.steps")
    labels = sorted({one.label for one in examples if isinstance(one.label, str)})
    passages = []
    for one in examples:
        passages.append(_passages(worded(one, train.objective, labels), vocab_size))
    num_gate = None if held is None else len(held)
    found = estimated_data(passages, data, num_gate, max_length=train.max_length)
    asked = examples if held is None else held
    lengths = Counter(num_words(_answer(one)) for one in asked if not one.text)
    metric = fitting_metric(lengths)[0] if lengths else ""
    return DataPlan.model_validate({**found.model_dump(), "gate_metric": metric})


def _answer(example: Example) -> str:
    if isinstance(example.label, str):
        return example.label
    return example.messages[-1].content


def _prepared_metric(prepared: DatasetRecord) -> str:
    """What the sealed task says that `auto` is."""
    if prepared.gate is None:
        return ""
    try:
        task = json.loads(
            (Path(prepared.artifact.path) / prepared.gate.file).with_suffix(".yaml").read_text()
        )
    except (OSError, ValueError):
        return ""
    return str(task.get("metadata", {}).get("auto", ""))


def _passages(example: Example, vocab_size: int | None) -> list[Passage]:
    """Every text of an example; of a pair the last answers alone bear loss."""
    texts = [(example.text, True)] if example.text else []
    passages = []
    for chat in (example.messages, example.rejected):
        if chat and chat[0].role != "system":  # the template may bring one of its own
            passages.append(Passage(SYSTEM_TOKENS, bears_loss=False))
    for turn in (*example.messages, *example.rejected):
        texts.append((turn.content, turn.role == "assistant"))
    if isinstance(example.label, str):
        texts.append((example.label, True))
    for text, bears_loss in texts:
        passages.append(Passage(estimated_tokens(text, vocab_size), bears_loss))
    return passages
