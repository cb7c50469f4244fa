"""A model made worse by a known amount: noise on its weights. Safetensors in, safetensors out."""

import shutil
from pathlib import Path
from typing import Any

from assay.errors import UsageError

# Raised when the same seed gives other bytes.
VERSION = 1


def add_noise(source: Path, target: Path, noise: float, seed: int) -> None:
    """Copies the model folder `source` to `target`, with normal noise on every weight matrix: its
    standard deviation is `noise` times the matrix's own. Whole numbers of a quantized model stay
    whole. The same seed gives the same bytes. Raises `UsageError` for a folder without weights."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    if not list(source.glob("*.safetensors")):
        raise UsageError(f"{source} holds no weights in safetensors form")
    generator = torch.Generator().manual_seed(seed)
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(filter(Path.is_file, source.iterdir())):
        if file.suffix != ".safetensors":
            shutil.copy2(file, target / file.name)
            continue
        with safe_open(str(file), framework="pt") as weights:
            names = sorted(weights.keys())
            tensors = {}
            for name in names:
                tensors[name] = _noised(weights.get_tensor(name), noise, generator)
            save_file(tensors, str(target / file.name), metadata=weights.metadata())


def _noised(tensor: Any, noise: float, generator: Any) -> Any:
    import torch

    if tensor.dim() < 2 or min(tensor.shape) < 2:
        return tensor.contiguous()  # norms, biases and the scales of a quantized model
    values = tensor.float()
    values = values + noise * values.std() * torch.randn(values.shape, generator=generator)
    if tensor.dtype.is_floating_point:
        return values.to(tensor.dtype).contiguous()
    limits = torch.iinfo(tensor.dtype)
    return values.round().clamp(limits.min, limits.max).to(tensor.dtype).contiguous()
