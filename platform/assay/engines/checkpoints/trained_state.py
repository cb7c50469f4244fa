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
            for name, values in getattr(allocator, kind).items():
                tensors[f"{kind}:{name}"] = values
        for name, kept in (allocator.peft_config.rank_pattern or {}).items():
            tensors[f"rank:{name}"] = _mask(kept)
    # safetensors refuses tensors that are not contiguous.
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / FILE)


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
            found = {}
            for name, values in _of_kind(tensors, kind).items():
                found[name] = values.to(device)
            setattr(allocator, kind, found)
        # peft keeps them in the configuration, and reads them there at the next step.
        pattern = {}
        for name, kept in _of_kind(tensors, "rank").items():
            pattern[name] = kept.bool().tolist()
        if pattern:
            allocator.peft_config.rank_pattern = pattern


def _of_kind(tensors: dict[str, Any], kind: str) -> dict[str, Any]:
    """The tensors of one kind, by their own names."""
    prefix = f"{kind}:"
    found = {}
    for name, values in tensors.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = values
    return found


def _allocator(model: Any) -> Any:
    """AdaLoRA's; None for another method."""
    return getattr(getattr(model, "base_model", None), "rankallocator", None)


def _mask(kept: list[bool]) -> Any:
    import torch

    return torch.tensor(kept, dtype=torch.uint8)
