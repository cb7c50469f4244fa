"""Training examples of every form, as they are after reading."""

from pathlib import Path
from typing import Any, NamedTuple

from assay.spec.data import DataFormat

Record = dict[str, Any]
"""One line of a data file."""


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


class Example(NamedTuple):
    """One example of any form."""

    messages: tuple[Message, ...] = ()
    """A chat whose last message is the assistant's; for preferences the one with the better answer;
    for classification the text alone, as the user's."""
    rejected: tuple[Message, ...] = ()
    """For preferences, the chat with the worse answer."""
    label: str | bool | None = None
    """For classification the class, for `kto` whether the answer is good."""
    text: str = ""
    """Plain text."""


class SourceRow(NamedTuple):
    """An example, and where it stands."""

    source: str
    """The entry of the data."""
    file: Path
    number: int
    """Of the line, or of a table's row, from 1."""
    example: Example


def form_of(example: Example) -> DataFormat:
    """The form of an example; `messages` stands for every form of chat."""
    if example.rejected:
        return "preference"
    if example.label is not None:
        return "kto" if isinstance(example.label, bool) else "classification"
    return "text" if example.text else "messages"
