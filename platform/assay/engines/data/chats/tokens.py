"""One text as tokens: a chat through the model's own template, a text to be classified, or pieces
of plain text."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from assay.engines.data.chats.masks import marked
from assay.engines.data.chats.templates import (
    ChatFormat,
    Span,
    chat_format,
    serving_template,
)
from assay.errors import UsageError
from assay.loader.named import chat_templates

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
            "stand for; save it with a tokenizer.json"
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
