"""Rows on their way through the steps: their ids, and the files that they are kept in between."""

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from assay.engines.data.learned_rows import chat_of
from assay.engines.data.reading.examples import Example, Message
from assay.records.record import canonical_json

ID_DIGITS = 16
HELD_OUT = -1
"""Stands for the entry of a row that is held out: it is compared with, and never left out."""


class Row(NamedTuple):
    """An example on its way."""

    id: str
    """The same for the same example of this place, wherever it stands; keyed, so that a short
    example that is masked cannot be guessed from it."""
    source: int
    """Index of its entry in `data.train`, or `HELD_OUT`."""
    at: str
    """`FILE:LINE`; for tables the row's number."""
    example: Example
    parent: str = ""
    """Id of the row that it was made of."""

    @property
    def family(self) -> str:
        """What a row and all that is made of it have in common."""
        return self.parent or self.id


def row_id(example: Example, key: bytes) -> str:
    """HMAC-SHA-256 of the example as it was read."""
    text = canonical_json(record_of(example)).encode()
    return hmac.new(key, b"row:" + text, hashlib.sha256).hexdigest()[:ID_DIGITS]


def record_of(example: Example) -> dict[str, Any]:
    """The example as a line of a data file, from which `readers` reads the same example again."""
    if example.text:
        return {"text": example.text}
    chat = chat_of(example.messages)
    if example.rejected:
        return {"chosen": chat, "rejected": chat_of(example.rejected)}
    if isinstance(example.label, bool):
        return {"prompt": chat[:-1], "completion": chat[-1:], "label": example.label}
    if example.label is not None:
        return {"text": chat[-1]["content"], "label": example.label}
    return {"messages": chat}


def example_of(record: dict[str, Any]) -> Example:
    """The example of a line that `record_of` wrote. Raises `ValueError` for any other form."""
    if "messages" in record:
        return Example(_messages(record["messages"]))
    if "chosen" in record:
        return Example(_messages(record["chosen"]), _messages(record["rejected"]))
    if "completion" in record:
        chat = _messages([*record["prompt"], *record["completion"]])
        return Example(chat, label=bool(record["label"]))
    if "label" in record:
        return Example((Message("user", record["text"]),), label=str(record["label"]))
    if isinstance(record.get("text"), str):
        return Example(text=record["text"])
    raise ValueError(f"no form of an example has the keys {', '.join(record) or '(none)'}")


def _messages(turns: Iterable[Any]) -> tuple[Message, ...]:
    return tuple(Message(str(turn["role"]), str(turn["content"])) for turn in turns)


def is_learnable(example: Example) -> bool:
    """Whether something can still be learned from it: its end says something, and a pair's ends
    are two."""
    ends = [chat[-1].content for chat in (example.messages, example.rejected) if chat]
    if not all(end.strip() for end in ends or [example.text]):
        return False
    return example.messages != example.rejected or not example.rejected


def texts_of(example: Example) -> list[str]:
    """What was said, without the system's prompt; of a pair with the worse answer at the end."""
    if example.text:
        return [example.text]
    # Of the worse answer the last turn alone: the others are those of the better one.
    turns = (*example.messages, *example.rejected[-1:])
    return [turn.content for turn in turns if turn.role != "system"]


def whole_text(example: Example) -> str:
    """All of that in one."""
    return "\n".join(texts_of(example))


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """A JSON line for each; the file is whole, or not there."""
    write_lines(map(_line, rows), file)


def _line(row: Row) -> list[Any]:
    line = [row.id, row.source, row.at, record_of(row.example)]
    return [*line, row.parent] if row.parent else line


def read_rows(file: Path) -> Iterator[Row]:
    """What `write_rows` wrote."""
    with file.open("rb") as lines:
        for line in lines:
            yield row_of_line(line)


def row_of_line(line: bytes) -> Row:
    """One of its lines."""
    one, source, at, record, *parent = json.loads(line)
    return Row(one, source, at, example_of(record), *parent)


def write_lines(values: Iterable[Any], file: Path) -> None:
    """JSON Lines under a name that appears when all are written, and on the disk."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as lines:
        for value in values:
            lines.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
        lines.flush()
        os.fsync(lines.fileno())
    draft.replace(file)
