"""`prepare`: reads the data, splits it once, and tokenizes it as the objective needs it."""

import json
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from assay.engines import hf_data, ray_cluster, remote_data
from assay.engines.hf_data import Row
from assay.errors import UsageError
from assay.records.record import digest_of
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord
from assay.spec.data import DataSpec, HeldOut, is_remote
from assay.spec.examples import Example, Message, check_forms, read_sources
from assay.spec.objective import ClassifySpec, ObjectiveSpec
from assay.spec.spec import FORMATS
from assay.spec.train import TrainSpec
from assay.stages.work import Work

VERSION = 2


def run(
    data: DataSpec, *, train: TrainSpec, model: ModelRecord, work: Work, sealed: DatasetRecord | None = None
) -> DatasetRecord:
    """Writes the tokenized splits, and the gate's split as an lm-eval task. What asks a question of the gate's split
    in `sealed` is left out. Raises `InvalidInput` for broken lines and `UsageError` when nothing is left to train on,
    or the data are not of the form that the objective learns from."""
    work.say("reading the data")
    fetched = _fetched([*data.patterns, *(train.ewc.data if train.ewc else ())], work)
    splits = _Splits(data, train.objective, work.root, fetched, _sealed_questions(sealed))
    if not splits.train:
        raise UsageError("nothing is left to train on: every example is held out")
    folder = work.fresh_folder("dataset")
    work.say("tokenizing")
    parts = {"train": splits.train, "selection": splits.selection}
    if train.ewc is not None:
        kept = read_sources(train.ewc.data, "auto", data.system, work.root, fetched)
        parts["ewc"] = list(chain(*kept.values()))
        check_forms(parts["ewc"], FORMATS["sft"], "train.ewc.data")
    counts = ray_cluster.call(
        _write_all,
        Path(model.artifact.path),
        {name: _rows(examples, _objective_of(name, train), splits.labels) for name, examples in parts.items()},
        folder,
        train.max_length,
        train.objective.grpo is not None,
    )
    if not counts["train"].num_examples:
        raise UsageError(f"no example is within max_length {train.max_length} tokens")
    if splits.gate:
        _write_gate_task(splits.gate, folder / "heldout")
    records = {name: _record(name, examples, counts[name]) for name, examples in parts.items()}
    return DatasetRecord(
        artifact=work.store.put(folder, "dataset"),
        **records,
        gate=_record("heldout", splits.gate, None) if splits.gate else None,
        labels=splits.labels,
        num_dropped_too_long=sum(count.num_too_long for count in counts.values()),
        num_dropped_duplicates=splits.num_duplicates,
        num_dropped_in_gate=splits.num_in_gate,
        sources=splits.sources,
    )


Fetched = dict[str, list[Path]]
"""Local copies of the data that lie elsewhere, by their entry in the spec."""


def _fetched(patterns: Sequence[str], work: Work) -> Fetched:
    remote = [pattern for pattern in dict.fromkeys(patterns) if is_remote(pattern)]
    if remote:
        work.say("fetching the data")
    return {
        pattern: remote_data.fetch(pattern, work.fresh_folder(f"fetched-{number}"))
        for number, pattern in enumerate(remote)
    }


class _Splits:
    """The three splits. `train` leaves out what stands in selection or gate too, and is weighted by source."""

    def __init__(
        self, data: DataSpec, objective: ObjectiveSpec, root: Path, fetched: Fetched, sealed: frozenset[str]
    ) -> None:
        sources = read_sources(data.train, data.format, data.system, root, fetched)
        held = {
            name: list(chain(*read_sources(split.source, data.format, data.system, root, fetched).values()))
            for name, split in (("selection", data.selection), ("gate", data.gate))
            if isinstance(split, HeldOut)
        }
        for where, examples in [*sources.items(), *held.items()]:
            check_forms(examples, FORMATS[objective.name], where)
        pool = [(source, example) for source, examples in sources.items() for example in examples]
        everything = [example for _, example in pool] + [example for some in held.values() for example in some]
        self.labels = tuple(sorted({example.label for example in everything if isinstance(example.label, str)}))
        self.selection, self.gate = held.get("selection", []), held.get("gate", [])
        train = self._drawn(data, pool)
        if sealed:
            before = len(train) + len(self.selection)
            train = [(source, example) for source, example in train if question(example) not in sealed]
            self.selection = [example for example in self.selection if question(example) not in sealed]
            self.num_in_gate = before - len(train) - len(self.selection)
        else:
            self.num_in_gate = 0
        held_out = {_digest(example) for example in [*self.selection, *self.gate]}
        own = [(source, example) for source, example in train if _digest(example) not in held_out]
        self.num_duplicates = len(train) - len(own)
        weighted = [
            (source, example)
            for source, example in own
            for _ in range(_times(data.weights.get(source, 1.0), f"{data.split_seed}:{_digest(example)}"))
        ]
        self.train = [example for _, example in weighted]
        self.sources = {source: sum(one == source for one, _ in weighted) for source in sources}
        if objective.classify is not None and objective.classify.head == "text":
            ask = objective.classify
            self.train = [_verbalized(example, ask, self.labels) for example in self.train]
            self.selection = [_verbalized(example, ask, self.labels) for example in self.selection]
            self.gate = [_verbalized(example, ask, self.labels) for example in self.gate]

    def _drawn(self, data: DataSpec, pool: list[tuple[str, Example]]) -> list[tuple[str, Example]]:
        """What is left after the held-out shares, which are drawn by the digest of the example and the seed: adding
        a line moves no other line."""
        gate_share = data.gate if isinstance(data.gate, float) else 0.0
        selection_share = data.selection if isinstance(data.selection, float) else 0.0
        if gate_share + selection_share >= 1:
            raise UsageError("data.selection and data.gate together leave nothing to train on")
        left: list[tuple[str, Example]] = []
        for source, example in pool:
            draw = random.Random(f"{data.split_seed}:{_digest(example)}").random()
            if draw < gate_share:
                self.gate.append(example)
            elif draw < gate_share + selection_share:
                self.selection.append(example)
            else:
                left.append((source, example))
        return left


def question(example: Example) -> str:
    """What the user said last, without which case and white space."""
    asked = next((message.content for message in reversed(example.messages) if message.role == "user"), example.text)
    return " ".join(asked.lower().split())


def _sealed_questions(sealed: DatasetRecord | None) -> frozenset[str]:
    if sealed is None or sealed.gate is None:
        return frozenset()
    lines = (Path(sealed.artifact.path) / sealed.gate.file).read_text().splitlines()
    asked = [Example((Message("user", json.loads(line)["question"]),)) for line in lines]
    return frozenset(question(example) for example in asked)


def _times(weight: float, seed: str) -> int:
    """How often an example is shown: the weight's whole part, and once more with the chance that is left."""
    return int(weight) + (random.Random(f"weight:{seed}").random() < weight % 1)


def _verbalized(example: Example, classify: ClassifySpec, labels: Sequence[str]) -> Example:
    """A question whose answer is the label."""
    ask = classify.instruction or f"Which of these is it: {', '.join(labels)}?"
    *before, text = example.messages
    asked = Message("user", f"{ask}\n\n{text.content}")
    return Example((*before, asked, Message("assistant", str(example.label))))


def _objective_of(part: str, train: TrainSpec) -> ObjectiveSpec:
    """What `ewc` protects is read as chats, whatever the objective."""
    return ObjectiveSpec.model_validate("sft") if part == "ewc" else train.objective


def _rows(examples: Sequence[Example], objective: ObjectiveSpec, labels: Sequence[str]) -> list[Row]:
    """The examples as the tokenizer is given them."""
    if objective.pretrain is not None:
        return [Row(text=example.text) for example in examples]
    if objective.classify is not None and objective.classify.head == "linear":
        return [Row((_chat(example.messages),), label=labels.index(str(example.label))) for example in examples]
    if objective.kto is not None:
        others = [*examples[1:], *examples[:1]]  # another's answer, to see how far the model has moved in general
        return [
            Row(
                (_chat(example.messages), _chat((*example.messages[:-1], other.messages[-1]))),
                label=int(bool(example.label)),
            )
            for example, other in zip(examples, others, strict=True)
        ]
    return [
        Row((_chat(example.messages), *([_chat(example.rejected)] if example.rejected else []))) for example in examples
    ]


def _write_all(
    tokenizer: Path, splits: dict[str, list[Row]], folder: Path, max_length: int, as_prompts: bool
) -> dict[str, hf_data.SplitCounts]:
    if as_prompts:
        for name, rows in splits.items():
            hf_data.write_prompts(tokenizer, rows, folder / f"{name}.jsonl", max_length=max_length)
    return {
        name: hf_data.write_rows(tokenizer, rows, folder / f"{name}.safetensors", max_length=max_length)
        for name, rows in splits.items()
    }


def _write_gate_task(examples: Sequence[Example], folder: Path) -> None:
    """The held-out split as an lm-eval task: the last user turn is asked, the answer must match."""
    folder.mkdir()
    lines = []
    for example in examples:
        if not example.messages:
            raise UsageError("plain text asks nothing that a gate could weigh; take data.gate out")
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
        digest=digest_of([_data(example) for example in examples]),
        num_examples=counts.num_examples if counts else len(examples),
        num_tokens=counts.num_tokens if counts else 0,
        num_completion_tokens=counts.num_completion_tokens if counts else 0,
    )


def _digest(example: Example) -> str:
    return digest_of(_data(example))


def _data(example: Example) -> object:
    """The example as JSON data; a chat alone is the list of its messages."""
    chat = _chat(example.messages)
    if not (example.rejected or example.text or example.label is not None):
        return chat
    return [chat, _chat(example.rejected), example.label, example.text]


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
