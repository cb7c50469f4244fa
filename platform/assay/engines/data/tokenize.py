"""Tokenized splits by transformers: chats go through the model's own template once, and are kept
flat.

A split is one safetensors file: `tokens` (int32, all texts end to end), `loss_mask` (uint8, 1 where
a token bears loss) and `offsets` (int64, number of texts + 1); for pairs `texts_per_unit` (int64,
one number), and `labels` (int64, one a unit) where there are any. Nothing is padded, here or in
training.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from assay.engines.data.chat_masks import (
    ChatFormat,
    Span,
    chat_format,
    marked,
    serving_template,
    split_reasoning,
)
from assay.errors import UsageError
from assay.loader.named import chat_templates
from assay.spec.data import TooLong

if TYPE_CHECKING:
    import numpy as np

Chat = Sequence[dict[str, str]]
"""Messages with `role` and `content`."""


class Row(NamedTuple):
    """One unit of a split before it is tokenized: a chat, the two chats of a pair, or plain
    text."""

    chats: tuple[Chat, ...] = ()
    text: str = ""
    label: int = 0
    """Class, or 1 for a good and 0 for a bad answer."""
    is_classified: bool = False
    """Whether the chat is a text of its own where the tokenizer has no chat template, as those of
    encoders."""


class TokenizedExample(NamedTuple):
    """One text as the model sees it."""

    tokens: list[int]
    loss_mask: list[int]


@dataclass(frozen=True)
class SplitCounts:
    """What a written split holds."""

    num_examples: int
    num_tokens: int
    num_completion_tokens: int
    num_too_long: int
    """Left out."""
    num_cut: int = 0
    """Shortened, or split."""


def write_split(
    tokenizer_folder: Path, chats: Sequence[Chat], file: Path, *, max_length: int
) -> SplitCounts:
    """Tokenizes `chats` into `file`; those longer than `max_length` tokens are left out and
    counted."""
    return write_rows(
        tokenizer_folder, [Row((chat,)) for chat in chats], file, max_length=max_length
    )


def write_rows(
    tokenizer_folder: Path, rows: Sequence[Row], file: Path, *, max_length: int
) -> SplitCounts:
    """Tokenizes `rows` into `file`, as `tokenize_rows` does."""
    writer = SplitWriter(file)
    writer.add(tokenize_rows(tokenizer_folder, rows, max_length))
    return writer.close()


class TokenizedRows(NamedTuple):
    """Some rows of a split, as arrays; see the file's own form above."""

    tokens: "np.ndarray[Any, np.dtype[np.int32]]"
    loss_mask: "np.ndarray[Any, np.dtype[np.uint8]]"
    lengths: "np.ndarray[Any, np.dtype[np.int64]]"
    """Tokens of each text."""
    labels: "np.ndarray[Any, np.dtype[np.int64]]"
    """One a unit."""
    texts_per_unit: int
    num_too_long: int
    num_cut: int


def tokenize_rows(
    tokenizer_folder: Path, rows: Sequence[Row], max_length: int, too_long: TooLong = "drop"
) -> TokenizedRows:
    """Those with a text longer than `max_length` tokens are left out and counted, or made to fit;
    plain text is cut into pieces of that length instead. Of a pair the last answers alone bear
    loss."""
    import numpy as np

    needs_template = any(row.chats and not row.is_classified for row in rows)
    tokenizer = _kept_tokenizer(tokenizer_folder, needs_template=needs_template)
    units: list[tuple[list[TokenizedExample], int]] = []
    num_too_long = num_cut = 0
    for row in rows:
        if not row.chats:
            units += [([piece], row.label) for piece in pieces(tokenizer, row.text, max_length)]
            continue
        found = fit(tokenizer, row, max_length, too_long)
        units += [(texts, row.label) for texts in found.units]
        num_too_long += not found.units
        num_cut += found.is_cut
    texts = [text for unit, _ in units for text in unit]
    return TokenizedRows(
        tokens=np.array([token for text in texts for token in text.tokens], dtype=np.int32),
        loss_mask=np.array([bit for text in texts for bit in text.loss_mask], dtype=np.uint8),
        lengths=np.array([len(text.tokens) for text in texts], dtype=np.int64),
        labels=np.array([label for _, label in units], dtype=np.int64),
        texts_per_unit=len(units[0][0]) if units else 1,
        num_too_long=num_too_long,
        num_cut=num_cut,
    )


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
        shortened = [_shortened(write, chat, max_length) for chat in row.chats]
        cut = [
            TokenizedExample(text.tokens[:max_length], text.loss_mask[:max_length])
            for _, text in shortened
        ]
        # A classifier's text has no answer, and bears no loss.
        wants_loss = row.chats[0][-1]["role"] == "assistant"
        if all(any(text.loss_mask) or not wants_loss for text in cut):
            return Fitted([cut], [tuple(chat for chat, _ in shortened)], is_cut=True)
    elif too_long == "split" and len(row.chats) == 1:
        units = [(part,) for part in _parts(write, row.chats[0], max_length)]
    return Fitted([[write(chat) for chat in unit] for unit in units], units, is_cut=bool(units))


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
    number = max(
        (index for index, turn in enumerate(chat) if turn["role"] == "user"),
        key=lambda index: len(chat[index]["content"]),
    )
    content = chat[number]["content"]
    while len(text.tokens) > max_length and content:
        beyond = len(text.tokens) - max_length
        # A token has a letter at least, and mostly several: this comes near from above, and ends.
        content = content[
            : max(0, len(content) - max(beyond, len(content) * beyond // (2 * len(text.tokens))))
        ]
        turns = [
            {**turn, "content": content.rstrip()} if index == number else turn
            for index, turn in enumerate(chat)
        ]
        chat, text = turns, write(turns)
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


class SplitWriter:
    """Writes a split bit by bit: what is added lies on the disk at once, and is put together at the
    end.

    Source of the file's layout: https://huggingface.co/docs/safetensors (eight bytes of length, a
    JSON header, the tensors)."""

    TYPES: ClassVar = {
        "offsets": "I64",
        "labels": "I64",
        "texts_per_unit": "I64",
        "tokens": "I32",
        "loss_mask": "U8",
    }
    """In the order of the file: each begins at a multiple of its own width."""
    WIDTHS: ClassVar = {"I64": 8, "I32": 4, "U8": 1}

    def __init__(self, file: Path) -> None:
        self.file = file
        self.num_examples = self.num_tokens = self.num_completion_tokens = self.num_too_long = (
            self.num_cut
        ) = 0
        self._stride = 1
        self._parts = {name: file.with_name(f"{file.name}.{name}") for name in self.TYPES}
        for name, part in self._parts.items():
            part.write_bytes(bytes(8) if name == "offsets" else b"")

    def add(self, rows: TokenizedRows) -> None:
        """Adds rows to the end."""
        import numpy as np

        if len(rows.labels):
            self._stride = rows.texts_per_unit
        self._append(
            "offsets", (self.num_tokens + np.cumsum(rows.lengths)).astype(np.int64).tobytes()
        )
        for name in ("labels", "tokens", "loss_mask"):
            self._append(name, getattr(rows, name).tobytes())
        self.num_examples += len(rows.labels)
        self.num_tokens += len(rows.tokens)
        self.num_completion_tokens += int(rows.loss_mask.sum(dtype=np.int64))
        self.num_too_long += rows.num_too_long
        self.num_cut += rows.num_cut

    def close(self) -> SplitCounts:
        """Puts the file together."""
        self._append("texts_per_unit", self._stride.to_bytes(8, "little"))
        header, start = {}, 0
        for name, part in self._parts.items():
            size, kind = part.stat().st_size, self.TYPES[name]
            header[name] = {
                "dtype": kind,
                "shape": [size // self.WIDTHS[kind]],
                "data_offsets": [start, start + size],
            }
            start += size
        said = json.dumps(header).encode()
        said += b" " * (-len(said) % 8)
        with self.file.open("wb") as whole:
            whole.write(len(said).to_bytes(8, "little") + said)
            for part in self._parts.values():
                with part.open("rb") as read:
                    shutil.copyfileobj(read, whole)
                part.unlink()
        return SplitCounts(
            self.num_examples,
            self.num_tokens,
            self.num_completion_tokens,
            self.num_too_long,
            self.num_cut,
        )

    def _append(self, name: str, data: bytes) -> None:
        with self._parts[name].open("ab") as part:
            part.write(data)


def prompts_of(
    tokenizer_folder: Path, rows: Sequence[Row], max_length: int, too_long: TooLong = "drop"
) -> str:
    """The chats that `tokenize_rows` keeps, for online training: JSON lines of `prompt` messages
    and the data's `answer`."""
    tokenizer = _kept_tokenizer(tokenizer_folder)
    kept = [chats[0] for row in rows for chats in fit(tokenizer, row, max_length, too_long).chats]
    return "".join(
        json.dumps({"prompt": [*chat[:-1]], "answer": split_reasoning(chat[-1]["content"])[1]})
        + "\n"
        for chat in kept
    )


def fitting_chats(
    tokenizer_folder: Path, rows: Sequence[Row], max_length: int, too_long: TooLong
) -> list[Chat | None]:
    """Each row's first chat as far as it fits; None where it is left out. Nothing is split: what is
    asked is asked once."""
    tokenizer = _kept_tokenizer(
        tokenizer_folder, needs_template=any(not row.is_classified for row in rows)
    )
    way: TooLong = "drop" if too_long == "split" else too_long
    fitted = (fit(tokenizer, row._replace(chats=row.chats[:1]), max_length, way) for row in rows)
    return [one.chats[0][0] if one.chats else None for one in fitted]


def pieces(tokenizer: Any, text: str, max_length: int) -> Iterator[TokenizedExample]:
    """Plain text with its end token, cut into pieces; every token bears loss."""
    tokens = list(tokenizer(text)["input_ids"])
    if tokenizer.eos_token_id is not None and tokens[-1:] != [tokenizer.eos_token_id]:
        tokens.append(tokenizer.eos_token_id)
    for start in range(0, len(tokens), max_length):
        piece = tokens[start : start + max_length]
        if len(piece) > 1:  # a single token foretells nothing
            yield TokenizedExample(piece, [1] * len(piece))


def load_tokenizer(folder: Path, *, needs_template: bool = True) -> Any:
    """The folder's tokenizer; raises `UsageError` when it lacks a chat template that is needed, or
    has one by which chats cannot be written."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if needs_template:
        format_of(tokenizer)
    return tokenizer


_kept_tokenizer = lru_cache(maxsize=1)(load_tokenizer)  # rows come in blocks


def format_of(tokenizer: Any) -> ChatFormat:
    """How the tokenizer's chats are written; found out once for each template."""
    template = serving_template(tokenizer)
    kept = getattr(tokenizer, _FORMAT, None)
    if kept is not None and kept.template == template:
        found: ChatFormat = kept
        return found
    made = chat_format(tokenizer, chat_templates.arguments_of(Path(tokenizer.name_or_path)))
    setattr(tokenizer, _FORMAT, made)
    return made


_FORMAT = "_assay_chat_format"


def tokenize(tokenizer: Any, chat: Chat, *, last_turn_only: bool = False) -> TokenizedExample:
    """Renders a chat and marks the tokens of the assistant's turns (or of the last), end-of-turn
    token included, as `chat_masks` tells them apart. A chat that ends with the user's turn is
    rendered up to where an answer would begin."""
    text, answers = marked(format_of(tokenizer), chat, last_turn_only=last_turn_only)
    # The template has written the special tokens already.
    if not tokenizer.is_fast:
        raise UsageError(
            f"the tokenizer in {tokenizer.name_or_path} does not tell which characters its tokens "
            "stand for; save it "
            "with a tokenizer.json"
        )
    encoded = _encode(tokenizer, text, [0, len(text)])
    if not {answer.start for answer in answers} <= {span.start for span in encoded.spans}:
        # A server tokenizes the prompt alone, so that none of its tokens reaches into the answer.
        apart = _encode(tokenizer, text, [0, *(answer.start for answer in answers), len(text)])
        # Some tokenizers begin every piece with a space of their own; then that token bears no loss
        # instead.
        if tokenizer.decode(apart.tokens) == tokenizer.decode(encoded.tokens):
            encoded = apart
    return TokenizedExample(encoded.tokens, _loss_mask(encoded.spans, answers))


def classified(tokenizer: Any, chat: Chat) -> TokenizedExample:
    """A text that is to be classified: by the chat template up to where an answer would begin;
    where there is none, the last message with the special tokens of an encoder. No token bears
    loss."""
    if tokenizer.chat_template:
        return tokenize(tokenizer, chat)
    tokens = list(tokenizer(chat[-1]["content"])["input_ids"])
    return TokenizedExample(tokens, [0] * len(tokens))


class _Encoded(NamedTuple):
    """Tokens, and the characters of the text that each stands for."""

    tokens: list[int]
    spans: list[Span]


def _encode(tokenizer: Any, text: str, cuts: Sequence[int]) -> _Encoded:
    """The text between each two of the `cuts` by itself. White space that a tokenizer trims from
    the characters of a token belongs to the token after which it stands."""
    tokens: list[int] = []
    spans: list[Span] = []
    for first, last in pairwise(cuts):
        encoded = tokenizer(text[first:last], add_special_tokens=False, return_offsets_mapping=True)
        tokens += encoded["input_ids"]
        behind = first
        for start, end in encoded["offset_mapping"]:
            spans.append(Span(min(first + start, behind), first + end))
            behind = max(behind, first + end)
    return _Encoded(tokens, spans)


def _loss_mask(spans: Sequence[Span], answers: Sequence[Span]) -> list[int]:
    """1 for each token that lies in an answer with all of its characters."""
    loss_mask = []
    left = iter(answers)
    answer = next(left, None)
    for start, end in spans:
        while answer is not None and start >= answer.end:
            answer = next(left, None)
        loss_mask.append(int(answer is not None and answer.start <= start and end <= answer.end))
    return loss_mask
