"""What can be known of a recipe before it is run: group sizes, bytes, and where it is served."""

from collections.abc import Collection, Iterator

from assay.records.plan import Device, ModelShape
from assay.spec.compress import (
    FIXED_GROUPS,
    GROUP_SIZES,
    GROUPED,
    CompressSpec,
    GgufType,
    QuantizeSpec,
    Scheme,
)

WEIGHT_BYTES: dict[Scheme | GgufType, float] = {
    "none": 2,
    "W8A8": 1,
    "W8A16": 1,
    "W4A16": 0.5 + 2 / 128,
    "FP8_DYNAMIC": 1,
    "FP8": 1,
    "NVFP4": 0.5 + 1 / 16,
    "NVFP4A16": 0.5 + 1 / 16,
    "MXFP4": 0.5 + 1 / 32,
    "MXFP4A16": 0.5 + 1 / 32,
    "f16": 2,
    "q8_0": 1 + 2 / 32,
    "q4_0": 0.5 + 2 / 32,
    "q4_k_m": 0.5 + 1 / 8,
}
"""Bytes of a linear layer's weight after quantizing; W4A16 has a 2-byte scale for each group of
128, and the 4-bit floats a 1-byte one for each of 16 or 32. Of GGUF, q8_0 and q4_0 have a
2-byte scale for each 32, and q4_k_m keeps some layers in 6 bits."""


def columns_of(shape: ModelShape) -> dict[str, int]:
    """Inputs of a decoder's linear layers, by what they are."""
    return {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "attention's width": shape.num_heads * shape.head_dim,
    }


def group_fault(compress: CompressSpec, shape: ModelShape) -> tuple[str, str] | None:
    """Why the columns of a model do not come in whole groups, and what to write; None when they
    do."""
    quantize = compress.quantize
    if quantize is None or quantize.group_size == "channel":
        return None
    columns = columns_of(shape)
    for scheme in quantize.schemes:
        size = _group_of(scheme, quantize, tuple(columns.values()))
        if not size:
            continue
        odd = ", ".join(f"{name} {count}" for name, count in columns.items() if count % size)
        if odd:
            message = f"{scheme} shares a scale among {size} columns, and the model's {odd} cannot"
            return f"{message} be divided so", _group_hint(quantize, tuple(columns.values()))
    return None


def _group_of(scheme: Scheme, quantize: QuantizeSpec, columns: Collection[int]) -> int:
    if scheme in FIXED_GROUPS:
        return FIXED_GROUPS[scheme]
    if scheme in GROUPED:
        return quantize.group_for(columns)
    return 0


def _group_hint(quantize: QuantizeSpec, columns: Collection[int]) -> str:
    fitting = [size for size in GROUP_SIZES if not any(count % size for count in columns)]
    if fitting and isinstance(quantize.group_size, int):
        return f"write group_size: {fitting[0]}, or leave it out"
    return "use W8A8, which needs no groups, or group_size: channel"


UNSERVED_ON_CPU: tuple[Scheme, ...] = ("W8A16", "FP8", "NVFP4", "NVFP4A16", "MXFP4", "MXFP4A16")
"""What vLLM 0.32's CPU build refused to load of a small Llama: it has no kernel for them."""

NO_SPARSE_KERNEL = "vLLM 0.32 has no kernel for weights that are 0, and serves them like others"

EMULATED_ON_CPU: tuple[Scheme, ...] = ("FP8_DYNAMIC",)


def engine_notes(compress: CompressSpec, device: Device) -> Iterator[tuple[bool, str]]:
    """(whether the engine refuses it, what to know) for each scheme on a kind of device."""
    if compress.prunes:
        yield False, f"{NO_SPARSE_KERNEL}; no gain here from `prune`"
    quantize = compress.quantize
    if quantize is None or device != "CPU":
        return
    for scheme in quantize.schemes:
        if scheme in UNSERVED_ON_CPU:
            yield True, f"vLLM has no kernel for {scheme} on CPU; use W8A8 or W4A16"
        elif scheme in EMULATED_ON_CPU:
            yield (
                False,
                f"vLLM emulates {scheme} on CPU: 3.9 tokens/s of SmolLM2-135M where bf16 gave 69; "
                "no gain here",
            )
