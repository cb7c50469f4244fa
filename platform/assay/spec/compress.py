"""The `compress:` block: how the merged model is quantized."""

from typing import Literal

from assay.spec.block import Block

Scheme = Literal["none", "W8A8", "W8A16", "W4A16", "FP8_DYNAMIC"]


class CompressSpec(Block):
    """Post-training quantization by llm-compressor, in the compressed-tensors format that vLLM
    loads."""

    scheme: Scheme = "W8A8"
    """`W8A8` (int8 weights and activations), `W8A16` and `W4A16` (weights only), `FP8_DYNAMIC`
    (Hopper and newer), or `none`."""

    ignore: tuple[str, ...] = ("lm_head",)
    """Modules left as they are."""
