"""How far a compressed model is from the one it was made of: both read the same texts, and their
distributions of each next token are compared."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from assay.records.stages import Divergence

MAX_TEXTS, MAX_TOKENS = 16, 128
"""Texts that are read, and tokens of each."""

MAX_LOGITS = 64 * 2**20
"""Of all texts together: 256 MiB in float32, which is 436 positions of 152,000 words."""


class Reading(NamedTuple):
    """What one model says to the texts."""

    logits: Any
    """(positions, vocabulary), float32."""
    targets: Any
    """(positions,): the tokens that do come next."""
    device: str
    """Where it was computed: `cpu` or `cuda`."""


def read(model: Any, texts: Sequence[Sequence[int]]) -> Reading:
    """A model in memory on the first texts, in bfloat16 as it will serve."""
    import torch
    from compressed_tensors.offload import get_execution_device

    # llm-compressor keeps weights elsewhere than where they are computed with.
    device = torch.device(get_execution_device(model.get_input_embeddings()))
    logits, targets, left = [], [], MAX_LOGITS
    # The weights of the 4-bit floats are kept in float32 while the model is in memory.
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for text in texts[:MAX_TEXTS]:
            tokens = torch.tensor(text[:MAX_TOKENS], device=device)
            read_here = model(input_ids=tokens[None]).logits[0, :-1].float().cpu()
            logits.append(read_here)
            targets.append(tokens[1:].cpu())
            left -= read_here.numel()
            if left <= 0:
                break
    return Reading(torch.cat(logits), torch.cat(targets), device.type)


def read_folder(folder: Path, texts: Sequence[Sequence[int]], device: str = "cpu") -> Reading:
    """The same of a model folder, loaded as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    said: dict[str, Any] = {"dtype": torch.bfloat16}
    if device != "cpu":
        said["device_map"] = "auto"  # over as many GPUs as it takes
    model = AutoModelForCausalLM.from_pretrained(folder, **said)
    return read(model.eval(), texts)


def compare(merged: Reading, compressed: Reading) -> Divergence:
    """Kullback-Leibler divergence of the compressed model's distributions from the merged one's,
    in nats, as a mean over positions; and how often both find the same token likeliest."""
    import torch
    from torch.nn.functional import cross_entropy

    first = torch.log_softmax(merged.logits, dim=-1)
    second = torch.log_softmax(compressed.logits, dim=-1)
    divergences = (first.exp() * (first - second)).sum(dim=-1)
    agreed = merged.logits.argmax(dim=-1) == compressed.logits.argmax(dim=-1)
    return Divergence(
        kl=max(0.0, float(divergences.mean())),
        top1_agreement=float(agreed.float().mean()),
        loss=float(cross_entropy(compressed.logits, compressed.targets)),
        merged_loss=float(cross_entropy(merged.logits, merged.targets)),
        num_tokens=len(merged.targets),
    )


def distance(first: Reading, second: Reading) -> float:
    """Root mean square of the difference of logits, as a share of their spread within a
    position; infinite when either is not finite."""
    spread = first.logits - first.logits.mean(dim=-1, keepdim=True)
    difference = (first.logits - second.logits).pow(2).mean().sqrt()
    found = float(difference / spread.pow(2).mean().sqrt())
    return found if math.isfinite(found) else math.inf
