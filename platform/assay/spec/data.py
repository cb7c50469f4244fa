"""The `data:` block: what to train on, and what is held out."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from assay.spec.block import Block, Fraction, Paths

DataFormat = Literal["auto", "messages", "prompt_completion", "alpaca"]


class HeldOut(Block):
    """A split that has files of its own."""

    source: Paths
    """JSON Lines files or globs."""


def _split(value: Any) -> Any:
    """A percentage stays one; any other string or list names files."""
    if isinstance(value, list) or (isinstance(value, str) and not value.strip().endswith("%")):
        return {"source": value}
    return value


Split = Annotated[Fraction | HeldOut, BeforeValidator(_split)]


class DataSpec(Block):
    """The data: JSON Lines of chats, prompts with completions, or Alpaca instructions."""

    train: Paths
    """JSON Lines files or globs, relative to the folder where `assay` runs."""

    format: DataFormat = "auto"
    """`messages` (chat), `prompt_completion`, `alpaca`, or `auto`: found out from each file's first line."""

    system: str | None = None
    """A system prompt for the examples that bring none."""

    selection: Split = 0.05
    """What the sweep chooses on: a share of `train`, or files of its own. Never trained on."""

    gate: Split | None = None
    """A sealed split for the gate's task `heldout`: a share of `train`, or files of its own.
    Neither training nor the sweep opens it."""

    split_seed: int = 0
    """Seeds the choice of the held-out shares."""
