"""A tokenized training split of texts that a tiny model could have seen."""

import random
from pathlib import Path

FIRST_TOKEN, LAST_TOKEN = 5, 200
"""Of the tokens that are drawn: no special ones."""


def write_split(
    file: Path,
    *,
    num_texts: int = 24,
    seed: int = 0,
    tokens: tuple[int, int] = (FIRST_TOKEN, LAST_TOKEN),
) -> Path:
    """Texts of 20 to 60 tokens drawn at random, as `prepare` writes a split."""
    import numpy as np
    from safetensors.numpy import save_file

    draw = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        length = draw.randint(20, 60)
        texts.append([draw.randint(*tokens) for _ in range(length)])
    ends = np.cumsum([len(text) for text in texts])
    tensors = {
        "tokens": np.concatenate([np.array(text, dtype=np.int32) for text in texts]),
        "loss_mask": np.ones(int(ends[-1]), dtype=np.uint8),
        "offsets": np.concatenate([[0], ends]).astype(np.int64),
    }
    save_file(tensors, file)
    return file
