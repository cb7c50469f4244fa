"""What a step makes of an example."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from assay.engines.data.reading.examples import Example, Message


class Result(NamedTuple):
    """What a step makes of an example."""

    example: Example | None
    """None where it is left out."""
    counts: Mapping[str, int] = {}
    """What was done, by kind: `{"email": 2}`; nothing where nothing was."""
    why: str = ""
    """Why it is left out."""


RowStep = Callable[[Example], Result]


def unchanged(example: Example) -> Result:
    """Nothing was done."""
    return Result(example)


def left_out(rule: str, why: str) -> Result:
    """The example goes, by this rule."""
    return Result(None, {rule: 1}, why)


def map_texts(example: Example, change: Callable[[str], str]) -> Example:
    """The example with every text changed, the system's too; labels stay."""

    def changed(chat: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(turn._replace(content=change(turn.content)) for turn in chat)

    text = change(example.text) if example.text else ""
    messages, rejected = changed(example.messages), changed(example.rejected)
    return example._replace(messages=messages, rejected=rejected, text=text)
