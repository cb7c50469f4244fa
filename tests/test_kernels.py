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
EXPERTS = {
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
}
LENGTHS = (5, 1, 9, 3)


@pytest.fixture
def folder(tiny_model: Path) -> str:
    return str(tiny_model)


def chosen(folder: str, *, packed: bool = True, **train: Any) -> kernels.Kernels:
    return kernels.choose(
        folder, TrainSpec.model_validate(train), precision="fp32", on_gpu=False, packed=packed
    )


def test_without_a_gpu_texts_are_attended_to_one_by_one_and_the_reasons_are_told(
    folder: str,
) -> None:
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


def test_gradients_in_bf16_are_those_of_fp32() -> None:
    """The way back is computed in 32 bits: what is left is the rounding of what goes in and out."""
    import torch

    torch.manual_seed(0)
    shape = (1, 4, sum(LENGTHS), 16)
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    exact = [torch.randn(shape).bfloat16().float().requires_grad_() for _ in range(3)]
    short = [part.detach().bfloat16().requires_grad_() for part in exact]
    for parts in (exact, short):
        attended, _ = packed_attention.attend(None, *parts, None, position_ids=positions)
        assert attended.dtype == parts[0].dtype
        attended.float().square().sum().backward()
    for one, other in zip(exact, short, strict=True):
        assert torch.allclose(other.grad.float(), one.grad, rtol=0.02, atol=0.02)


def masked_and(name: str) -> list[Any]:
    """What a tiny model with grouped heads says of a packed row, and a gradient: under a mask, and
    by `name`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", **SMALL, use_cache=False)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    tokens = torch.randint(3, 64, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    said = []
    for attention in ("sdpa", name):
        model.set_attn_implementation(attention)
        model.zero_grad()
        logits = model(input_ids=tokens, position_ids=positions).logits
        logits.logsumexp(-1).sum().backward()
        said.append((logits.detach(), model.model.layers[0].self_attn.k_proj.weight.grad.clone()))
    return said


@pytest.mark.parametrize("takes_groups", [True, False], ids=["torch 2.12", "torch 2.11"])
def test_torch_s_kernel_on_gpus_is_told_where_texts_begin(
    takes_groups: bool, monkeypatch: Any
) -> None:
    import torch.nn.attention.varlen
    from torch.nn.functional import scaled_dot_product_attention

    bounds_told = []

    def by_text(
        query: Any, key: Any, value: Any, bounds: Any, longest: int, *, scale: float, groups: bool
    ) -> Any:
        bounds_told.append((bounds.tolist(), longest))
        parts = [
            part.transpose(0, 1).split(bounds.diff().tolist(), 1) for part in (query, key, value)
        ]
        done = [
            scaled_dot_product_attention(*text, scale=scale, is_causal=True, enable_gqa=groups)
            for text in zip(*parts, strict=True)
        ]
        return torch.cat(done, 1).transpose(0, 1)

    def newer(*told: Any, scale: float, window_size: Any, enable_gqa: bool) -> Any:
        assert window_size == (-1, 0)
        q, k, v, bounds, _, longest, _ = told
        return by_text(q, k, v, bounds, longest, scale=scale, groups=enable_gqa)

    def older(*told: Any, scale: float, window_size: Any) -> Any:
        return newer(*told, scale=scale, window_size=window_size, enable_gqa=False)

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", newer if takes_groups else older)
    said = masked_and(packed_attention.register(on_gpu=True))
    for one, other in zip(*said, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert set(map(str, bounds_told)) == {"([0, 5, 6, 15, 18], 9)"}


def test_on_a_gpu_without_the_package_torch_s_own_kernel_is_taken(
    folder: str, monkeypatch: Any
) -> None:
    import torch
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

    def attention(precision: Any, capability: tuple[int, int] = (9, 0), **train: Any) -> str:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        spec = TrainSpec.model_validate(train)
        return kernels.choose(folder, spec, precision=precision, on_gpu=True, packed=True).attention

    assert attention("bf16") == packed_attention.NAME_ON_GPU
    assert (
        attention("fp32")
        == attention("bf16", (7, 5))
        == attention("bf16", kernels="none")
        == "sdpa"
    )


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
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config
        )
        change(model)
        logits = model(torch.arange(3, 20)[None]).logits
        logits.logsumexp(-1).sum().backward()
        said.append(
            [logits, *(weight.grad for weight in model.parameters() if weight.requires_grad)]
        )
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
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # torch's compiler asks for it itself
def test_compiling_changes_nothing_of_what_is_learned(folder: str, tmp_path: Path) -> None:
    from test_methods import rows
    from training import train_here

    train = {"num_epochs": 2, "learning_rate": 1e-2, "global_batch_size": 8}
    losses = []
    for kernel in ("none", "compile"):
        outcome = train_here(
            Path(folder), rows("sft"), tmp_path / kernel, {**train, "kernels": kernel}
        )
        losses.append([point.loss for point in outcome.history])
    assert outcome.kernels == ("compile",)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
