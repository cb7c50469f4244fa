"""Which kernels are chosen, and that a packed row says the same through each of them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from assay.engines.models import kernels, lora_forward, packed_attention
from assay.errors import UsageError
from assay.spec.train import TrainSpec

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4}
LENGTHS = (5, 1, 9, 3)


@pytest.fixture
def folder(tiny_model: Path) -> str:
    return str(tiny_model)


def chosen(folder: str, *, packed: bool = True, **train: Any) -> kernels.Kernels:
    return kernels.choose(folder, TrainSpec.model_validate(train), precision="fp32", on_gpu=False, packed=packed)


def test_without_a_gpu_texts_are_attended_to_one_by_one_and_the_reasons_are_told(folder: str) -> None:
    found = chosen(folder)
    assert (found.attention, found.used) == ("sdpa_by_text", ())
    assert found.unused["flash"] == found.unused["liger"] == "there is no GPU"
    assert "ask" in found.unused["compile"]


def test_a_masked_row_is_left_to_the_model(folder: str) -> None:
    assert chosen(folder, packed=False).attention == "sdpa"
    assert chosen(folder, kernels="none").attention == "sdpa"
    compiled = chosen(folder, kernels="compile")
    assert (compiled.attention, compiled.used) == ("sdpa", ("compile",))


def test_a_kernel_that_is_named_and_cannot_be_used_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="liger cannot be used here: there is no GPU"):
        chosen(folder, kernels=["compile", "liger"])


@pytest.mark.parametrize("family", packed_attention.FAMILIES)
def test_a_packed_row_says_the_same_text_by_text_as_under_a_mask(family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    more = EXPERTS if family in ("mixtral", "qwen3_moe") else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SMALL, **more, use_cache=False)
    assert packed_attention.fits(config, longest=max(LENGTHS))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    tokens = torch.randint(3, 64, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    said = []
    for name in ("sdpa", packed_attention.register()):
        model.set_attn_implementation(name)
        model.zero_grad()
        logits = model(input_ids=tokens, position_ids=positions).logits
        logits.logsumexp(-1).sum().backward()
        said.append((logits.detach(), next(model.parameters()).grad.clone()))
    for one, other in zip(*said, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_window_that_is_shorter_than_a_text_keeps_its_mask() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("mistral", sliding_window=128)
    assert packed_attention.fits(config, longest=128)
    assert not packed_attention.fits(config, longest=129)


def test_lora_in_one_product_says_and_learns_what_peft_s_own_does(folder: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    said = []
    for change in (lambda model: None, lora_forward.add_in_product):
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
        change(model)
        logits = model(torch.arange(3, 20)[None]).logits
        logits.logsumexp(-1).sum().backward()
        said.append([logits, *(weight.grad for weight in model.parameters() if weight.requires_grad)])
    for own, ours in zip(*said, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)
    changed = [layer for layer in model.modules() if getattr(layer, "lora_variant", None)]
    assert len(changed) == 14  # seven in each of two layers


def test_what_cannot_be_compiled_or_trained_in_8_bits_is_refused() -> None:
    assert TrainSpec.model_validate({"kernels": "compile"}).kernels == ("compile",)
    for train, words in (
        ({"kernels": ["compile"], "deepspeed": {"zero_stage": 3}}, "ZeRO-3 shards"),
        ({"kernels": ["triton"]}, "kernels"),
        ({"precision": "fp8"}, "TransformerEngine"),
    ):
        with pytest.raises(ValidationError, match=words):
            TrainSpec.model_validate(train)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler asks for it itself
def test_compiling_changes_nothing_of_what_is_learned(folder: str, tmp_path: Path) -> None:
    from test_methods import rows
    from training import train_here

    train = {"num_epochs": 2, "learning_rate": 1e-2, "global_batch_size": 8}
    losses = []
    for kernel in ("none", "compile"):
        outcome = train_here(Path(folder), rows("sft"), tmp_path / kernel, {**train, "kernels": kernel})
        losses.append([point.loss for point in outcome.history])
    assert outcome.kernels == ("compile",)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
