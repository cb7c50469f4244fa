"""Reading training examples: JSON Lines of chats, prompts with completions, or Alpaca instructions."""

import glob
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from assay.errors import InvalidInput, Problem
from assay.spec.data import DataFormat

T = TypeVar("T")
Record = dict[str, Any]
"""One line of a data file."""

MAX_PROBLEMS = 20
ROLES = ("system", "user", "assistant")


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


class Example(NamedTuple):
    """One chat; the last message is the assistant's."""

    messages: tuple[Message, ...]


def read_examples(paths: Sequence[str], format: DataFormat, system: str | None, root: Path) -> list[Example]:
    """Every example of the files and globs in `paths`, in the order of `paths`, each glob's files sorted.

    `system` is put before the examples that bring no system message. Raises InvalidInput with the first
    20 broken lines, each with its file and line number."""
    problems: list[Problem] = []
    files: dict[Path, None] = {}
    for pattern in paths:
        found = matching_files(pattern, root)
        files.update(dict.fromkeys(found))
        if not found:
            problems.append(Problem(pattern, 0, 0, "", "no_data", "no file matches"))
    examples: list[Example] = []
    for file in files:
        _read_file(file, format, system, examples, problems)
    if not examples and not problems:
        problems.append(Problem(", ".join(paths), 0, 0, "", "no_data", "there are no examples"))
    if problems:
        raise InvalidInput(_shortened(problems))
    return examples


def matching_files(pattern: str, root: Path) -> list[Path]:
    """The files that a path or a glob (`*`, `?`, `[…]`, `**`) means, sorted."""
    if os.path.isfile(root / pattern):
        return [root / pattern]
    try:
        found = glob.glob(pattern, root_dir=root, recursive=True)
    except ValueError:  # a character that no file's name can have
        return []
    return [root / name for name in sorted(found) if os.path.isfile(root / name)]


class _LineError(Exception):
    """What is wrong with one line."""

    def __init__(self, path: str, code: str, message: str, hint: str = "", column: int = 1) -> None:
        self.path, self.code, self.message, self.hint, self.column = path, code, message, hint, column


def _read_file(
    file: Path, format: DataFormat, system: str | None, examples: list[Example], problems: list[Problem]
) -> None:
    """Add the file's examples and its broken lines to the lists."""
    read: Callable[[Record], list[Message]] | None = None if format == "auto" else _READERS[format]
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                if not text:
                    continue
                try:
                    record = _record(text)
                    if read is None:
                        read = _READERS[_format_of(record)]
                    examples.append(_example(read(record), system))
                except _LineError as wrong:
                    place = (str(file), number, wrong.column)
                    problems.append(Problem(*place, wrong.path, wrong.code, wrong.message, wrong.hint))
                    if wrong.code in ("format", "not_json_lines"):
                        return  # every other line would say the same
    except OSError as error:
        problems.append(Problem(str(file), 0, 0, "", "no_data", f"the file cannot be read: {error.strerror}"))


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise _LineError("", "not_json_lines", "this is not UTF-8", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        if line.startswith(b"[") and error.pos == len(line):
            raise _LineError("", "not_json_lines", *_ONE_ARRAY) from None
        message = f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise _LineError("", "json", message, column=error.colno) from None
    except (ValueError, RecursionError):
        raise _LineError("", "json", "this JSON is nested too deep, or holds a number that is too long") from None
    if isinstance(record, list):
        raise _LineError("", "not_json_lines", *_ONE_ARRAY)
    if not isinstance(record, dict):
        raise _LineError("", "type", f"expected an object, found {_kind(record)}")
    return record


_ONE_ARRAY = ("a JSON array, not JSON Lines", "write one object a line: jq -c '.[]' FILE > FILE.jsonl")


def _format_of(record: Record) -> DataFormat:
    """Which format a file's first line has."""
    if "messages" in record:
        return "messages"
    if "prompt" in record and "completion" in record:
        return "prompt_completion"
    if "instruction" in record and "output" in record:
        return "alpaca"
    keys = ", ".join(list(record)[:8]) or "none"
    hint = "rename `conversations` to `messages`" if "conversations" in record else ""
    wanted = "`messages`, `prompt` and `completion`, or `instruction` and `output`"
    raise _LineError("", "format", f"expected the keys {wanted}; found {keys}", hint)


def _chat(record: Record) -> list[Message]:
    turns = _field(record, "messages", list)
    messages = [_message(turn, f"messages.{index}") for index, turn in enumerate(turns)]
    if not messages or messages[-1].role != "assistant":
        raise _LineError("messages", "value", "the last message must be the assistant's")
    if len(messages) < 2 or messages[-2].role != "user":
        raise _LineError("messages", "value", "the assistant's last message must answer one of the user's")
    if any(message.role == "system" for message in messages[1:]):
        raise _LineError("messages", "value", "a system message must be the first")
    return messages


def _message(turn: object, path: str) -> Message:
    if not isinstance(turn, dict):
        raise _LineError(path, "type", f"expected an object with `role` and `content`, found {_kind(turn)}")
    role, content = _field(turn, "role", str, path), _field(turn, "content", str, path)
    if role not in ROLES:
        close = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}.get(role.lower())
        hint = f"did you mean `{close}`?" if close else ""
        raise _LineError(f"{path}.role", "value", f"expected {' or '.join(ROLES)}, found {role[:60]!r}", hint)
    return Message(role, content)


def _prompt_completion(record: Record) -> list[Message]:
    return [Message("user", _field(record, "prompt", str)), Message("assistant", _field(record, "completion", str))]


def _alpaca(record: Record) -> list[Message]:
    instruction, answer = _field(record, "instruction", str), _field(record, "output", str)
    given = _field(record, "input", str) if record.get("input") is not None else ""
    return [Message("user", f"{instruction}\n\n{given}" if given else instruction), Message("assistant", answer)]


_READERS: dict[str, Callable[[Record], list[Message]]] = {
    "messages": _chat,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
}


def _example(messages: list[Message], system: str | None) -> Example:
    if not messages[-1].content.strip():
        raise _LineError("", "value", "the answer is empty")
    if any("\ud800" <= char <= "\udfff" for message in messages for char in message.content):
        raise _LineError("", "value", "text with half a character (a lone surrogate)")
    if system is not None and messages[0].role != "system":
        messages = [Message("system", system), *messages]
    return Example(tuple(messages))


def _field(record: Record, key: str, kind: type[T], outer: str = "") -> T:
    """One field of a line, of the kind that it must have."""
    if key not in record:
        hint = f"it has {', '.join(list(record)[:8])}" if record else ""
        raise _LineError(outer, "missing", f"`{key}` is missing", hint)
    value = record[key]
    if not isinstance(value, kind):
        path = f"{outer}.{key}" if outer else key
        raise _LineError(path, "type", f"expected {_KINDS[kind]}, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "another value")


_KINDS: dict[type, str] = {
    str: "text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _shortened(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    last, left = problems[MAX_PROBLEMS - 1], len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], Problem(last.file, 0, 0, "", "more", f"... and {left} more")]
