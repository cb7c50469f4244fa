"""The lengths of a tokenized split, read from its file without loading a library or a token (see
`hf_data`).

Source of the layout: https://huggingface.co/docs/safetensors (eight bytes of length, a JSON header,
the tensors).
"""

import json
import struct
from array import array
from itertools import pairwise
from math import sqrt
from pathlib import Path

from assay.records.plan import DataPlan

CHUNK_BYTES = 1 << 20


def split_lengths(file: Path) -> DataPlan:
    """Counts of the split in `file`. Raises `OSError` or `ValueError` when it is no such file."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(size))
        start, end = header["offsets"]["data_offsets"]
        opened.seek(8 + size + start)
        offsets = array("q", opened.read(end - start))
        texts_per_unit = 1
        if "texts_per_unit" in header:
            opened.seek(8 + size + header["texts_per_unit"]["data_offsets"][0])
            (texts_per_unit,) = struct.unpack("<q", opened.read(8))
        offsets = offsets[::texts_per_unit]  # the texts of a pair stand side by side
        start, end = header["loss_mask"]["data_offsets"]
        opened.seek(8 + size + start)
        chunks = iter(lambda: opened.read(min(CHUNK_BYTES, 8 + size + end - opened.tell())), b"")
        num_loss_tokens = sum(sum(chunk) for chunk in chunks)
    lengths = [after - before for before, after in pairwise(offsets)]
    if not lengths:
        raise ValueError(f"{file} holds no examples")
    mean = sum(lengths) / len(lengths)
    squares = sum((length - mean) ** 2 for length in lengths)
    return DataPlan(
        num_examples=len(lengths),
        num_tokens=sum(lengths),
        num_loss_tokens=num_loss_tokens,
        longest=max(lengths),
        deviation=sqrt(squares / len(lengths)),
        num_gate=None,
        exact=True,
    )
