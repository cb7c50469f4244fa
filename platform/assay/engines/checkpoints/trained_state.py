"""What a training under plain data parallelism has changed, as a checkpoint keeps it: the trained
weights, and what AdaLoRA remembers of them. DeepSpeed writes checkpoints of its own."""

from pathlib import Path
from typing import Any

FILE = "trained.safetensors"
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""peft's names of AdaLoRA's running measures."""


def save(model: Any, folder: Path) -> None:
    """Writes `FILE` into the folder."""
    from safetensors.torch import save_file

    tensors = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            tensors[f"weight:{name}"] = weight
    if allocator := _allocator(model):
        for kind in IMPORTANCE:
            tensors |= {
                f"{kind}:{name}": values for name, values in getattr(allocator, kind).items()
            }
        tensors |= {
            f"rank:{name}": _mask(kept)
            for name, kept in (allocator.peft_config.rank_pattern or {}).items()
        }
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / FILE
    )


def load(model: Any, folder: Path) -> None:
    """Puts what `save` wrote back into a model of the same making."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / FILE)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(tensors[f"weight:{name}"])
    if allocator := _allocator(model):
        device = next(model.parameters()).device
        for kind in IMPORTANCE:
            found = {
                name.removeprefix(f"{kind}:"): tensors[name]
                for name in tensors
                if name.startswith(f"{kind}:")
            }
            setattr(allocator, kind, {name: values.to(device) for name, values in found.items()})
        # peft keeps them in the configuration, and reads them there at the next step.
        ranks = {
            name.removeprefix("rank:"): tensors[name]
            for name in tensors
            if name.startswith("rank:")
        }
        if ranks:
            allocator.peft_config.rank_pattern = {
                name: kept.bool().tolist() for name, kept in ranks.items()
            }


def _allocator(model: Any) -> Any:
    """AdaLoRA's; None for another method."""
    return getattr(getattr(model, "base_model", None), "rankallocator", None)


def _mask(kept: list[bool]) -> Any:
    import torch

    return torch.tensor(kept, dtype=torch.uint8)
