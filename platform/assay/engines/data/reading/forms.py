"""What the keys of a line mean: the forms that examples are written in."""

from collections.abc import Callable

from assay.engines.data.chats.templates import REASONING_FIELDS
from assay.engines.data.reading.examples import Example, Message, Record
from assay.engines.data.reading.line_errors import LineError, field_of, kind_of
from assay.spec.data import DataFormat

ROLES = ("system", "user", "assistant")


def format_of_record(record: Record) -> DataFormat:
    """Which format a file's first example has."""
    for format, keys in _KEYS.items():
        if not all(key in record for key in keys):
            continue
        # The same keys with a class for a label are no format that is known.
        if format != "kto" or isinstance(record["label"], bool):
            return format
    found = ", ".join(list(record)[:8]) or "none"
    wanted = (
        "`messages`, `prompt` and `completion`, `instruction` and `output`, or those of another "
        "form"
    )
    raise LineError(
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
    messages = []
    for index, turn in enumerate(field_of(record, key, list)):
        messages.append(_message(turn, f"{key}.{index}"))
    return tuple(messages)


def _checked(messages: tuple[Message, ...], path: str) -> tuple[Message, ...]:
    """The same messages; raises for a chat that nothing can be learned from."""
    if not messages or messages[-1].role != "assistant":
        raise LineError(path, "value", "the last message must be the assistant's")
    if len(messages) < 2 or messages[-2].role != "user":
        raise LineError(path, "value", "the assistant's last message must answer one of the user's")
    if any(message.role == "system" for message in messages[1:]):
        raise LineError(path, "value", "a system message must be the first")
    return messages


def _message(turn: object, path: str) -> Message:
    if not isinstance(turn, dict):
        raise LineError(
            path, "type", f"expected an object with `role` and `content`, found {kind_of(turn)}"
        )
    role, content = field_of(turn, "role", str, path), field_of(turn, "content", str, path)
    if role not in ROLES:
        close = SPEAKERS.get(role.lower())
        hint = f"did you mean `{close}`?" if close else ""
        raise LineError(
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
    messages = []
    if record.get("system"):
        messages.append(Message("system", field_of(record, "system", str)))
    for index, turn in enumerate(field_of(record, "conversations", list)):
        path = f"conversations.{index}"
        if not isinstance(turn, dict):
            raise LineError(
                path, "type", f"expected an object with `from` and `value`, found {kind_of(turn)}"
            )
        speaker = field_of(turn, "from", str, path)
        if speaker.lower() not in SPEAKERS:
            raise LineError(
                f"{path}.from", "value", f"expected human, gpt or system, found {speaker[:60]!r}"
            )
        messages.append(Message(SPEAKERS[speaker.lower()], field_of(turn, "value", str, path)))
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
    prompt, answers = _turns(record, "prompt", "user"), _turns(record, key, "assistant")
    return _checked((*prompt, *answers), key)


def _turns(record: Record, key: str, role: str) -> tuple[Message, ...]:
    """What stands under a key: messages, or the text of one in this role."""
    if isinstance(record.get(key), list):
        return _messages(record, key)
    return (Message(role, field_of(record, key, str)),)


def _alpaca(record: Record) -> Example:
    instruction, answer = field_of(record, "instruction", str), field_of(record, "output", str)
    asked = instruction
    if record.get("input") is not None:
        given = field_of(record, "input", str)
        asked = f"{instruction}\n\n{given}" if given else instruction
    return Example((Message("user", asked), Message("assistant", answer)))


def _preference(record: Record) -> Example:
    better, worse = _answered(record, "chosen"), _answered(record, "rejected")
    if better == worse:
        raise LineError("", "value", "`chosen` and `rejected` are the same")
    if better[:-1] != worse[:-1]:
        raise LineError(
            "", "value", "`chosen` and `rejected` must differ in their last message alone"
        )
    return Example(better, rejected=worse)


def _kto(record: Record) -> Example:
    return Example(_answered(record, "completion"), label=field_of(record, "label", bool))


def _text(record: Record) -> Example:
    return Example(text=field_of(record, "text", str))


def _classification(record: Record) -> Example:
    label = record.get("label")
    # True and False are ints to Python, and no names of classes.
    if isinstance(label, int) and not isinstance(label, bool):
        name = str(label)
    else:
        name = field_of(record, "label", str)
    return Example((Message("user", field_of(record, "text", str)),), label=name.strip())


READERS: dict[str, Callable[[Record], Example]] = {
    "messages": _chat,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "preference": _preference,
    "kto": _kto,
    "text": _text,
    "classification": _classification,
}
