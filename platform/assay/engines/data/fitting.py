"""Making chats fit into the longest text that a model is given: left out, shortened, or split."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from assay.engines.data.chats.tokens import Chat, Row, TokenizedExample, classified, tokenize
from assay.spec.data import TooLong


class Fitted(NamedTuple):
    """A row as far as it fits: no unit where nothing could be done, several where it was split."""

    units: list[list[TokenizedExample]]
    chats: list[tuple[Chat, ...]]
    """The chats of each unit."""
    is_cut: bool


def fit(tokenizer: Any, row: Row, max_length: int, too_long: TooLong) -> Fitted:
    """The row's chats as tokens, none longer than `max_length`."""
    write = _writer(tokenizer, row)
    texts = [write(chat) for chat in row.chats]
    if all(len(text.tokens) <= max_length for text in texts):
        return Fitted([texts], [row.chats], is_cut=False)
    units: list[tuple[Chat, ...]] = []
    if too_long == "truncate":
        chats, cut = [], []
        for whole in row.chats:
            chat, text = _shortened(write, whole, max_length)
            chats.append(chat)
            # Without any question the rest may still be too long: then its end is left out.
            cut.append(TokenizedExample(text.tokens[:max_length], text.loss_mask[:max_length]))
        # A classifier's text has no answer, and bears no loss.
        wants_loss = row.chats[0][-1]["role"] == "assistant"
        if all(any(text.loss_mask) or not wants_loss for text in cut):
            return Fitted([cut], [tuple(chats)], is_cut=True)
    elif too_long == "split" and len(row.chats) == 1:
        for part in _parts(write, row.chats[0], max_length):
            units.append((part,))
    written = []
    for unit in units:
        written.append([write(chat) for chat in unit])
    return Fitted(written, units, is_cut=bool(units))


def longest_chat(tokenizer: Any, row: Row) -> int:
    """Tokens of the longest of the row's chats, as they are."""
    write = _writer(tokenizer, row)
    return max(len(write(chat).tokens) for chat in row.chats)


def _writer(tokenizer: Any, row: Row) -> Callable[[Chat], TokenizedExample]:
    """How the row's chats become tokens."""
    if row.is_classified:
        return partial(classified, tokenizer)
    return partial(tokenize, tokenizer, last_turn_only=len(row.chats) > 1)


def _shortened(
    write: Callable[[Chat], TokenizedExample], chat: Chat, max_length: int
) -> tuple[Chat, TokenizedExample]:
    """The chat with the end of its longest question left out, so that it fits; where even without
    it the chat does not, with nothing of it."""
    text = write(chat)
    questions = [index for index, turn in enumerate(chat) if turn["role"] == "user"]
    number = max(questions, key=lambda index: len(chat[index]["content"]))
    content = chat[number]["content"]
    while len(text.tokens) > max_length and content:
        beyond = len(text.tokens) - max_length
        # A token has a letter at least, and mostly several: this comes near from above, and ends.
        too_many = max(beyond, len(content) * beyond // (2 * len(text.tokens)))
        content = content[: max(0, len(content) - too_many)]
        shorter = {**chat[number], "content": content.rstrip()}
        chat = [*chat[:number], shorter, *chat[number + 1 :]]
        text = write(chat)
    return chat, text


def _parts(write: Callable[[Chat], TokenizedExample], chat: Chat, max_length: int) -> list[Chat]:
    """The chat in as few parts as fit, each with the system's message and whole questions with
    their answers. An exchange that does not fit alone is left out."""
    first = [turn for turn in chat[:1] if turn["role"] == "system"]
    exchanges: list[list[dict[str, str]]] = []
    for turn in chat[len(first) :]:
        if turn["role"] == "user" and (not exchanges or exchanges[-1][-1]["role"] == "assistant"):
            exchanges.append([])
        if exchanges:
            exchanges[-1].append(turn)
    parts: list[Chat] = []
    part: list[dict[str, str]] = []
    for exchange in exchanges:
        if part and _fits(write, [*first, *part, *exchange], max_length):
            part += exchange
            continue
        if part:
            parts.append([*first, *part])
        part = exchange if _fits(write, [*first, *exchange], max_length) else []
    return [*parts, [*first, *part]] if part else parts


def _fits(write: Callable[[Chat], TokenizedExample], chat: Chat, max_length: int) -> bool:
    return len(write(chat).tokens) <= max_length
