"""Reading training examples of every form: chats, prompts with completions, preferences, labels,
plain text."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from assay.engines.data.chat_masks import REASONING_FIELDS
from assay.errors import InvalidInput, Problem, UsageError
from assay.loader.named.globs import matching_files
from assay.spec.data import DataFormat

T = TypeVar("T")
Record = dict[str, Any]
"""One line of a data file."""

MAX_PROBLEMS = 20
BATCH_ROWS = 1024  # of a table, in memory at a time
ROLES = ("system", "user", "assistant")


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


def read_examples(
    paths: Sequence[str], format: DataFormat, system: str | None, root: Path
) -> list[Example]:
    """Every example of the files and globs in `paths`, in the order of `paths`, each glob's files
    sorted.

    `system` is put before the chats that bring no system message. Raises InvalidInput with the
    first 20 broken lines (or rows, for tables), each with its file and number."""
    return [
        example for found in read_sources(paths, format, system, root).values() for example in found
    ]


def read_sources(
    paths: Sequence[str],
    format: DataFormat,
    system: str | None,
    root: Path,
    fetched: Mapping[str, Sequence[Path]] | None = None,
) -> dict[str, list[Example]]:
    """The same by the entry of `paths` that they came from; a file that two entries match counts
    for the first. `fetched` has the local files of entries that lie elsewhere."""
    sources: dict[str, list[Example]] = {pattern: [] for pattern in paths}
    for pattern, example in stream_sources(paths, format, system, root, fetched):
        sources[pattern].append(example)
    return sources


def stream_sources(
    paths: Sequence[str],
    format: DataFormat,
    system: str | None,
    root: Path,
    fetched: Mapping[str, Sequence[Path]] | None = None,
) -> Iterator[tuple[str, Example]]:
    """The same one by one, each with its entry, so that memory does not grow with the data. What is
    broken is told at the end."""
    for row in stream_rows(paths, format, system, root, fetched):
        yield row.source, row.example


def stream_rows(
    paths: Sequence[str],
    format: DataFormat,
    system: str | None,
    root: Path,
    fetched: Mapping[str, Sequence[Path]] | None = None,
) -> Iterator[SourceRow]:
    """The same, each with where it stands."""
    problems: list[Problem] = []
    seen: set[Path] = set()
    num_examples = 0
    for pattern in paths:
        found = (fetched or {}).get(pattern) or matching_files(pattern, root)
        if not found:
            problems.append(Problem(pattern, 0, 0, "", "no_data", "no file matches"))
        for file in found:
            if file not in seen:
                seen.add(file)
                for number, example in _read_file(file, format, system, problems):
                    num_examples += 1
                    yield SourceRow(pattern, file, number, example)
    if not num_examples and not problems:
        problems.append(Problem(", ".join(paths), 0, 0, "", "no_data", "there are no examples"))
    if problems:
        raise InvalidInput(_shortened(problems))


def check_forms(examples: Iterable[Example], wanted: Sequence[str], where: str) -> None:
    """Reads all examples; raises UsageError when one is of another form than those that are
    wanted."""
    strange = None
    for example in examples:
        found = form_of(example)
        strange = strange or (found if found not in wanted else None)
    if strange is not None:
        raise UsageError(
            f"{where} holds data of the form {strange}; the objective learns from "
            f"{' or '.join(wanted)}. Choose "
            "another train.objective, or other data"
        )


def form_of(example: Example) -> DataFormat:
    """The form of an example; `messages` stands for every form of chat."""
    if example.rejected:
        return "preference"
    if example.label is not None:
        return "kto" if isinstance(example.label, bool) else "classification"
    return "text" if example.text else "messages"


class _LineError(Exception):
    """What is wrong with one line."""

    def __init__(self, path: str, code: str, message: str, hint: str = "", column: int = 1) -> None:
        self.path, self.code, self.message, self.hint, self.column = (
            path,
            code,
            message,
            hint,
            column,
        )


def _read_file(
    file: Path, format: DataFormat, system: str | None, problems: list[Problem]
) -> Iterator[tuple[int, Example]]:
    """The file's examples with their numbers; its broken lines are added to the list."""
    read: Callable[[Record], Example] | None = None if format == "auto" else _READERS[format]
    rows = _ROWS.get(file.suffix, _json_lines)
    try:
        for number, record in rows(file):
            try:
                if isinstance(record, _LineError):
                    raise record
                if read is None:
                    read = _READERS[_format_of(record)]
                example = _example(read(record), system)
            except _LineError as wrong:
                problems.append(_problem(file, number, wrong))
                if wrong.code in ("format", "not_json_lines"):
                    return  # every other line would say the same
            else:
                yield number, example
    except OSError as error:
        problems.append(
            Problem(
                str(file),
                0,
                0,
                "",
                "no_data",
                f"the file cannot be read: {error.strerror or error}",
            )
        )


def _problem(file: Path, number: int, wrong: _LineError) -> Problem:
    """A broken line with its number, or a broken row with its own: a table has no lines."""
    if file.suffix in _TABLES:
        path = f"row {number}.{wrong.path}" if wrong.path else f"row {number}"
        return Problem(str(file), 0, 0, path, wrong.code, wrong.message, wrong.hint)
    return Problem(
        str(file), number, wrong.column, wrong.path, wrong.code, wrong.message, wrong.hint
    )


Rows = Iterator[tuple[int, Record | _LineError]]
"""Numbers of lines or rows, from 1, and what stands there."""


def _json_lines(file: Path) -> Rows:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                try:
                    yield number, _record(text)
                except _LineError as wrong:
                    yield number, wrong


def _json(file: Path) -> Rows:
    """One array of objects; JSON Lines under this name are read, too."""
    try:
        whole = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, list):
        yield from _json_lines(file)
        return
    for number, record in enumerate(whole, start=1):
        is_record = isinstance(record, dict)
        yield (
            number,
            record
            if is_record
            else _LineError("", "type", f"expected an object, found {_kind(record)}"),
        )


def _csv(file: Path) -> Rows:
    """A header and rows; every cell is text, but `label` is true or false where it says so."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            for record in (reader := csv.DictReader(text, strict=True)):
                if None in record or None in record.values():
                    yield (
                        reader.line_num,
                        _LineError("", "type", "this row has not as many cells as the header"),
                    )
                    continue
                label = str(record.get("label")).lower()
                yield (
                    reader.line_num,
                    {
                        **record,
                        **({"label": label == "true"} if label in ("true", "false") else {}),
                    },
                )
    except UnicodeDecodeError:
        yield 1, _LineError("", "not_json_lines", "this is not UTF-8", "save the file as UTF-8")
    except csv.Error as error:
        yield reader.line_num, _LineError("", "not_json_lines", f"this is not CSV: {error}")


def _parquet(file: Path) -> Rows:
    import pyarrow as arrow
    import pyarrow.parquet

    try:
        batches = arrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS)
        yield from _numbered(record for batch in batches for record in batch.to_pylist())
    except arrow.ArrowInvalid as error:
        yield 1, _LineError("", "not_json_lines", f"this is not Parquet: {error}")


def _arrow(file: Path) -> Rows:
    """Arrow's file format, or its stream format, which Hugging Face's data sets are kept in."""
    import pyarrow as arrow

    try:
        with arrow.memory_map(str(file)) as source:
            try:
                table = arrow.ipc.open_file(source).read_all()
            except arrow.ArrowInvalid:
                source.seek(0)
                table = arrow.ipc.open_stream(source).read_all()
            batches = table.to_batches(max_chunksize=BATCH_ROWS)
            yield from _numbered(record for batch in batches for record in batch.to_pylist())
    except arrow.ArrowInvalid as error:
        yield 1, _LineError("", "not_json_lines", f"this is not Arrow: {error}")


def _numbered(records: Iterator[Record]) -> Rows:
    for number, record in enumerate(records, start=1):
        yield number, {key: value for key, value in record.items() if value is not None}


_ROWS: dict[str, Callable[[Path], Rows]] = {
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
_TABLES = (".json", ".parquet", ".arrow")


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise _LineError(
            "", "not_json_lines", "this is not UTF-8", "save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        if line.startswith(b"[") and error.pos == len(line):
            raise _LineError("", "not_json_lines", *_ONE_ARRAY) from None
        message = f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise _LineError("", "json", message, column=error.colno) from None
    except (ValueError, RecursionError):
        raise _LineError(
            "", "json", "this JSON is nested too deep, or holds a number that is too long"
        ) from None
    if isinstance(record, list):
        raise _LineError("", "not_json_lines", *_ONE_ARRAY)
    if not isinstance(record, dict):
        raise _LineError("", "type", f"expected an object, found {_kind(record)}")
    return record


_ONE_ARRAY = (
    "a JSON array, not JSON Lines",
    "write one object a line: jq -c '.[]' FILE > FILE.jsonl",
)


def _format_of(record: Record) -> DataFormat:
    """Which format a file's first example has."""
    for format, keys in _KEYS.items():
        if all(key in record for key in keys) and (
            format != "kto" or isinstance(record["label"], bool)
        ):
            return format
    found = ", ".join(list(record)[:8]) or "none"
    wanted = (
        "`messages`, `prompt` and `completion`, `instruction` and `output`, or those of another "
        "form"
    )
    raise _LineError(
        "",
        "format",
        f"expected the keys {wanted}; found {found}",
        "say `data.format`, or rename the keys",
    )


_KEYS: dict[DataFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "preference": ("chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "classification": ("text", "label"),
    "text": ("text",),
}
"""The keys that tell a format; the first that fits counts."""


def _chat(record: Record) -> Example:
    return Example(_checked(_messages(record, "messages"), "messages"))


def _messages(record: Record, key: str) -> tuple[Message, ...]:
    return tuple(
        _message(turn, f"{key}.{index}") for index, turn in enumerate(_field(record, key, list))
    )


def _checked(messages: tuple[Message, ...], path: str) -> tuple[Message, ...]:
    """The same messages; raises for a chat that nothing can be learned from."""
    if not messages or messages[-1].role != "assistant":
        raise _LineError(path, "value", "the last message must be the assistant's")
    if len(messages) < 2 or messages[-2].role != "user":
        raise _LineError(
            path, "value", "the assistant's last message must answer one of the user's"
        )
    if any(message.role == "system" for message in messages[1:]):
        raise _LineError(path, "value", "a system message must be the first")
    return messages


def _message(turn: object, path: str) -> Message:
    if not isinstance(turn, dict):
        raise _LineError(
            path, "type", f"expected an object with `role` and `content`, found {_kind(turn)}"
        )
    role, content = _field(turn, "role", str, path), _field(turn, "content", str, path)
    if role not in ROLES:
        close = SPEAKERS.get(role.lower())
        hint = f"did you mean `{close}`?" if close else ""
        raise _LineError(
            f"{path}.role", "value", f"expected {' or '.join(ROLES)}, found {role[:60]!r}", hint
        )
    if role == "assistant":
        content = _with_reasoning(turn, content)
    return Message(role, content)


def _with_reasoning(turn: Record, content: str) -> str:
    """The answer behind its reasoning, where that stands in a field of its own."""
    reasoning = next(
        (turn[name] for name in REASONING_FIELDS if isinstance(turn.get(name), str)), ""
    )
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{content}" if reasoning.strip() else content


def _sharegpt(record: Record) -> Example:
    messages = [Message("system", _field(record, "system", str))] if record.get("system") else []
    for index, turn in enumerate(_field(record, "conversations", list)):
        path = f"conversations.{index}"
        if not isinstance(turn, dict):
            raise _LineError(
                path, "type", f"expected an object with `from` and `value`, found {_kind(turn)}"
            )
        speaker = _field(turn, "from", str, path)
        if speaker.lower() not in SPEAKERS:
            raise _LineError(
                f"{path}.from", "value", f"expected human, gpt or system, found {speaker[:60]!r}"
            )
        messages.append(Message(SPEAKERS[speaker.lower()], _field(turn, "value", str, path)))
    return Example(_checked(tuple(messages), "conversations"))


SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}
"""What other forms call a role."""


def _prompt_completion(record: Record) -> Example:
    return Example(_answered(record, "completion"))


def _answered(record: Record, key: str) -> tuple[Message, ...]:
    """`prompt` (text, or a chat that ends with the user) and the answer under `key` (text, or
    messages). Without a `prompt` the answer is a whole chat."""
    if "prompt" not in record and key in ("chosen", "rejected"):
        return _checked(_messages(record, key), key)
    asked = record.get("prompt")
    prompt = (
        _messages(record, "prompt")
        if isinstance(asked, list)
        else (Message("user", _field(record, "prompt", str)),)
    )
    answer = record.get(key)
    answers = (
        _messages(record, key)
        if isinstance(answer, list)
        else (Message("assistant", _field(record, key, str)),)
    )
    return _checked((*prompt, *answers), key)


def _alpaca(record: Record) -> Example:
    instruction, answer = _field(record, "instruction", str), _field(record, "output", str)
    given = _field(record, "input", str) if record.get("input") is not None else ""
    asked = f"{instruction}\n\n{given}" if given else instruction
    return Example((Message("user", asked), Message("assistant", answer)))


def _preference(record: Record) -> Example:
    better, worse = _answered(record, "chosen"), _answered(record, "rejected")
    if better == worse:
        raise _LineError("", "value", "`chosen` and `rejected` are the same")
    if better[:-1] != worse[:-1]:
        raise _LineError(
            "", "value", "`chosen` and `rejected` must differ in their last message alone"
        )
    return Example(better, rejected=worse)


def _kto(record: Record) -> Example:
    return Example(_answered(record, "completion"), label=_field(record, "label", bool))


def _text(record: Record) -> Example:
    return Example(text=_field(record, "text", str))


def _classification(record: Record) -> Example:
    label = record.get("label")
    name = (
        str(label)
        if isinstance(label, int) and not isinstance(label, bool)
        else _field(record, "label", str)
    )
    return Example((Message("user", _field(record, "text", str)),), label=name.strip())


_READERS: dict[str, Callable[[Record], Example]] = {
    "messages": _chat,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "preference": _preference,
    "kto": _kto,
    "text": _text,
    "classification": _classification,
}


def _example(example: Example, system: str | None) -> Example:
    """The example with its system prompt; raises when nothing can be learned from it."""
    texts = [message.content for message in (*example.messages, *example.rejected[-1:])] or [
        example.text
    ]
    ends = [chat[-1].content for chat in (example.messages, example.rejected) if chat] or [
        example.text
    ]
    if example.label == "" or not all(end.strip() for end in ends):
        answers = example.messages and example.messages[-1].role == "assistant"
        what = "the label" if example.label == "" else "the answer" if answers else "the text"
        raise _LineError("", "value", f"{what} is empty")
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise _LineError("", "value", "text with half a character (a lone surrogate)")
    if system is None or not example.messages or example.messages[0].role == "system":
        return example
    first = Message("system", system)
    rejected = (first, *example.rejected) if example.rejected else ()
    return example._replace(messages=(first, *example.messages), rejected=rejected)


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
