"""`prepare`: reads the data, splits it, and tokenizes it as the objective needs it. It goes block by block, and reads
the data twice, so that what is held in memory does not grow with them."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.data import remote as remote_data
from assay.engines.data import tokenize
from assay.engines.data.chat_masks import split_reasoning
from assay.engines.data.readers import Example, Message, check_forms, stream_sources
from assay.engines.data.tokenize import Row, SplitWriter, TokenizedRows
from assay.engines.deployment.chat_settings import chat_settings
from assay.errors import UsageError
from assay.records.inputs import StageInputs, only
from assay.records.record import canonical_json, digest_of
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord
from assay.spec.data import DataSpec, HeldOut, is_remote
from assay.spec.metrics import fitting_metric, num_words
from assay.spec.objective import ClassifySpec, ObjectiveSpec
from assay.spec.serve import EngineSpec
from assay.spec.spec import FORMATS
from assay.spec.train import TrainSpec
from assay.stages.context import Work

VERSION = 4

FEWEST_ANSWER_TOKENS, MOST_ANSWER_TOKENS = 256, 1024
"""Longest answer of the task `heldout`; the engine's default context has 2,048. A suite's `max_gen_toks` overrules."""

BLOCK_ROWS, BLOCK_CHARACTERS = 2000, 4_000_000
"""Whichever comes first ends a block that is tokenized at once."""
BLOCKS_PER_WORD = 25
"""How often it is told how far it is."""


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the prepared data depend on."""

    model: ModelRecord
    data: DataSpec
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each data file, or what stands for it elsewhere, by path."""
    train: TrainSpec = only("max_length", "objective")
    ewc_files: Mapping[str, str] = field(default_factory=dict)
    sealed: DatasetRecord | None = None
    """Prepared data whose sealed split must not be trained on here either."""


Output = DatasetRecord


def run(inputs: Inputs, work: Work) -> DatasetRecord:
    """Writes the tokenized splits, and the gate's split as an lm-eval task. What asks a question of the gate's split
    in `sealed` is left out. Raises `InvalidInput` for broken lines and `UsageError` when nothing is left to train on,
    or the data are not of the form that the objective learns from."""
    data, train, model, sealed = inputs.data, inputs.train, inputs.model, inputs.sealed
    work.say("reading the data")
    fetched = _fetched([*data.patterns, *(train.ewc.data if train.ewc else ())], work)
    splits = Splits(data, train.objective, work.root, fetched, _sealed_questions(sealed))
    examples = chain(splits.examples(), _protected(data, train, work.root, fetched))
    folder = work.fresh_folder("dataset")
    work.say("tokenizing")
    names = ("train", "selection", *(("ewc",) if train.ewc else ()))
    parts = {name: Part(_objective_of(name, train), splits.labels) for name in names}
    writers = {name: SplitWriter(folder / f"{name}.safetensors") for name in names}
    gate, as_prompts = GateTask(folder / "heldout"), train.objective.grpo is not None
    prompts = {name: folder / f"{name}.jsonl" for name in names if as_prompts}
    for file in prompts.values():
        file.touch()
    calls = (
        (name, Path(model.artifact.path), rows, train.max_length, as_prompts)
        for name, rows in _blocks(examples, parts, gate)
    )
    for number, (name, rows, lines) in enumerate(tasks.map_in_order(_tokenized, calls), start=1):
        writers[name].add(rows)
        if as_prompts:
            _append(prompts[name], lines)
        if number % BLOCKS_PER_WORD == 0:
            work.say(f"tokenizing: {writers['train'].num_examples} examples so far, of some {splits.num_examples}")
    if not parts["train"].has_reasoning and chat_settings(Path(model.artifact.path), EngineSpec()).reasons:
        work.say("the model reasons before it answers, and the data have no reasoning: it learns the answers alone")
    counts = {name: writer.close() for name, writer in writers.items()}
    sealed_split = gate.close()
    if not parts["train"].digest.num_items:
        raise UsageError("nothing is left to train on: every example is held out")
    if not counts["train"].num_examples:
        raise UsageError(f"no example is within max_length {train.max_length} tokens")
    return DatasetRecord(
        artifact=work.store.put(folder, "dataset"),
        **{name: _record(name, parts[name], counts[name]) for name in names},
        gate=sealed_split,
        labels=splits.labels,
        num_dropped_too_long=sum(count.num_too_long for count in counts.values()),
        num_dropped_duplicates=splits.num_duplicates,
        num_dropped_in_gate=splits.num_in_gate,
        sources=dict(splits.sources),
    )


Fetched = Mapping[str, list[Path]]
"""Local copies of the data that lie elsewhere, by their entry in the spec."""


def _fetched(patterns: Sequence[str], work: Work) -> Fetched:
    remote = [pattern for pattern in dict.fromkeys(patterns) if is_remote(pattern)]
    if remote:
        work.say("fetching the data")
    return {
        pattern: remote_data.fetch(pattern, work.fresh_folder(f"fetched-{number}"))
        for number, pattern in enumerate(remote)
    }


class Splits:
    """The three splits, as a stream. `train` leaves out what stands in selection or gate too, and is weighted by
    source. The held-out shares are drawn by the digest of the example and the seed: adding a line moves no other
    line, and equal examples are never parted."""

    def __init__(
        self, data: DataSpec, objective: ObjectiveSpec, root: Path, fetched: Fetched, sealed: frozenset[str]
    ) -> None:
        """Reads everything once: for its mistakes, its classes, and what has files of its own to be held out."""
        self.data, self.objective, self.root, self.fetched, self.sealed = data, objective, root, fetched, sealed
        if _share(data.gate) + _share(data.selection) >= 1:
            raise UsageError("data.selection and data.gate together leave nothing to train on")
        self.files = {
            name: split.source
            for name, split in (("selection", data.selection), ("gate", data.gate))
            if isinstance(split, HeldOut)
        }
        self.num_examples = self.num_duplicates = self.num_in_gate = 0
        self.sources = Counter(dict.fromkeys(data.train, 0))
        """Training examples of each entry, weights applied; complete when `examples` has come to its end."""
        self._classes: set[str] = set()
        self._held_out: set[bytes] = set()
        for name, source in (("train", data.train), *self.files.items()):
            check_forms(self._surveyed(name, source), FORMATS[objective.name], ", ".join(source))
        self.labels = tuple(sorted(self._classes))

    def examples(self) -> Iterator[tuple[str, Example]]:
        """Every example that is not dropped, with its split's name, as often as it is shown."""
        for source, example in self._read(self.data.train):
            digest = _digest(example)
            split = self._drawn(digest)
            if split != "gate" and self._is_sealed(example):
                self.num_in_gate += 1
            elif split != "train":
                yield split, self._worded(example)
            elif bytes.fromhex(digest) in self._held_out:
                self.num_duplicates += 1
            else:
                times = _times(self.data.weights.get(source, 1.0), f"{self.data.split_seed}:{digest}")
                self.sources[source] += times
                for _ in range(times):
                    yield split, self._worded(example)
        for split, files in self.files.items():
            for _, example in self._read(files):
                if split != "gate" and self._is_sealed(example):
                    self.num_in_gate += 1
                else:
                    yield split, self._worded(example)

    def _read(self, source: Sequence[str]) -> Iterator[tuple[str, Example]]:
        return stream_sources(source, self.data.format, self.data.system, self.root, self.fetched)

    def _surveyed(self, split: str, source: Sequence[str]) -> Iterator[Example]:
        for _, example in self._read(source):
            if isinstance(example.label, str):
                self._classes.add(example.label)
            if split == "train":
                self.num_examples += 1
            elif split == "gate" or not self._is_sealed(example):
                self._held_out.add(bytes.fromhex(_digest(example)))
            yield example

    def _drawn(self, digest: str) -> str:
        draw = random.Random(f"{self.data.split_seed}:{digest}").random()
        gate, selection = _share(self.data.gate), _share(self.data.selection)
        return "gate" if draw < gate else "selection" if draw < gate + selection else "train"

    def _is_sealed(self, example: Example) -> bool:
        return bool(self.sealed) and question(example) in self.sealed

    def _worded(self, example: Example) -> Example:
        """A classifier that answers in words is asked."""
        classify = self.objective.classify
        return _verbalized(example, classify, self.labels) if classify and classify.head == "text" else example


def _share(split: float | HeldOut | None) -> float:
    """0 where nothing is drawn."""
    return split if isinstance(split, float) else 0.0


def _protected(data: DataSpec, train: TrainSpec, root: Path, fetched: Fetched) -> Iterator[tuple[str, Example]]:
    """What `train.ewc` protects."""
    if train.ewc is None:
        return

    def read() -> Iterator[tuple[str, Example]]:
        return stream_sources(source, "auto", data.system, root, fetched)

    source = train.ewc.data
    check_forms((example for _, example in read()), FORMATS["sft"], "train.ewc.data")
    yield from (("ewc", example) for _, example in read())


class ListDigest:
    """`digest_of` a list of examples that nobody holds."""

    def __init__(self) -> None:
        self.num_items = 0
        self._sha256 = hashlib.sha256(b"[")

    def add(self, example: Example) -> None:
        """Adds an example to the end."""
        self._sha256.update((b"," if self.num_items else b"") + canonical_json(_data(example)).encode())
        self.num_items += 1

    def hex(self) -> str:
        """SHA-256 of the canonical JSON of all."""
        whole = self._sha256.copy()
        whole.update(b"]")
        return whole.hexdigest()


class Part:
    """One split on its way to the tokenizer, a block of rows at a time."""

    def __init__(self, objective: ObjectiveSpec, labels: Sequence[str]) -> None:
        self.objective, self.labels = objective, labels
        self.digest = ListDigest()
        self._first: Example | None = None
        self._last: Example | None = None
        self._rows: list[Row] = []
        self._num_characters = 0
        self.has_reasoning = False
        """Whether any answer of the examples has reasoning before it."""

    def add(self, example: Example) -> list[Row]:
        """Takes an example; returns a block when one is full, else nothing."""
        self.digest.add(example)
        if self.objective.kto is None:
            self._put(_row(example, self.objective, self.labels))
        else:
            self._first = self._first or example
            if self._last is not None:
                self._put(_kto_row(self._last, example))
            self._last = example
        is_full = len(self._rows) >= BLOCK_ROWS or self._num_characters >= BLOCK_CHARACTERS
        return self._take() if is_full else []

    def rest(self) -> list[Row]:
        """The last block."""
        if self._first is not None and self._last is not None:
            self._put(_kto_row(self._last, self._first))
        return self._take()

    def _put(self, row: Row) -> None:
        self._rows.append(row)
        self.has_reasoning |= any("</think>" in chat[-1]["content"] for chat in row.chats)
        self._num_characters += len(row.text) + sum(len(turn["content"]) for chat in row.chats for turn in chat)

    def _take(self) -> list[Row]:
        rows, self._rows, self._num_characters = self._rows, [], 0
        return rows


def _blocks(
    examples: Iterable[tuple[str, Example]], parts: Mapping[str, Part], gate: "GateTask"
) -> Iterator[tuple[str, list[Row]]]:
    """Rows to tokenize, with their split's name. What is sealed goes to the gate's task."""
    for split, example in examples:
        if split == "gate":
            gate.add(example)
        elif rows := parts[split].add(example):
            yield split, rows
    for split, part in parts.items():
        if rows := part.rest():
            yield split, rows


def _tokenized(
    split: str, tokenizer: Path, rows: Sequence[Row], max_length: int, as_prompts: bool
) -> tuple[str, TokenizedRows, str]:
    prompts = tokenize.prompts_of(tokenizer, rows, max_length) if as_prompts else ""
    return split, tokenize.tokenize_rows(tokenizer, rows, max_length), prompts


def question(example: Example) -> str:
    """What the user said last, without which case and white space."""
    asked = next((message.content for message in reversed(example.messages) if message.role == "user"), example.text)
    return " ".join(asked.lower().split())


def _sealed_questions(sealed: DatasetRecord | None) -> frozenset[str]:
    if sealed is None or sealed.gate is None:
        return frozenset()
    lines = (Path(sealed.artifact.path) / sealed.gate.file).read_text().splitlines()
    chats = (json.loads(line)["messages"] for line in lines)
    return frozenset(question(Example(tuple(Message(**message) for message in chat))) for chat in chats)


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


def _row(example: Example, objective: ObjectiveSpec, labels: Sequence[str]) -> Row:
    """The example as the tokenizer is given it."""
    if objective.pretrain is not None:
        return Row(text=example.text)
    if objective.classify is not None and objective.classify.head == "linear":
        chat, label = _chat(example.messages), labels.index(str(example.label))
        return Row((chat,), label=label, is_classified=True)
    return Row((_chat(example.messages), *([_chat(example.rejected)] if example.rejected else [])))


def _kto_row(example: Example, other: Example) -> Row:
    """Beside the example another's answer, to see how far the model has moved in general."""
    mixed = (*example.messages[:-1], other.messages[-1])
    return Row((_chat(example.messages), _chat(mixed)), label=int(bool(example.label)))


class GateTask:
    """The held-out split as an lm-eval task: the last answer of each chat is asked for, with all of the chat before it,
    until the model ends its turn. `auto` in the suite's limits is the metric that fits these answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = ListDigest()
        self._lines: list[str] = []
        self._lengths: Counter[int] = Counter()
        """Answers by their number of words."""
        self._longest_bytes = 0

    def add(self, example: Example) -> None:
        """Writes one item. What is classified is answered by its label."""
        if example.label is not None and example.messages and example.messages[-1].role == "user":
            answered = (*example.messages, Message("assistant", str(example.label)))
            example = example._replace(messages=answered)
        if not example.messages:
            raise UsageError("plain text asks nothing that a gate could evaluate; take data.gate out")
        if not self.digest.num_items:
            self.folder.mkdir()
        *before, answer = example.messages
        # What is shown, and looked for in the training data: with the chat around it, or every "thank you" would be
        # found there.
        asked = "\n".join(message.content for message in before if message.role != "system")
        said = split_reasoning(answer.content)[1]
        item = {"question": asked, "answer": said, "messages": _chat(before)}
        self.digest.add(example)
        self._lengths[num_words(said)] += 1
        self._longest_bytes = max(self._longest_bytes, len(said.encode()))
        self._lines.append(json.dumps(item) + "\n")
        if len(self._lines) >= BLOCK_ROWS:
            self._write()

    def close(self) -> SplitRecord | None:
        """Writes the task itself; None when there are no items."""
        if not self.digest.num_items:
            return None
        self._write()
        automatic, note = fitting_metric(self._lengths)
        task = {
            "metadata": {"turns": "messages", "auto": automatic, "auto_note": note},
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": "heldout.jsonl"},
            "test_split": "train",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {
                "until": [],
                "max_gen_toks": _room_for(self._longest_bytes),
                "do_sample": False,
                "temperature": 0.0,
            },
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
        (self.folder / "heldout.yaml").write_text(json.dumps(task, indent=1))  # JSON is YAML
        return SplitRecord(
            file="heldout/heldout.jsonl",
            digest=self.digest.hex(),
            num_examples=self.digest.num_items,
            num_tokens=0,
            num_completion_tokens=0,
        )

    def _write(self) -> None:
        _append(self.folder / "heldout.jsonl", "".join(self._lines))
        self._lines.clear()


def _room_for(num_bytes: int) -> int:
    """Tokens for an answer twice as long as the longest of the data, at four bytes to a token, in whole steps: a power
    of two, so that one longer answer does not change the task."""
    tokens = FEWEST_ANSWER_TOKENS
    while tokens < min(num_bytes / 2, MOST_ANSWER_TOKENS):
        tokens *= 2
    return tokens


def _append(file: Path, text: str) -> None:
    with file.open("a") as lines:
        lines.write(text)


def _record(name: str, part: Part, counts: tokenize.SplitCounts) -> SplitRecord:
    return SplitRecord(
        file=f"{name}.safetensors",
        digest=part.digest.hex(),
        num_examples=counts.num_examples,
        num_tokens=counts.num_tokens,
        num_completion_tokens=counts.num_completion_tokens,
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
