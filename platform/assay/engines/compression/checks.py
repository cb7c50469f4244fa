"""Whether an exported model is whole, and is the one that was compressed: checked before anything
is recorded of it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from assay.engines.compression import divergence
from assay.engines.compression.divergence import Reading
from assay.errors import StageFailed

OWN_KEYS = {
    "quantization_config",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
}
"""What `config.json` may say otherwise than that of the merged model."""

BESIDE_WEIGHT = {
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_global_scale",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
}
"""Tensors that compressed-tensors writes for a quantized module, in place of its weight or beside
it."""

MAX_DISTANCE = {"cpu": 1e-3, "cuda": 0.02}
"""How far the logits of the model in memory and of its export may be apart, as a share of their
spread. Of every scheme on a small Llama it was 0 on CPU; with a single scale doubled 0.004 or more.
Kernels of a GPU may add up in another order: there it is twice the rounding of bfloat16."""

HEAD = "lm_head.weight"

Headers = dict[str, tuple[tuple[int, ...], str]]
"""Tensor to its shape and safetensors' name of its type."""

BITS = {"U8": 8, "I8": 8, "I32": 32, "F8_E4M3": 8}


def check_export(folder: Path, source: Path) -> None:
    """Raises `StageFailed` when the tokenizer, the chat template, the configuration, or a tensor's
    name, shape or scale does not go with the model in `source`."""
    fault = next(_faults(folder, source), None)
    if fault is not None:
        raise StageFailed(f"what compression wrote to {folder} is not served: {fault}")


def check_reloaded(folder: Path, texts: Sequence[Sequence[int]], memory: Reading) -> Reading:
    """Loads the export as an engine would and returns what it says to the texts. Raises
    `StageFailed` when that is not what the model said in `memory`, before it was written."""
    try:
        again = divergence.read_folder(folder, texts, memory.device)
    except Exception as error:  # transformers' own, of many kinds: each means that it does not load
        raise StageFailed(
            f"what compression wrote to {folder} cannot be loaded: {type(error).__name__}: "
            f"{str(error)[:300]}"
        ) from error
    if again.logits.shape != memory.logits.shape:
        raise StageFailed(f"{folder} has another vocabulary than the model that was compressed")
    apart = divergence.distance(memory, again)
    allowed = MAX_DISTANCE[memory.device]
    if apart > allowed:
        raise StageFailed(
            f"the model in {folder} does not answer as the one that was written there: their "
            f"logits are {apart:.2g} of their spread apart, and {allowed:g} is allowed; run "
            "the stage again"
        )
    return again


def _faults(folder: Path, source: Path) -> Iterator[str]:
    yield from tokenizer_faults(folder, source)
    yield from _config_faults(folder, source)
    try:
        wanted, found = _headers(source), _headers(folder)
    except OSError as error:
        yield str(error)
        return
    config = _config(source)
    if config.get("tie_word_embeddings"):
        for headers in (wanted, found):  # the embedding is the head, saved twice or not
            headers.pop(HEAD, None)
    if not any("expert" in key for key in config):
        # llm-compressor takes experts that are one tensor apart, under names of their own.
        yield from _tensor_faults(wanted, found)
    yield from _group_faults(folder, wanted, found)
    yield from _value_faults(folder)


def tokenizer_faults(folder: Path, source: Path) -> Iterator[str]:
    """Files of the tokenizer, the template and the generation settings that are not those of the
    model in `source`."""
    for file in sorted(source.iterdir()):
        is_model = file.suffix == ".safetensors" or file.name in (
            "config.json",
            "model.safetensors.index.json",
        )
        if is_model or not file.is_file():
            continue
        copy = folder / file.name
        if not copy.is_file():
            yield f"{file.name} is missing"
        elif copy.read_bytes() != file.read_bytes():
            yield f"{file.name} is not that of the merged model"


def _config_faults(folder: Path, source: Path) -> Iterator[str]:
    """What the two configurations say to transformers, which writes the same in several ways."""
    try:
        found, wanted = _config(folder), _config(source)
    except (OSError, ValueError) as error:
        yield f"config.json cannot be read: {error}"
        return
    for key in sorted((set(found) | set(wanted)) - OWN_KEYS):
        here, there = found.get(key), wanted.get(key)
        if here != there:
            yield f"config.json says {key}: {here}, and the merged model {there}"


def _config(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    return dict(AutoConfig.from_pretrained(folder).to_dict())


def _headers(folder: Path) -> Headers:
    from safetensors import SafetensorError, safe_open

    headers: Headers = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                    part = weights.get_slice(name)
                    headers[name] = (tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise OSError(f"{file.name} is not whole: {error}") from error
    if not headers:
        raise OSError("there are no weights in it")
    return headers


def _tensor_faults(wanted: Headers, found: Headers) -> Iterator[str]:
    """Tensors that are missing, are nobody's, or have another shape."""
    for name, (shape, _) in wanted.items():
        if name in found:
            if found[name][0] != shape:
                yield f"{name} has the shape {found[name][0]}, and {shape} in the merged model"
            continue
        yield from _packed_faults(name.removesuffix("weight"), shape, found)
    for name in found:
        module, _, kind = name.rpartition(".")
        if name not in wanted and (kind not in BESIDE_WEIGHT or f"{module}.weight" not in wanted):
            yield f"{name} is no tensor of the merged model"
        elif kind == "weight_scale":
            yield from _scale_faults(name, found[name][0], wanted[f"{module}.weight"][0])
    for name, (_, kind) in found.items():
        module, _, last = name.rpartition(".")
        is_quantized = last == "weight" and kind in BITS
        if is_quantized and f"{module}.weight_scale" not in found:
            yield f"{name} is quantized, and has no scale"


def _packed_faults(module: str, shape: tuple[int, ...], found: Headers) -> Iterator[str]:
    packed = found.get(f"{module}weight_packed")
    if packed is None:
        yield f"{module}weight is missing"
        return
    if f"{module}weight_scale" not in found:
        yield f"{module}weight_packed has no scale"
    (rows, columns), kind = packed[0], packed[1]
    bits = columns * BITS.get(kind, 0) / shape[1]
    if rows != shape[0] or bits not in (4, 8):
        yield f"{module}weight_packed has the shape {packed[0]}, which does not hold {shape}"


def _scale_faults(name: str, scale: tuple[int, ...], weight: tuple[int, ...]) -> Iterator[str]:
    """A scale for the whole, for each row, or for whole groups of columns of each row."""
    if scale in ((), (1,)):
        return
    if len(scale) != 2 or scale[0] != weight[0] or weight[1] % scale[1]:
        yield f"{name} has the shape {scale}, which does not go with a weight of {weight}"


def _group_faults(folder: Path, wanted: Headers, found: Headers) -> Iterator[str]:
    """Groups of columns that the scales were made for, and `config.json` says otherwise: engines
    believe the one or the other."""
    config = json.loads((folder / "config.json").read_text()).get("quantization_config")
    if config is None:
        if any(name.endswith("_scale") for name in found):
            yield "config.json says nothing of quantization, and there are scales"
        return
    weights = [group["weights"] for group in config["config_groups"].values()]
    said = {one["group_size"] for one in weights if one.get("group_size")}
    for name, (shape, _) in found.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight_scale" or len(shape) != 2 or shape[1] == 1:
            continue
        weight = wanted.get(f"{module}.weight")
        if weight is None:
            continue
        size = weight[0][1] // shape[1]
        if size not in said:
            yield f"{name} is for groups of {size} columns, and config.json says {sorted(said)}"
            return


def _value_faults(folder: Path) -> Iterator[str]:
    """Numbers that no weight or scale can be."""
    import torch
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                tensor = weights.get_tensor(name)
                if not tensor.is_floating_point():
                    continue
                values = tensor.float()
                if not bool(torch.isfinite(values).all()):
                    yield f"{name} holds numbers that are not finite"
                elif name.endswith("_scale") and bool((values < 0).any()):
                    yield f"{name} holds scales below 0"
