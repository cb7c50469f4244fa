"""Which kernels compute a training run: what the spec, the hardware and the model allow, and why
not the others."""

from dataclasses import dataclass
from typing import Any

from assay.engines.models import packed_attention
from assay.engines.models.deepspeed_config import Precision
from assay.errors import UsageError
from assay.spec.train import Kernel, TrainSpec

AUTO: tuple[Kernel, ...] = ("flash", "liger")
ALL: tuple[Kernel, ...] = (*AUTO, "compile")
FLASH_CAPABILITY = (8, 0)  # Ampere, says https://github.com/Dao-AILab/flash-attention

LIGER: dict[str, Any] = {
    "use_liger_kernel": True,
    # The objectives compute their own losses, from logits at the positions that bear loss.
    "liger_kernel_config": {"fused_linear_cross_entropy": False},
}
"""What transformers' `TrainingArguments` are told for Liger's norms, rotary embeddings and gated
layers."""


@dataclass(frozen=True)
class Kernels:
    """What was chosen."""

    attention: str
    """transformers' name for it."""
    used: tuple[Kernel, ...]
    unused: dict[str, str]
    """Why each of the others is not used."""


def choose(
    folder: str, train: TrainSpec, *, precision: Precision, on_gpu: bool, packed: bool
) -> Kernels:
    """Decides for the model in a folder; `packed` batches hold many texts in a row.
    Raises `UsageError` when the spec names a kernel that cannot be used."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    named = train.kernels if isinstance(train.kernels, tuple) else None
    if named is not None:
        asked = named
    elif train.kernels == "auto":
        asked = AUTO
    else:
        asked = ()
    unused: dict[str, str] = {}
    for kernel in ALL:
        why = _why_not(kernel, train, config, precision=precision, on_gpu=on_gpu)
        if kernel not in asked:
            unused[kernel] = why or "train.kernels does not ask for it"
        elif why:
            unused[kernel] = why
    if named and (cannot := [kernel for kernel in named if kernel in unused]):
        raise UsageError(
            f"train.kernels: {cannot[0]} cannot be used here: {unused[cannot[0]]}; `auto` takes "
            "what can"
        )
    used = tuple(kernel for kernel in asked if kernel not in unused)
    by_text = packed and train.kernels != "none" and "compile" not in used
    by_text = by_text and (not on_gpu or _has_torch_flash(precision))
    if "flash" in used:
        attention = "flash_attention_2"
    elif by_text and packed_attention.fits(config, longest=train.max_length):
        attention = packed_attention.register(on_gpu=on_gpu)
    else:
        attention = "sdpa"
    return Kernels(attention, used, unused)


def compile_layers(model: Any) -> None:
    """Has torch compile each layer when it is first called; row lengths may differ from call to
    call."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def _why_not(
    kernel: Kernel, train: TrainSpec, config: Any, *, precision: Precision, on_gpu: bool
) -> str | None:
    """Why a kernel cannot be used; None when it can."""
    if kernel == "compile":
        return None
    if not on_gpu:
        return "there is no GPU"
    if kernel == "flash":
        return _why_not_flash(precision)
    return _why_not_liger(train, str(config.model_type))


def _has_torch_flash(precision: Precision) -> bool:
    """Whether torch's own FlashAttention computes here; it has the package's limits."""
    import torch

    capable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= FLASH_CAPABILITY
    return precision != "fp32" and capable and packed_attention.has_varlen()


def _why_not_flash(precision: Precision) -> str | None:
    import torch
    from transformers.utils import is_flash_attn_2_available

    if precision == "fp32":
        return "FlashAttention computes in 16 bits, and the precision is fp32"
    if torch.cuda.get_device_capability() < FLASH_CAPABILITY:
        return "FlashAttention 2 needs an Ampere GPU or a newer one"
    if is_flash_attn_2_available():
        return None
    return "the package flash-attn is not installed"


def _why_not_liger(train: TrainSpec, model_type: str) -> str | None:
    from transformers.utils import is_liger_kernel_available

    if train.objective.grpo is not None:
        return "TRL would compute another loss with it"
    if not is_liger_kernel_available():
        return "the package liger-kernel is not installed"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return None
    return f"it has no kernels for a {model_type}"
