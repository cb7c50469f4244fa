"""`prepare`: reads the data, splits it once, and tokenizes it with the model's own chat template."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from assay.engines import hf_data, ray_cluster
from assay.errors import UsageError
from assay.records.record import digest_of
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord
from assay.spec.data import DataSpec, HeldOut
from assay.spec.examples import Example, read_examples
from assay.spec.train import TrainSpec
from assay.stages.work import Work

VERSION = 1


def run(data: DataSpec, *, train: TrainSpec, model: ModelRecord, work: Work) -> DatasetRecord:
    """Writes the tokenized splits, and the gate's split as an lm-eval task. Raises `InvalidInput` for broken
    lines and `UsageError` when nothing is left to train on."""
    work.say("reading the data")
    splits = _split(data, work.root)
    dropped = len(splits.train) - len(splits.train_only)
    if not splits.train_only:
        raise UsageError("nothing is left to train on: every example is held out")
    folder = work.fresh_folder("dataset")
    work.say("tokenizing")
    counts = ray_cluster.call(
        _write_all,
        Path(model.artifact.path),
        {"train": _chats(splits.train_only), "selection": _chats(splits.selection)},
        folder,
        train.max_length,
    )
    if not counts["train"].num_examples:
        raise UsageError(f"no example is within max_length {train.max_length} tokens")
    if splits.gate:
        _write_gate_task(splits.gate, folder / "heldout")
    return DatasetRecord(
        artifact=work.store.put(folder, "dataset"),
        train=_record("train", splits.train_only, counts["train"]),
        selection=_record("selection", splits.selection, counts["selection"]),
        gate=_record("heldout", splits.gate, None) if splits.gate else None,
        num_dropped_too_long=sum(count.num_too_long for count in counts.values()),
        num_dropped_duplicates=dropped,
    )


class _Splits:
    """The three splits as chats. `train_only` leaves out what stands in selection or gate too."""

    def __init__(self, train: list[Example], selection: list[Example], gate: list[Example]) -> None:
        self.train, self.selection, self.gate = train, selection, gate
        held_out = {_digest(example) for example in [*selection, *gate]}
        self.train_only = [example for example in train if _digest(example) not in held_out]


def _split(data: DataSpec, root: Path) -> _Splits:
    """Shares are drawn by the digest of the example and the seed: adding a line moves no other line."""
    pool = read_examples(data.train, data.format, data.system, root)
    selection: list[Example] = []
    gate: list[Example] = []
    gate_share = data.gate if isinstance(data.gate, float) else 0.0
    selection_share = data.selection if isinstance(data.selection, float) else 0.0
    if gate_share + selection_share >= 1:
        raise UsageError("data.selection and data.gate together leave nothing to train on")
    train: list[Example] = []
    for example in pool:
        draw = random.Random(f"{data.split_seed}:{_digest(example)}").random()
        (gate if draw < gate_share else selection if draw < gate_share + selection_share else train).append(example)
    if isinstance(data.selection, HeldOut):
        selection = read_examples(data.selection.source, data.format, data.system, root)
    if isinstance(data.gate, HeldOut):
        gate = read_examples(data.gate.source, data.format, data.system, root)
    return _Splits(train, selection, gate)


def _write_all(
    tokenizer: Path, splits: dict[str, list[list[dict[str, str]]]], folder: Path, max_length: int
) -> dict[str, hf_data.SplitCounts]:
    return {
        name: hf_data.write_split(tokenizer, chats, folder / f"{name}.safetensors", max_length=max_length)
        for name, chats in splits.items()
    }


def _write_gate_task(examples: Sequence[Example], folder: Path) -> None:
    """The held-out split as an lm-eval task: the last user turn is asked, the answer must match."""
    folder.mkdir()
    lines = []
    for example in examples:
        *before, answer = example.messages
        question = "\n".join(message.content for message in before if message.role == "user")
        system = "\n".join(message.content for message in before if message.role == "system")
        lines.append(json.dumps({"question": question, "answer": answer.content, "system": system}))
    (folder / "heldout.jsonl").write_text("\n".join(lines) + "\n")
    system = next((m.content for m in examples[0].messages if m.role == "system"), "")
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": "heldout.jsonl"},
        "test_split": "train",
        "output_type": "generate_until",
        "description": system,
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 256, "do_sample": False, "temperature": 0.0},
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
                "ignore_punctuation": True,
            }
        ],
    }
    (folder / "heldout.yaml").write_text(json.dumps(task, indent=1))  # JSON is YAML


def _record(name: str, examples: Sequence[Example], counts: hf_data.SplitCounts | None) -> SplitRecord:
    return SplitRecord(
        file=f"{name}.safetensors" if counts else f"{name}/heldout.jsonl",
        digest=digest_of(_chats(examples)),
        num_examples=counts.num_examples if counts else len(examples),
        num_tokens=counts.num_tokens if counts else 0,
        num_completion_tokens=counts.num_completion_tokens if counts else 0,
    )


def _chats(examples: Sequence[Example]) -> list[list[dict[str, str]]]:
    return [[{"role": m.role, "content": m.content} for m in example.messages] for example in examples]


def _digest(example: Example) -> str:
    return digest_of(_chats([example])[0])
