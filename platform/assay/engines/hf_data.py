"""Tokenized splits by transformers: chats go through the model's own template once, and are kept flat.

A split is one safetensors file: `tokens` (int32, all examples end to end), `loss_mask` (uint8, 1 where a
token bears loss) and `offsets` (int64, num_examples + 1). Nothing is padded, here or in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from assay.errors import UsageError

Chat = Sequence[dict[str, str]]
"""Messages with `role` and `content`."""


class TokenizedExample(NamedTuple):
    """One example as the model sees it."""

    tokens: list[int]
    loss_mask: list[int]


@dataclass(frozen=True)
class SplitCounts:
    """What a written split holds."""

    num_examples: int
    num_tokens: int
    num_completion_tokens: int
    num_too_long: int


def write_split(tokenizer_folder: Path, chats: Sequence[Chat], file: Path, *, max_length: int) -> SplitCounts:
    """Tokenizes `chats` into `file`; those longer than `max_length` tokens are left out and counted."""
    import numpy as np
    from safetensors.numpy import save_file

    tokenizer = load_tokenizer(tokenizer_folder)
    examples = [tokenize(tokenizer, chat) for chat in chats]
    kept = [example for example in examples if len(example.tokens) <= max_length]
    lengths = [len(example.tokens) for example in kept]
    flat = [token for example in kept for token in example.tokens]
    mask = [bit for example in kept for bit in example.loss_mask]
    save_file(
        {
            "tokens": np.array(flat, dtype=np.int32),
            "loss_mask": np.array(mask, dtype=np.uint8),
            "offsets": np.cumsum([0, *lengths]).astype(np.int64),
        },
        file,
    )
    return SplitCounts(len(kept), len(flat), sum(mask), len(examples) - len(kept))


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; raises `UsageError` when it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise UsageError(f"the tokenizer in {folder} has no chat template; use an instruction-tuned model")
    return tokenizer


def tokenize(tokenizer: Any, chat: Chat) -> TokenizedExample:
    """Renders a chat and marks the tokens of the assistant's turns, end-of-turn token included."""
    tokens = _render(tokenizer, chat, add_generation_prompt=False)
    loss_mask = [0] * len(tokens)
    for index, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        prompt = _render(tokenizer, chat[:index], add_generation_prompt=True)
        turn = _render(tokenizer, chat[: index + 1], add_generation_prompt=False)
        if tokens[: len(turn)] != turn or turn[: len(prompt)] != prompt:
            raise UsageError(
                "the chat template rewrites earlier turns, so that the assistant's tokens cannot be told apart; "
                "train on one turn an example"
            )
        end = _end_of_turn(turn, len(prompt), tokenizer.eos_token_id)
        loss_mask[len(prompt) : end] = [1] * (end - len(prompt))
    return TokenizedExample(tokens, loss_mask)


def _render(tokenizer: Any, chat: Chat, *, add_generation_prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=add_generation_prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _end_of_turn(turn: list[int], start: int, eos: int | None) -> int:
    """Just after the last end-of-sequence token, or the end: a template's closing newline is not learned."""
    for position in range(len(turn) - 1, start, -1):
        if turn[position] == eos:
            return position + 1
    return len(turn)
