"""`prepare`: reads the data, splits it, and tokenizes it as the objective needs it. It goes block
by block, and reads the data twice, so that what is held in memory does not grow with them."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.data import remote as remote_data
from assay.engines.data import tokenize
from assay.engines.data.chats.tokens import Row
from assay.engines.data.cleaning.cleaned import cleaned_files, families_of
from assay.engines.data.learned_rows import (
    ListDigest,
    Part,
    answered,
    asked_and_said,
    chat_of,
    question,
)
from assay.engines.data.reading.examples import Example, Message
from assay.engines.data.reading.sources import check_forms, stream_sources
from assay.engines.data.split_file import SplitCounts, SplitWriter, TokenizedRows
from assay.engines.data.splits import Fetched, Splits, SplitSource
from assay.engines.deployment.chat_settings import chat_settings
from assay.errors import UsageError
from assay.records.cleaning import CleaningRecord
from assay.records.inputs import StageInputs, added_later, only, without
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord
from assay.spec.data import DataSpec, TooLong, is_remote
from assay.spec.objective import ObjectiveSpec
from assay.spec.serve import EngineSpec
from assay.spec.spec import FORMATS
from assay.spec.train import TrainSpec
from assay.spec.values.metrics import fitting_metric, num_words
from assay.stages.context import Work

VERSION = 5

FEWEST_ANSWER_TOKENS, MOST_ANSWER_TOKENS = 256, 1024
"""Longest answer of the task `heldout`; the engine's default context has 2,048. A suite's
`max_gen_toks` overrules."""

LINES_HELD = 2000
"""Of a file that is written line by line."""
ASKS_NOTHING = "plain text asks nothing that a gate could evaluate; take data.gate out"
BLOCKS_PER_WORD = 25
"""How often it is told how far it is."""


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the prepared data depend on."""

    model: ModelRecord
    data: DataSpec = without("steps")
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each data file, or what stands for it elsewhere, by path."""
    train: TrainSpec = only("max_length", "objective")
    ewc_files: Mapping[str, str] = field(default_factory=dict)
    sealed: DatasetRecord | None = None
    """Prepared data whose sealed split must not be trained on here either."""
    cleaned: CleaningRecord | None = added_later()
    """What `data.steps` left of the training data."""


Output = DatasetRecord


def run(inputs: Inputs, work: Work) -> DatasetRecord:
    """Writes the tokenized splits, and the gate's split as an lm-eval task. What asks a question of
    the gate's split in `sealed` is left out. Raises `InvalidInput` for broken lines and
    `UsageError` when nothing is left to train on, or the data are not of the form that the
    objective learns from."""
    data, train, model, sealed = inputs.data, inputs.train, inputs.model, inputs.sealed
    work.say("reading the data")
    fetched = _fetched(inputs, work)
    source = SplitSource(data, work.root, fetched)
    if inputs.cleaned is not None:
        source = source._replace(
            cleaned=cleaned_files(inputs.cleaned, data.train),
            families=families_of(Path(inputs.cleaned.artifact.path)),
        )
    splits = Splits(
        source,
        train.objective,
        _sealed_questions(sealed),
        each=tasks.map_in_order,
        say=work.say,
    )
    examples = chain(splits.examples(), _protected(data, train, work.root, fetched))
    folder = work.fresh_folder("dataset")
    work.say("tokenizing")
    names = ("train", "selection", *(("ewc",) if train.ewc else ()))
    parts = {name: Part(_objective_of(name, train), splits.labels) for name in names}
    writers = {name: SplitWriter(folder / f"{name}.safetensors") for name in names}
    gate, as_prompts = GateTask(folder / "heldout"), train.objective.grpo is not None
    prompts = {name: folder / f"{name}.jsonl" for name in names if as_prompts}
    # Also where no row is left: training reads the file.
    for file in prompts.values():
        file.touch()
    tokenizer = Path(model.artifact.path)
    is_drawn = isinstance(data.gate, float)
    calls = (
        (name, tokenizer, rows, train.max_length, data.too_long, as_prompts)
        for name, rows in _blocks(examples, parts, gate, seals_what_fits=is_drawn)
    )
    for number, (name, rows, lines) in enumerate(tasks.map_in_order(_tokenized, calls), start=1):
        if rows is None:
            gate.add_waiting([json.loads(line) for line in lines.splitlines()])
            continue
        writers[name].add(rows)
        if as_prompts:
            _append(prompts[name], lines)
        if number % BLOCKS_PER_WORD == 0:
            work.say(
                f"tokenizing: {writers['train'].num_examples} examples so far, of some "
                f"{splits.num_examples}"
            )
    reasons = chat_settings(Path(model.artifact.path), EngineSpec()).reasons
    if reasons and not parts["train"].has_reasoning:
        work.say(
            "the model reasons before it answers, and the data have no reasoning: it learns the "
            "answers alone"
        )
    counts = {}
    num_too_long = num_cut = 0
    for name, writer in writers.items():
        counts[name] = writer.close()
        num_too_long += counts[name].num_too_long
        num_cut += counts[name].num_cut
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
        num_dropped_too_long=num_too_long + gate.num_too_long,
        num_dropped_duplicates=splits.fates["duplicate"],
        num_dropped_in_gate=splits.fates["in_gate"],
        num_dropped_beyond_max=splits.fates["beyond_max"],
        num_cut=num_cut,
        sources=dict(splits.sources),
    )


def _fetched(inputs: Inputs, work: Work) -> Fetched:
    """What is still to be read and lies elsewhere."""
    data, ewc = inputs.data, inputs.train.ewc
    patterns = [*data.held_out_patterns, *(ewc.data if ewc else ())]
    if inputs.cleaned is None:
        patterns = [*data.train, *patterns]
    if any(map(is_remote, patterns)):
        work.say("fetching the data")
    return remote_data.fetch_all(patterns, work.folder)


def _protected(
    data: DataSpec, train: TrainSpec, root: Path, fetched: Fetched
) -> Iterator[tuple[str, Example]]:
    """What `train.ewc` protects."""
    if train.ewc is None:
        return

    def read() -> Iterator[tuple[str, Example]]:
        return stream_sources(source, "auto", data.system, root, fetched)

    source = train.ewc.data
    check_forms((example for _, example in read()), FORMATS["sft"], "train.ewc.data")
    for _, example in read():
        yield "ewc", example


def _blocks(
    examples: Iterable[tuple[str, Example]],
    parts: Mapping[str, Part],
    gate: "GateTask",
    *,
    seals_what_fits: bool,
) -> Iterator[tuple[str, list[Row]]]:
    """Rows to tokenize, with their split's name. What is sealed goes to the gate's task, by way of
    the tokenizer where it was drawn from the data and may be too long."""
    for split, example in examples:
        # A file of the user's own is asked as it is; what was drawn must fit like the rest.
        if split == "gate" and seals_what_fits:
            for rows in gate.waiting_rows(example):
                yield split, rows
        elif split == "gate":
            gate.add(example)
        elif rows := parts[split].add(example):
            yield split, rows
    for split, part in parts.items():
        if rows := part.rest():
            yield split, rows
    if rows := gate.rest():
        yield "gate", rows


def _tokenized(
    split: str,
    tokenizer: Path,
    rows: Sequence[Row],
    max_length: int,
    too_long: TooLong,
    as_prompts: bool,
) -> tuple[str, TokenizedRows | None, str]:
    """Rows as tokens, and as prompts where they are wanted; of the gate's split the chats that fit,
    a JSON line each."""
    if split == "gate":
        chats = tokenize.fitting_chats(tokenizer, rows, max_length, too_long)
        return split, None, "".join(json.dumps(chat) + "\n" for chat in chats)
    prompts = tokenize.prompts_of(tokenizer, rows, max_length, too_long) if as_prompts else ""
    return split, tokenize.tokenize_rows(tokenizer, rows, max_length, too_long), prompts


def _sealed_questions(sealed: DatasetRecord | None) -> frozenset[str]:
    if sealed is None or sealed.gate is None:
        return frozenset()
    lines = (Path(sealed.artifact.path) / sealed.gate.file).read_text().splitlines()
    questions = set()
    for line in lines:
        messages = [Message(**message) for message in json.loads(line)["messages"]]
        questions.add(question(Example(tuple(messages))))
    return frozenset(questions)


def _objective_of(part: str, train: TrainSpec) -> ObjectiveSpec:
    """What `ewc` protects is read as chats, whatever the objective."""
    if part == "ewc":
        return ObjectiveSpec.model_validate("sft")
    return train.objective


class GateTask:
    """The held-out split as an lm-eval task: the last answer of each chat is asked for, with all of
    the chat before it, until the model ends its turn. `auto` in the suite's limits is the metric
    that fits these answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = ListDigest()
        self._lines: list[str] = []
        self._lengths: Counter[int] = Counter()
        """Answers by their number of words."""
        self._longest_bytes = 0
        self.num_too_long = 0
        self._waiting: deque[Example] = deque()
        self._rows: list[Row] = []

    def waiting_rows(self, example: Example) -> Iterator[list[Row]]:
        """Takes an example that is written once it is known to fit; gives a block of them to the
        tokenizer when it is full."""
        if not example.messages:
            raise UsageError(ASKS_NOTHING)
        self._waiting.append(example)
        is_classified = example.messages[-1].role == "user"
        self._rows.append(Row((chat_of(example.messages),), is_classified=is_classified))
        if len(self._rows) >= LINES_HELD:
            yield self.rest()

    def rest(self) -> list[Row]:
        """The last block."""
        rows, self._rows = self._rows, []
        return rows

    def add_waiting(self, chats: Sequence[list[dict[str, str]] | None]) -> None:
        """Writes as many of those that wait, as far as they fit."""
        for chat in chats:
            example = self._waiting.popleft()
            if chat is None:
                self.num_too_long += 1
            else:
                self.add(example._replace(messages=tuple(Message(**turn) for turn in chat)))

    def add(self, example: Example) -> None:
        """Writes one item. What is classified is answered by its label."""
        example = answered(example)
        if not example.messages:
            raise UsageError(ASKS_NOTHING)
        if not self.digest.num_items:
            self.folder.mkdir()
        asked, said = asked_and_said(example)
        item = {"question": asked, "answer": said, "messages": chat_of(example.messages[:-1])}
        self.digest.add(example)
        self._lengths[num_words(said)] += 1
        self._longest_bytes = max(self._longest_bytes, len(said.encode()))
        self._lines.append(json.dumps(item) + "\n")
        if len(self._lines) >= LINES_HELD:
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
                # Nothing but the end of its turn stops the model: an answer may have any text.
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
    """Tokens for an answer twice as long as the longest of the data, at four bytes to a token, in
    whole steps: a power of two, so that one longer answer does not change the task."""
    tokens = FEWEST_ANSWER_TOKENS
    while tokens < min(num_bytes / 2, MOST_ANSWER_TOKENS):
        tokens *= 2
    return tokens


def _append(file: Path, text: str) -> None:
    with file.open("a") as lines:
        lines.write(text)


def _record(name: str, part: Part, counts: SplitCounts) -> SplitRecord:
    return SplitRecord(
        file=f"{name}.safetensors",
        digest=part.digest.hex(),
        num_examples=counts.num_examples,
        num_tokens=counts.num_tokens,
        num_completion_tokens=counts.num_completion_tokens,
    )
