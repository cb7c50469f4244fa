"""That every attention which may be chosen on a GPU says and learns of a packed row what a mask in
fp32 does."""

from typing import Any

import pytest
from on_gpu import needs_gpu

from assay.engines.models import packed_attention

pytestmark = needs_gpu

LENGTHS = (300, 1, 17, 512, 3, 129)
FAMILIES = {"llama": 64, "qwen3": 128}
"""Family to the size of a head."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", packed_attention.NAME_ON_GPU, "flash_attention_2"])
def test_a_packed_row_says_the_same_as_under_a_mask(attention: str, family: str) -> None:
    from transformers.utils import is_flash_attn_2_available

    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        pytest.skip("the package flash-attn is not installed")
    if attention == packed_attention.NAME_ON_GPU:
        packed_attention.register(on_gpu=True)
    exact = said(family, "sdpa", "float32")
    found = said(family, attention, "bfloat16")
    for one, other in zip(found, exact, strict=True):
        distance = (one - other).norm() / other.norm()
        assert (
            distance < 0.03
        )  # an H100: 0.008 to 0.012 for logits, 0.011 to 0.019 for gradients, with each of them


def said(family: str, attention: str, dtype: str) -> tuple[Any, Any]:
    """Logits, and a gradient."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=FAMILIES[family],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa", dtype=torch.float32
    )
    model = model.to("cuda", getattr(torch, dtype)).eval()
    model.set_attn_implementation(attention)
    tokens = torch.randint(3, 1024, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    logits = model(input_ids=tokens.cuda(), position_ids=positions.cuda()).logits.float()
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), model.model.layers[0].self_attn.k_proj.weight.grad.float()
