"""The frozen base model, kept in a worker's memory from one training to the next.

Only a model whose weights were not touched is kept: after adapters are taken off it, a few of its
tensors are compared with what they were.
"""

import gc
import hashlib
from collections.abc import Callable
from typing import Any

# Tensors that are compared, spread over the model.
NUM_WITNESSES = 8

_kept: dict[tuple[object, ...], tuple[Any, str]] = {}
_lent: dict[int, tuple[tuple[object, ...], str]] = {}


def borrow(key: tuple[object, ...], load: Callable[[], Any]) -> Any:
    """The model that was given back under `key` (whatever its loading depends on), or a newly
    loaded one."""
    if key in _kept:
        model, witness = _kept.pop(key)
    else:
        _kept.clear()  # another one would fill the memory
        gc.collect()
        model = load()
        witness = _witness(model)
    _lent.clear()
    _lent[id(model)] = (key, witness)
    return model


def give_back(trained: Any) -> None:
    """Takes the adapters off a borrowed model and keeps it for the next training; what cannot be
    had back as it was is let go."""
    if not _lent:
        return
    base = _without_adapters(trained)
    key, witness = _lent.pop(id(base), (None, ""))
    if base is not None and key is not None and _witness(base) == witness:
        base.train(False)
        _kept[key] = (base, witness)


def _without_adapters(trained: Any) -> Any:
    """The base model as it was loaded; None for methods that leave traces in it."""
    from peft import LoraConfig, PeftModel

    if not isinstance(trained, PeftModel):
        return None
    configs = trained.peft_config.values()
    plain = True
    for config in configs:
        plain = plain and isinstance(config, LoraConfig) and config.init_lora_weights is True
    sharded = any(hasattr(parameter, "ds_id") for parameter in trained.parameters())
    if plain and not sharded:
        return trained.unload()
    return None


def _witness(model: Any) -> str:
    """SHA-256 over a few tensors, spread over the model."""
    import torch

    parameters = sorted(model.named_parameters())
    sha256 = hashlib.sha256()
    for name, tensor in parameters[:: max(1, len(parameters) // NUM_WITNESSES)]:
        sha256.update(name.encode())
        sha256.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()
