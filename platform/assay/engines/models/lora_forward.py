"""LoRA's forward pass with two passes over memory fewer.

peft multiplies an adapter's output by its scaling and then adds it to the layer's: two tensors as
large as the output, and one more on the way back. Here the matrix product scales and adds.
"""

from typing import Any


def add_in_product(model: Any) -> None:
    """Changes the plain LoRA layers of a peft model, in place, whose adapters have the base
    weights' precision. DoRA and its like and quantized layers stay peft's own. Not for weights that
    ZeRO-3 has sharded: it gathers those of a layer that is called, and B is not. Nor can the
    adapters be merged afterwards; one loaded anew can."""
    import torch
    from peft.tuners.lora import Linear
    from peft.tuners.lora.layer import LoraVariant

    class InProduct(LoraVariant):  # type: ignore[misc]
        """result + scaling * B A x for x (..., in) and result (..., out), written into the result:
        the base layer's backward pass needs its input and weights alone."""

        @staticmethod
        def forward(module: Any, active_adapter: str, x: Any, result: Any, **_: Any) -> Any:
            low = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
            weight = module.lora_B[active_adapter].weight
            flat = result.flatten(0, -2)
            return flat.addmm_(
                low.flatten(0, -2), weight.t(), alpha=module.scaling[active_adapter]
            ).view_as(result)

    for layer in model.modules():
        if (
            not isinstance(layer, Linear)
            or layer.lora_variant
            or type(layer.base_layer) is not torch.nn.Linear
        ):
            continue
        for name in layer.lora_A:
            if (
                not layer.lora_bias[name]
                and layer.lora_A[name].weight.dtype == layer.base_layer.weight.dtype
            ):
                layer.lora_variant[name] = InProduct
