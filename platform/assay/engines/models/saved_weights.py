"""Whether what was saved is what was trained: every tensor there, of its shape, in files that are
whole."""

import math
from pathlib import Path
from typing import Any

from assay.engines.models import bottleneck
from assay.errors import StageFailed

Shapes = dict[str, tuple[int, ...]]


def check_saved(folder: Path, model: Any, *, doubled_ranks: bool = False) -> None:
    """Raises `StageFailed` when a tensor of the model (of its adapter, if it has one) is missing
    from the folder's safetensors, is of another shape, or has no name in the model; or when a file
    is cut short. ZeRO-3 without its gathering saves empty tensors. `doubled_ranks` is for an
    adapter saved as a difference of two."""
    found = saved_shapes(folder)
    if hasattr(model, "peft_config"):
        wanted = _adapter_shapes(model)
    else:
        wanted = _model_shapes(model)
    if trained := bottleneck.trained_weights(model):
        wanted = {name: _shape(weight) for name, weight in trained.items()}
    if doubled_ranks:
        found = {name: _halved(name, shape) for name, shape in found.items()}
    alike = _tied(model)
    missing = []
    for name in wanted:
        if not any(one in found for one in alike.get(name, [name])):
            missing.append(name)
    wrong, unknown = [], []
    for name, shape in found.items():
        if name not in wanted:
            unknown.append(name)
        elif shape != wanted[name]:
            wrong.append(name)
    for what, those in (
        ("are missing", missing),
        ("have another shape", wrong),
        ("are not the model's", unknown),
    ):
        if those:
            raise StageFailed(
                f"what training saved in {folder} is not what it trained: {len(those)} of "
                f"{len(wanted)} tensors {what}, such as {those[0]}"
            )


def saved_shapes(folder: Path) -> Shapes:
    """Shape of every tensor in the folder's safetensors. Raises `StageFailed` when there is none,
    or a file is not as long as its header says."""
    from safetensors import SafetensorError, safe_open

    shapes: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                    shapes[name] = tuple(weights.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise StageFailed(f"{file}, which training saved, is not whole: {error}") from error
    if not sum(math.prod(shape) for shape in shapes.values()):
        raise StageFailed(f"training saved no weights in {folder}")
    return shapes


def _model_shapes(model: Any) -> Shapes:
    return {name: _shape(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


def _adapter_shapes(model: Any) -> Shapes:
    import torch
    from peft import get_peft_model_state_dict

    state = None
    if any(hasattr(weight, "ds_shape") for weight in model.parameters()):
        # Under ZeRO-3 a weight here is a part, or empty: peft picks its own from stand-ins instead.
        state = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            state[name] = torch.empty(_shape(tensor), device="meta")
    adapter = get_peft_model_state_dict(model, state_dict=state)
    return {name: tuple(value.shape) for name, value in adapter.items()}


def _shape(tensor: Any) -> tuple[int, ...]:
    """A weight's whole shape, which ZeRO-3 keeps beside the part that is here."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def _tied(model: Any) -> dict[str, list[str]]:
    """For each weight the names of those that are the same: of tied weights only one is saved."""
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    tied = {}
    for alike in names.values():
        for name in alike:
            tied[name] = alike
    return tied


def _halved(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a LoRA factor with half of its rank: A is (rank, in), B is (out, rank)."""
    if "lora_A" in name:
        return (shape[0] // 2, *shape[1:])
    if "lora_B" in name:
        return (*shape[:-1], shape[-1] // 2)
    return shape
