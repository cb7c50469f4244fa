"""What `assay data show` found: examples as the model will see them, their lengths, and what
becomes of each source."""

from assay.records.cleaning import Reason, StepCounts
from assay.records.record import Record


class PreviewPart(Record):
    """Some of an example's text, all of whose tokens bear loss, or none."""

    text: str
    num_tokens: int
    learned: bool


class PreviewText(Record):
    """One text of an example: of a pair there are two."""

    parts: tuple[PreviewPart, ...]

    @property
    def num_tokens(self) -> int:
        """Of all parts."""
        return sum(part.num_tokens for part in self.parts)


class PreviewExample(Record):
    """An example of the training split."""

    source: str
    texts: tuple[PreviewText, ...]
    label: str | None = None
    """For a classifier with a head of its own."""
    is_cut: bool
    """Whether it was shortened, or is a part of a longer one."""


class SourceFates(Record):
    """What becomes of the examples of one entry of the data."""

    source: str
    num_read: int
    num_train: int
    """As often as they are shown, before any is left out for its length."""
    num_selection: int
    num_gate: int
    num_too_long: int
    """Left out for their length, of those whose length was looked at."""
    num_cut: int
    num_duplicates: int
    """Left out, since they stand in a file that is held out."""
    num_in_gate: int
    """Left out, since they quote what is sealed."""
    num_beyond_max: int


class LengthBin(Record):
    """Examples of some lengths."""

    first: int
    last: int
    """In tokens, both included."""
    num_examples: int


class StepEffect(Record):
    """What one of `data.steps` does, with its first reasons."""

    counts: StepCounts
    reasons: tuple[Reason, ...]


class Preview(Record):
    """The data of one training run."""

    sources: tuple[SourceFates, ...]
    max_length: int
    too_long: str
    num_measured: int
    """Training examples whose lengths were looked at: the first ones."""
    num_train: int
    lengths: tuple[LengthBin, ...]
    """Before anything is shortened."""
    median: int
    p95: int
    longest: int
    examples: tuple[PreviewExample, ...]
    steps: tuple[StepEffect, ...] = ()
    """Of `data.steps`; what is said of sources is said of what they leave."""
