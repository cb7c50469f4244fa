"""The training examples that compression looks at: tokens of the prepared training split, so that
they went through the chat template, and nothing that is held out is among them."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.errors import UsageError
from assay.spec.compress import CalibrationSpec

Texts = list[list[int]]
"""Token ids, text by text."""


def chosen_texts(split: Path, calibration: CalibrationSpec) -> Texts:
    """The texts of a tokenized split whose tokens' SHA-256 comes first: the same ones whatever the
    order of the data. Raises `UsageError` when the split has none that can be learned from."""
    from safetensors.numpy import load_file

    tensors = load_file(split)
    tokens, offsets = tensors["tokens"], tensors["offsets"].tolist()
    by_digest: dict[bytes, list[int]] = {}
    for start, end in itertools.pairwise(offsets):
        if end - start < 2:  # nothing to predict
            continue
        text = tokens[start:end]
        by_digest[hashlib.sha256(text.tobytes()).digest()] = text[: calibration.max_tokens].tolist()
    if not by_digest:
        raise UsageError("compression is calibrated on the training split, which is empty")
    first = sorted(by_digest)[: calibration.num_samples]
    return [by_digest[digest] for digest in first]


def batches(texts: Sequence[Sequence[int]]) -> Any:
    """A torch `DataLoader` with one text a batch: nothing is padded."""
    import torch
    from torch.utils.data import DataLoader

    rows = []
    for text in texts:
        tokens = torch.tensor(text)
        rows.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    return DataLoader(rows, batch_size=1)
