"""Tokenized splits, and batches made of them: end to end without padding, or padded where a method
or a head needs a row for each text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

IGNORED = -100  # torch's cross entropy leaves such labels out

Batch = dict[str, "torch.Tensor"]
"""What the model is given, and beside it (see `take_extras`) what only the loss reads."""

EXTRAS = ("labels", "targets", "sizes", "units", "unit_labels", "target_mask")


class Unit(NamedTuple):
    """What the loss is counted by: one text, or the two texts of a pair."""

    number: int
    """Its place in the split, from 0."""
    texts: "tuple[tuple[torch.Tensor, torch.Tensor], ...]"
    """Tokens and loss mask of each text."""
    label: int
    """Class, or 1 for a good and 0 for a bad answer; 0 where there are no labels."""


@dataclass
class PackedSplit:
    """A tokenized split; item `i` is its unit `i`."""

    tokens: "torch.Tensor"
    loss_mask: "torch.Tensor"
    offsets: "torch.Tensor"
    texts_per_unit: int = 1
    labels: "torch.Tensor | None" = None

    @classmethod
    def load(cls, file: str) -> "PackedSplit":
        """A file that `hf_data.write_split` wrote. It is mapped into memory, and read where it is
        looked at."""
        from safetensors.torch import load_file

        tensors = load_file(file)
        if "texts_per_unit" in tensors:
            stride = int(tensors["texts_per_unit"][0])
        else:
            stride = 1
        return cls(
            tensors["tokens"],
            tensors["loss_mask"],
            tensors["offsets"],
            stride,
            tensors.get("labels"),
        )

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.texts_per_unit

    def __getitem__(self, index: int) -> Unit:
        first = index * self.texts_per_unit
        texts = tuple(self._text(first + number) for number in range(self.texts_per_unit))
        return Unit(index, texts, int(self.labels[index]) if self.labels is not None else 0)

    def _text(self, number: int) -> "tuple[torch.Tensor, torch.Tensor]":
        span = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        return self.tokens[span].long(), self.loss_mask[span].bool()


def collate(units: Sequence[Unit], *, count_units: bool = False) -> Batch:
    """Lays all texts end to end, `position_ids` starting at 0 for each, so that the attention mask
    keeps them apart.

    For the model: `input_ids`, `position_ids` (1, T); `logits_to_keep` (K,), the positions whose
    next token bears loss. For the loss: `targets` (K,), those next tokens; `sizes`, how many of
    them each text has; `units` and `unit_labels` (N,); `labels` (1, K + 1), or (1, N + 1) when
    units are counted: Trainer counts what is not ignored in it, from the second on, over the whole
    global batch."""
    import torch

    texts = [text for unit in units for text in unit.texts]
    tokens = torch.cat([text[0] for text in texts])
    positions = torch.cat([torch.arange(len(text[0])) for text in texts])
    bears_loss = torch.cat([text[1] for text in texts])
    # The first token of a text has nothing before it to be predicted from.
    bears_loss &= positions > 0
    keep = bears_loss.nonzero().squeeze(1) - 1
    return {
        "input_ids": tokens.unsqueeze(0),
        "position_ids": positions.unsqueeze(0),
        "logits_to_keep": keep,
        **_extras(units, tokens[keep + 1], [int(text[1][1:].sum()) for text in texts], count_units),
    }


def collate_padded(units: Sequence[Unit], *, count_units: bool = False, pad: int = 0) -> Batch:
    """A row for each text, padded on the right with `pad`. For the model: `input_ids`,
    `attention_mask` (P, L). For the loss: the same as `collate`, and `target_mask` (P, L), true at
    the tokens that bear loss."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    texts = [text for unit in units for text in unit.texts]
    tokens = pad_sequence([text[0] for text in texts], batch_first=True, padding_value=pad)
    mask = pad_sequence([text[1] for text in texts], batch_first=True, padding_value=False)
    # As in `collate`: nothing predicts the first token of a text.
    mask[:, 0] = False
    real = pad_sequence([torch.ones_like(text[0]) for text in texts], batch_first=True)
    sizes = [int(text[1][1:].sum()) for text in texts]
    return {
        "input_ids": tokens,
        "attention_mask": real,
        "target_mask": mask,
        **_extras(units, tokens[mask], sizes, count_units),
    }


# Sizes of packed batches are rounded up to this many steps from one power of two to the next.
STEPS_PER_OCTAVE = 8
SMALLEST_STEP = 16


def rounded_up(batch: Batch) -> Batch:
    """A packed batch whose sizes come again and again: a last text of token 0 fills its row up, and
    `logits_to_keep` has more positions than `targets` has tokens. Padded batches stay as they are.

    oneDNN, which multiplies in bf16 on processors, compiles a kernel for each new shape and keeps
    it: some milliseconds and 0.9 MB each (torch 2.13), of which one step has about 25. Packed rows
    are of any length, so that nearly every step would compile them all; the demo's training is
    1.17 times as fast without that, and its memory no longer grows by 25 MB a step. A row is 4 %
    longer on the average."""
    import torch
    from torch.nn.functional import pad

    if "position_ids" not in batch:
        return batch
    tokens, keep = batch["input_ids"], batch["logits_to_keep"]
    fill = rounded(tokens.shape[1]) - tokens.shape[1]
    filler = torch.arange(fill, device=tokens.device).unsqueeze(0)
    return {
        **batch,
        "input_ids": pad(tokens, (0, fill)),
        "position_ids": torch.cat([batch["position_ids"], filler], 1),
        "logits_to_keep": pad(keep, (0, rounded(len(keep)) - len(keep))),
    }


def rounded(size: int) -> int:
    """The next size that is used, from 16 on."""
    octave: int = 2 ** (size.bit_length() - 1)
    step = max(SMALLEST_STEP, octave // STEPS_PER_OCTAVE)
    return step * math.ceil(max(size, 1) / step)


def take_extras(batch: Batch) -> Batch:
    """Takes what only the loss reads out of `batch`, and returns it."""
    return {name: batch.pop(name) for name in EXTRAS if name in batch}


def _extras(
    units: Sequence[Unit], targets: "torch.Tensor", sizes: list[int], count_units: bool
) -> Batch:
    import torch

    if count_units:
        counted = torch.zeros(len(units), dtype=torch.long)
    else:
        counted = targets
    return {
        # Trainer shifts labels by one when it counts them, so that a first one has to stand before.
        "labels": torch.cat([torch.tensor([IGNORED]), counted]).unsqueeze(0),
        "targets": targets,
        "sizes": torch.tensor(sizes),
        "units": torch.tensor([unit.number for unit in units]),
        "unit_labels": torch.tensor([unit.label for unit in units]),
    }
