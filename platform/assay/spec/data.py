"""The `data:` block: what to train on, and what is held out."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from assay.spec.block import Block, Fraction, Paths, later
from assay.spec.steps import StepSpec

DataFormat = Literal[
    "auto",
    "messages",
    "prompt_completion",
    "alpaca",
    "sharegpt",
    "preference",
    "kto",
    "text",
    "classification",
]


TooLong = Literal["drop", "truncate", "split"]


class HeldOut(Block):
    """A split that has files of its own."""

    source: Paths
    """Files or globs."""


HUB_DATA = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+?)(:(?P<split>\w+))?")
"""A data set of the Hugging Face hub; the split is `train` when not said."""


REGISTERED = re.compile(r"registry:(?P<name>[a-z][a-z0-9_-]{0,62})@(?P<version>[0-9a-f]{16})")
"""A version of a data set that `assay data register` keeps in this place."""
FEEDBACK = re.compile(r"feedback:(?P<name>[a-z][a-z0-9_-]{0,62})")
"""What users have said of a model's answers, collected in this place."""


def is_remote(pattern: str) -> bool:
    """Whether an entry of the data lies on the hub, behind a URL, or in the place's own store, and
    not in a file that it names."""
    if pattern.startswith(("hf:", "registry:", "feedback:")):
        return True
    return re.match(r"[a-z][a-z0-9+]*://", pattern) is not None


def _split(value: Any) -> Any:
    """A percentage stays one; any other string or list names files."""
    if isinstance(value, list) or (isinstance(value, str) and not value.strip().endswith("%")):
        return {"source": value}
    return value


Split = Annotated[Fraction | HeldOut, BeforeValidator(_split)]


class DataSpec(Block):
    """The data: chats, prompts with completions, preferences, labels or plain text."""

    train: Paths
    """Files or globs (`.jsonl`, `.json`, `.csv`, `.parquet`, `.arrow`), relative to the folder
    where `assay` runs; URLs such as `s3://bucket/*.jsonl`; `hf:ORG/NAME@REVISION`, with `:SPLIT`
    after it; `registry:NAME@VERSION`, which `assay data register` made; or `feedback:NAME`."""

    weights: dict[str, Annotated[float, Field(gt=0)]] = Field({})
    """How often each example of one of `train`'s entries is shown, by that entry: 2 doubles, 0.5
    takes every second one; 1 when not said."""

    format: DataFormat = "auto"
    """`messages`, `sharegpt` (chats), `prompt_completion`, `alpaca`, `preference` (`prompt`,
    `chosen`, `rejected`), `kto` (`prompt`, `completion`, `label`), `text`, `classification`
    (`text`, `label`), or `auto`: found out from each file's first example."""

    system: str | None = None
    """A system prompt for the examples that bring none."""

    selection: Split = 0.05
    """What the sweep chooses on: a share of `train`, or files of its own. Never trained on."""

    gate: Split | None = None
    """A sealed split for the gate's task `heldout`: a share of `train`, or files of its own.
    Neither training nor the sweep opens it."""

    split_seed: int = 0
    """Seeds the choice of the held-out shares, and of `max_samples`."""

    too_long: TooLong = "drop"
    """What becomes of examples longer than `train.max_length` tokens: `drop` leaves them out,
    `truncate` shortens their longest question from its end (and only then the answer), `split` cuts
    chats between turns into several. What cannot be made to fit is left out and counted. The same
    holds for the share that is sealed for the gate, of which nothing is split."""

    max_samples: int | None = Field(None, ge=1)
    """At most so many of `train`'s examples, drawn by their digests: the same ones wherever they
    stand, and among more the same ones again. All of them when not said."""

    steps: tuple[StepSpec, ...] = later(())
    """What is done to `train`, in this order, before anything is split: `repair`, `select`,
    `deduplicate`, `mask`, `function`. Files that are held out stay as they are. `assay data why`
    says what became of a row."""

    @model_validator(mode="after")
    def _hub_data_are_pinned(self) -> "DataSpec":
        for pattern in self.patterns:
            if pattern.startswith("hf:") and not HUB_DATA.fullmatch(pattern):
                raise ValueError(
                    f"{pattern}: write a data set of the hub as hf:ORG/NAME@REVISION or "
                    "hf:ORG/NAME@REVISION:SPLIT"
                )
            if pattern.startswith("registry:") and not REGISTERED.fullmatch(pattern):
                raise ValueError(
                    f"{pattern}: write a registered data set as registry:NAME@VERSION, as "
                    "`assay data register` says it"
                )
            if pattern.startswith("feedback:") and not FEEDBACK.fullmatch(pattern):
                raise ValueError(f"{pattern}: write feedback as feedback:NAME, in small letters")
        return self

    @model_validator(mode="after")
    def _weights_name_sources(self) -> "DataSpec":
        for name in self.weights:
            if name not in self.train:
                raise ValueError(f"weights names {name!r}, which does not stand in train")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every path and glob, of all splits and steps."""
        return (*self.train, *self.held_out_patterns, *self.compared_patterns)

    @property
    def compared_patterns(self) -> tuple[str, ...]:
        """Those that `data.steps` compare the training data with."""
        compared = (step.deduplicate.against or () for step in self.steps if step.deduplicate)
        return tuple(pattern for patterns in compared for pattern in patterns)

    @property
    def held_out_patterns(self) -> tuple[str, ...]:
        """Those of the splits that have files of their own."""
        held = [split.source for split in (self.selection, self.gate) if isinstance(split, HeldOut)]
        return tuple(pattern for source in held for pattern in source)
