"""Bottleneck adapters: small networks inside a model's layers, hung onto its modules without
changing their names.

An adapter's folder is like peft's: `adapter_model.safetensors` and `adapter_config.json`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from assay.errors import StageFailed, UsageError
from assay.spec.method import BottleneckSpec

HEADS = ("score", "classifier")  # what transformers calls the head of a sequence classifier
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "bottleneck"
"""Under which a module of the base model holds its adapter."""

SUBLAYERS = {"mlp": ("mlp", "feed_forward"), "attention": ("self_attn", "attn", "attention")}
"""What models call the two parts of a layer."""

GATED = ("gate_proj", "up_proj", "down_proj")


def attach(model: Any, spec: BottleneckSpec, *, in_fp32: bool) -> Any:
    """The model with adapters that do nothing yet; beside them only a new head is left trainable.
    Raises `UsageError` where the model's layers are not of a form that takes them."""
    import torch

    dtype = torch.float32 if in_fp32 else model.dtype
    model.requires_grad_(False)
    for name in HEADS:
        if hasattr(model, name):
            getattr(model, name).requires_grad_(True)
    kind = _types()[spec.placement == "parallel"]
    for layer in _layers(model, spec):
        for part in ("mlp", "attention") if spec.placement == "after_both" else ("mlp",):
            host = sublayer_of(layer, part)
            if spec.placement == "parallel" and not all(hasattr(host, name) for name in GATED):
                raise UsageError(
                    f"method: bottleneck with placement: parallel widens {', '.join(GATED)}, and "
                    "this model's layers have no such matrices; use placement: after_mlp, or lora"
                )
            adapter = kind(model.config.hidden_size, spec.size, model.config.hidden_act)
            host.add_module(NAME, adapter.to(dtype=dtype, device=model.device))
            adapter.hang_on(host)
    return model


def trained_weights(model: Any) -> dict[str, Any]:
    """What is trained of a model that has bottleneck adapters, by name; nothing for another
    model."""
    if not any(name.endswith(f".{NAME}") for name, _ in model.named_modules()):
        return {}
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save(model: Any, spec: BottleneckSpec, folder: Path) -> None:
    """Writes the adapters, and a new head with them. All workers call it together: under ZeRO-3
    each has a part."""
    import deepspeed
    import torch.distributed as dist
    from safetensors.torch import save_file

    trained = trained_weights(model)
    # DeepSpeed marks what it has sharded; there is no public way to ask.
    sharded = any(hasattr(weight, "ds_id") for weight in trained.values())
    with deepspeed.zero.GatheredParameters(list(trained.values()), enabled=sharded):
        if dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {}
            for name, weight in trained.items():
                tensors[name] = weight.detach().cpu().clone().contiguous()
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
            scores = any(hasattr(model, name) for name in HEADS)
            task = "SEQ_CLS" if scores else "CAUSAL_LM"
            (folder / CONFIG).write_text(json.dumps({NAME: spec.model_dump(), "task_type": task}))


def saved_spec(folder: Path) -> BottleneckSpec | None:
    """How the adapters in a folder are made; None for an adapter of another kind."""
    said = json.loads((folder / CONFIG).read_text()).get(NAME)
    if said is None:
        return None
    return BottleneckSpec.model_validate(said)


def load(model: Any, folder: Path) -> Any:
    """The model with the adapters of a folder, as `save` wrote them. Raises `StageFailed` when they
    are another model's."""
    from safetensors.torch import load_file

    spec, weights = saved_spec(folder), load_file(folder / WEIGHTS)
    assert spec is not None
    # As they were trained: rounded here, what was learned would be rounded twice when it is merged.
    attach(model, spec, in_fp32=True)
    missing, unknown = model.load_state_dict(weights, strict=False)
    # The base model's own weights are not in the file, and are there already.
    missing = [name for name in missing if f".{NAME}." in name]
    if missing or unknown:
        raise StageFailed(
            f"{folder} holds no adapter of this model: {[*missing, *unknown][0]} has no counterpart"
        )
    return model


def merge(model: Any) -> Any:
    """The same function without adapters: each gated feed-forward part gets the parallel adapter's
    neurons beside its own, or neurons that do nothing. Raises `UsageError` for adapters of another
    placement."""
    import torch

    # All of them before the first is changed: a layer without such a part is refused.
    hosts = [sublayer_of(layer, "mlp") for layer in layers_of(model)]
    after, parallel = _types()
    modules = list(model.modules())
    added = [module for module in modules if isinstance(module, parallel)]
    if not added or any(isinstance(module, after) for module in modules):
        raise UsageError(
            "bottleneck adapters after a part of a layer cannot be added to its weights"
        )
    size = added[0].gate_proj.out_features
    for host in hosts:
        # Not by `delattr`: the layer may have none.
        adapter = host._modules.pop(NAME, None)
        if adapter is not None:
            adapter.hook.remove()
        for name in GATED:
            own = getattr(host, name)
            side = 1 if name == "down_proj" else 0
            shape = list(own.weight.shape)
            shape[side] = size
            if adapter is None:
                # Every layer must be as wide as the configuration says, with an adapter or without.
                beside = torch.zeros(shape)
            else:
                beside = getattr(adapter, name).weight
            own.weight = torch.nn.Parameter(
                torch.cat([own.weight, beside.to(own.weight)], dim=side)
            )
            if side == 0 and own.bias is not None:
                own.bias = torch.nn.Parameter(torch.cat([own.bias, own.bias.new_zeros(size)]))
    # transformers and vLLM build the wider layers from the configuration.
    model.config.intermediate_size += size
    return model


def layers_of(model: Any) -> list[Any]:
    """The transformer's layers, in order."""
    import torch

    count = int(model.config.num_hidden_layers)
    # By its length: architectures call the list by different names, and none is declared.
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise UsageError(
        "bottleneck and dropout find no list of layers in this model; use lora, without them"
    )


def _layers(model: Any, spec: BottleneckSpec) -> list[Any]:
    layers, chosen = layers_of(model), spec.layer_indices()
    if chosen is None:
        return layers
    if chosen[-1] >= len(layers):
        raise UsageError(
            f"bottleneck.layers names layer {chosen[-1]}, and the model's last one is "
            f"{len(layers) - 1}"
        )
    return [layers[index] for index in chosen]


def sublayer_of(layer: Any, part: str) -> Any:
    """A layer's `attention` or `mlp`. Raises `UsageError` where it has none that is known here."""
    for name in SUBLAYERS[part]:
        if hasattr(layer, name):
            return getattr(layer, name)
    raise UsageError(
        f"bottleneck and dropout find no {part} in a {type(layer).__name__}; use lora, without them"
    )


@cache
def _types() -> tuple[Any, Any]:
    """The adapters after a part of a layer, and beside it; the classes exist only once torch is
    imported."""
    import torch
    from transformers.activations import ACT2FN

    class After(torch.nn.Module):  # type: ignore[misc]
        """What a part of a layer puts out, through a narrow network, added to itself (Houlsby et
        al., 2019)."""

        def __init__(self, width: int, size: int, activation: str) -> None:
            super().__init__()
            self.narrow = torch.nn.Linear(width, size)
            self.widen = torch.nn.Linear(size, width)
            # The adapter begins as the identity, so that training starts from the base model.
            torch.nn.init.zeros_(self.widen.weight)
            torch.nn.init.zeros_(self.widen.bias)
            self.activation = ACT2FN[activation]

        def forward(self, states: Any) -> Any:
            inner = self.activation(self.narrow(states.to(self.narrow.weight.dtype)))
            return states + self.widen(inner).to(states.dtype)

        def hang_on(self, host: Any) -> None:
            """Its output goes through here from now on."""

            def pass_on(module: Any, inputs: Any, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (self(output[0]), *output[1:])
                return self(output)

            self.hook = host.register_forward_hook(pass_on)

    class Parallel(torch.nn.Module):  # type: ignore[misc]
        """A narrow network of the gated feed-forward part's own form, which reads what that reads
        (He et al., 2022)."""

        def __init__(self, width: int, size: int, activation: str) -> None:
            super().__init__()
            self.gate_proj = torch.nn.Linear(width, size, bias=False)
            self.up_proj = torch.nn.Linear(width, size, bias=False)
            self.down_proj = torch.nn.Linear(size, width, bias=False)
            # The same here: what it adds is 0 at first.
            torch.nn.init.zeros_(self.down_proj.weight)
            self.activation = ACT2FN[activation]

        def forward(self, states: Any) -> Any:
            read = states.to(self.gate_proj.weight.dtype)
            inner = self.activation(self.gate_proj(read)) * self.up_proj(read)
            return self.down_proj(inner).to(states.dtype)

        def hang_on(self, host: Any) -> None:
            """What it makes of the host's input is added to the host's output from now on."""
            self.hook = host.register_forward_hook(
                lambda module, inputs, output: output + self(inputs[0])
            )

    return After, Parallel
