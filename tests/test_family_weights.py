"""What training sees and leaves of models of several families: packed batches, adapters and their
merging."""

from pathlib import Path
from typing import Any

import pytest

from assay.engines.data.tokenize import write_split
from assay.engines.models import folders, kernels, methods
from assay.engines.training.batches import PackedSplit, collate
from assay.spec.train import TrainSpec
from families import TEMPLATES, make_family

QUESTIONS = ("is baran real? " * 4, "where is dotel now?", "a")


@pytest.fixture(params=TEMPLATES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_family(tmp_path / request.param, request.param)
    return tmp_path / str(request.param)


@pytest.fixture
def split(folder: Path) -> PackedSplit:
    file = folder.with_suffix(".safetensors")
    chats = [
        [{"role": "user", "content": one}, {"role": "assistant", "content": "yes"}]
        for one in QUESTIONS
    ]
    write_split(folder, chats, file, max_length=256)
    return PackedSplit.load(str(file))


def trained(folder: Path, **train: Any) -> Any:
    """The model as a training run loads it."""
    spec = TrainSpec(max_length=256, **train)
    chosen = kernels.choose(str(folder), spec, precision="fp32", on_gpu=False, packed=True)
    return methods.load(str(folder), spec, chosen, precision="fp32", num_labels=None, num_steps=4)


def test_packed_texts_do_not_see_each_other(folder: Path, split: PackedSplit) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = trained(folder, method="full").train()
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    batch = collate([split[index] for index in range(len(split))])
    texts = [text for index in range(len(split)) for text in split[index].texts]
    with torch.no_grad():
        packed = model(
            **{name: batch[name] for name in ("input_ids", "position_ids", "logits_to_keep")}
        ).logits[0]
        alone = [
            plain(input_ids=tokens.unsqueeze(0)).logits[0][:-1][mask[1:]] for tokens, mask in texts
        ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_weight_that_is_trained_has_a_gradient(
    folder: Path, split: PackedSplit, method: Any
) -> None:
    """Workers that wait for a gradient that never comes wait for ever."""
    model = trained(folder, method=method).train()
    batch = collate([split[index] for index in range(len(split))])
    outputs = model(
        **{name: batch[name] for name in ("input_ids", "position_ids", "logits_to_keep")}
    )
    outputs.logits.square().sum().backward()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert weights
    assert not [name for name, weight in weights.items() if weight.grad is None]


def test_an_adapter_merged_is_the_adapter(folder: Path, split: PackedSplit, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = trained(folder, method={"lora": {"r": 4}}).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(tmp_path / "adapter")
    facts = folders.merge(folder, tmp_path / "adapter", tmp_path / "merged")
    assert (facts.num_layers, facts.context_length) == (len(model.get_decoder().layers), 512)
    assert facts.num_parameters == folders.describe(folder).num_parameters  # tied weights stay tied
    merged, base = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32)
        for one in (tmp_path / "merged", folder)
    )
    tokens, _ = split[0].texts[0]
    positions = torch.arange(len(tokens)).unsqueeze(0)
    with torch.no_grad():
        ours, theirs, before = (
            one.eval()(input_ids=tokens.unsqueeze(0), position_ids=positions).logits
            for one in (model, merged, base)
        )
    assert (ours - before).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)  # merged weights are kept in bf16
