"""Looking at data as a model will see them, before anything runs: the splits and the tokenizer that
`prepare` uses."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from assay.engines.data.chats.tokens import Row, TokenizedExample, load_tokenizer, pieces
from assay.engines.data.fitting import Fitted, fit, longest_chat
from assay.engines.data.learned_rows import row_of
from assay.engines.data.reading.examples import Example
from assay.engines.data.splits import Outcome, Splits
from assay.errors import UsageError
from assay.records.preview import (
    LengthBin,
    Preview,
    PreviewExample,
    PreviewPart,
    PreviewText,
    SourceFates,
)
from assay.spec.data import TooLong
from assay.spec.train import TrainSpec

MOST_MEASURED = 5_000
"""Training examples that are tokenized for a look."""
NUM_BINS = 10


def preview(tokenizer_folder: Path, splits: Splits, train: TrainSpec, num: int) -> Preview:
    """Reads all of the data, and tokenizes the first training examples. Shows `num` of them, of
    each source about as many."""
    look = _Look(tokenizer_folder, splits, train, math.ceil(num / max(1, len(splits.data.train))))
    for outcome in splits.outcomes():
        look.add(outcome)
    if not look.lengths:
        raise UsageError("nothing is left to train on: every example is held out or left out")
    lengths = sorted(look.lengths)
    sources, num_train = [], 0
    for source, counts in look.fates.items():
        sources.append(look.fates_of(source))
        num_train += counts["train"]
    return Preview(
        sources=tuple(sources),
        max_length=train.max_length,
        too_long=splits.data.too_long,
        num_measured=look.num_measured,
        num_train=num_train,
        lengths=_bins(lengths),
        median=lengths[(len(lengths) - 1) // 2],
        p95=lengths[math.ceil(0.95 * len(lengths)) - 1],
        longest=lengths[-1],
        examples=tuple(look.examples[:num]),
    )


class _Look:
    """What was seen so far."""

    def __init__(
        self, tokenizer_folder: Path, splits: Splits, train: TrainSpec, num_of_each: int
    ) -> None:
        self.splits, self.train, self.num_of_each = splits, train, num_of_each
        self.tokenizer = load_tokenizer(tokenizer_folder, needs_template=_needs_template(train))
        self.fates: dict[str, Counter[str]] = {}
        self.lengths: list[int] = []
        self.num_measured = 0
        self.examples: list[PreviewExample] = []
        self._shown: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Counts an example, and measures it where it is trained on."""
        counts = self.fates.setdefault(outcome.source, Counter())
        counts["read"] += 1
        counts[outcome.fate] += max(1, outcome.times) if outcome.fate != "train" else outcome.times
        if outcome.fate == "train" and outcome.times and self.num_measured < MOST_MEASURED:
            self.num_measured += 1
            self._measure(outcome.source, self.splits.worded(outcome.example))

    def fates_of(self, source: str) -> SourceFates:
        """The counts of one source."""
        counts = self.fates[source]
        return SourceFates(
            source=source,
            num_read=counts["read"],
            num_train=counts["train"],
            num_selection=counts["selection"],
            num_gate=counts["gate"],
            num_too_long=counts["too_long"],
            num_cut=counts["cut"],
            num_duplicates=counts["duplicate"],
            num_in_gate=counts["in_gate"],
            num_beyond_max=counts["beyond_max"],
        )

    def _measure(self, source: str, example: Example) -> None:
        row = row_of(example, self.train.objective, self.splits.labels)
        length, fitted = _fitted(
            self.tokenizer, row, self.train.max_length, self.splits.data.too_long
        )
        self.lengths.append(length)
        counts = self.fates[source]
        counts["too_long"] += not fitted.units
        counts["cut"] += fitted.is_cut
        for unit in fitted.units:
            if self._shown[source] < self.num_of_each:
                self._shown[source] += 1
                texts = tuple(_text(self.tokenizer, text) for text in unit)
                label = None
                if len(row.chats) == 1 and isinstance(example.label, str):
                    label = example.label
                self.examples.append(
                    PreviewExample(source=source, texts=texts, label=label, is_cut=fitted.is_cut)
                )


def _needs_template(train: TrainSpec) -> bool:
    """Whether chats are written; an encoder reads texts that are to be classified as they are."""
    classify = train.objective.classify
    return train.objective.pretrain is None and not (
        classify is not None and classify.head == "linear"
    )


def _fitted(tokenizer: Any, row: Row, max_length: int, too_long: TooLong) -> tuple[int, Fitted]:
    """Tokens of the row's longest text as it is, and what of it is trained on."""
    if not row.chats:
        parts = list(pieces(tokenizer, row.text, max_length))
        length, units = 0, []
        for part in parts:
            length += len(part.tokens)
            units.append([part])
        return length, Fitted(units, [], is_cut=len(parts) > 1)
    return longest_chat(tokenizer, row), fit(tokenizer, row, max_length, too_long)


def _text(tokenizer: Any, text: TokenizedExample) -> PreviewText:
    """The text in parts. Each is what it adds to those before it: some tokenizers decode a
    beginning otherwise."""
    parts: list[PreviewPart] = []
    start, before = 0, ""
    for end in range(1, len(text.tokens) + 1):
        if end < len(text.tokens) and text.loss_mask[end] == text.loss_mask[start]:
            continue
        # As they are: what a person looks for here are the very tokens, marks and spaces too.
        so_far = tokenizer.decode(
            text.tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        added = so_far[len(before) :]
        parts.append(
            PreviewPart(text=added, num_tokens=end - start, learned=bool(text.loss_mask[start]))
        )
        start, before = end, so_far
    return PreviewText(parts=tuple(parts))


def _bins(lengths: list[int]) -> tuple[LengthBin, ...]:
    """Lengths, sorted, in equal steps of a round width."""
    width = _round_up(max(1, math.ceil((lengths[-1] + 1) / NUM_BINS)))
    counts = Counter(length // width for length in lengths)
    bins = []
    for number in range(lengths[-1] // width + 1):
        first = number * width
        bins.append(LengthBin(first=first, last=first + width - 1, num_examples=counts[number]))
    return tuple(bins)


def _round_up(width: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power: int = 10 ** (len(str(width)) - 1)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width)
