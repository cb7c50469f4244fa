"""Tokenized splits by transformers: chats go through the model's own template once, and are kept
flat (see `split_file`)."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from assay.engines.data.chats.templates import (
    split_reasoning,
)
from assay.engines.data.chats.tokens import (
    Chat,
    Row,
    TokenizedExample,
    load_tokenizer,
    pieces,
)
from assay.engines.data.fitting import fit
from assay.engines.data.split_file import SplitCounts, SplitWriter, TokenizedRows
from assay.spec.data import TooLong


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
            for piece in pieces(tokenizer, row.text, max_length):
                units.append(([piece], row.label))
            continue
        found = fit(tokenizer, row, max_length, too_long)
        for texts in found.units:
            units.append((texts, row.label))
        num_too_long += not found.units
        num_cut += found.is_cut
    tokens: list[int] = []
    loss_mask: list[int] = []
    lengths, labels = [], []
    for unit, label in units:
        labels.append(label)
        for text in unit:
            tokens += text.tokens
            loss_mask += text.loss_mask
            lengths.append(len(text.tokens))
    return TokenizedRows(
        tokens=np.array(tokens, dtype=np.int32),
        loss_mask=np.array(loss_mask, dtype=np.uint8),
        lengths=np.array(lengths, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        texts_per_unit=len(units[0][0]) if units else 1,
        num_too_long=num_too_long,
        num_cut=num_cut,
    )


def prompts_of(
    tokenizer_folder: Path, rows: Sequence[Row], max_length: int, too_long: TooLong = "drop"
) -> str:
    """The chats that `tokenize_rows` keeps, for online training: JSON lines of `prompt` messages
    and the data's `answer`."""
    tokenizer = _kept_tokenizer(tokenizer_folder)
    lines = []
    for row in rows:
        for chat, *_ in fit(tokenizer, row, max_length, too_long).chats:
            answer = split_reasoning(chat[-1]["content"])[1]
            lines.append(json.dumps({"prompt": [*chat[:-1]], "answer": answer}) + "\n")
    return "".join(lines)


def fitting_chats(
    tokenizer_folder: Path, rows: Sequence[Row], max_length: int, too_long: TooLong
) -> list[Chat | None]:
    """Each row's first chat as far as it fits; None where it is left out. Nothing is split: what is
    asked is asked once."""
    needs_template = any(not row.is_classified for row in rows)
    tokenizer = _kept_tokenizer(tokenizer_folder, needs_template=needs_template)
    way: TooLong = "drop" if too_long == "split" else too_long
    first_chats: list[Chat | None] = []
    for row in rows:
        fitted = fit(tokenizer, row._replace(chats=row.chats[:1]), max_length, way)
        first_chats.append(fitted.chats[0][0] if fitted.chats else None)
    return first_chats


_kept_tokenizer = lru_cache(maxsize=1)(load_tokenizer)  # rows come in blocks
