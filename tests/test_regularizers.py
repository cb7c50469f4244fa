"""Regularizers: their terms are those of the papers, and training with them moves what they are
there to move."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from assay.engines.data.chats.tokens import Row
from assay.engines.data.tokenize import write_rows
from assay.engines.models import folders, methods
from assay.engines.training.batches import PackedSplit, collate, collate_padded, take_extras
from assay.engines.training.optimizers import parameter_groups
from assay.engines.training.regularizers import ResidualDropout, TokenContrast, shrink
from assay.spec.method import MethodSpec
from assay.spec.train import TrainSpec
from assay.spec.training.regularizers import ContrastiveSpec
from tiny import THINGS
from training import train_here

ROWS = [
    Row(
        (
            [
                {"role": "user", "content": f"is {thing} real?"},
                {"role": "assistant", "content": "yes " * (1 + i % 3)},
            ],
        )
    )
    for i, thing in enumerate(THINGS[:12])
]


def last_states(model: Any, tokens: Any) -> Any:
    """(tokens, width): of one text alone."""
    return model(input_ids=tokens.unsqueeze(0), output_hidden_states=True).hidden_states[-1][0]


def naive(states: Any, margin: float) -> float:
    """SimCTG's loss of one text, pair by pair."""
    import torch

    def alike(a: int, b: int) -> float:
        return float(torch.nn.functional.cosine_similarity(states[a], states[b], dim=0))

    pairs = [(i, j) for i in range(len(states)) for j in range(len(states)) if i != j]
    return sum(max(0.0, margin - alike(i, i) + alike(i, j)) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("gather", [collate, collate_padded])
def test_the_contrastive_term_is_simctgs_for_each_text(
    tiny_model: Path, tmp_path: Path, gather: Any
) -> None:
    """In packed rows, where pairs must not reach from text to text, and in padded ones, where pads
    are no tokens."""
    import torch

    write_rows(tiny_model, ROWS, tmp_path / "split.safetensors", max_length=64)
    split = PackedSplit.load(str(tmp_path / "split.safetensors"))
    units = [split[index] for index in range(4)]
    model = methods.base(str(tiny_model), MethodSpec(full=True), precision="fp32", num_labels=None)
    model.config.use_cache = False
    spec = ContrastiveSpec(margin=0.6, weight=2.0)
    with torch.no_grad():
        expected = [naive(last_states(model, unit.texts[0][0]), spec.margin) for unit in units]
    contrast = TokenContrast(model.train(), spec)
    batch = gather(units)
    contrast.reads(batch)
    take_extras(batch)
    model(**batch)  # in training mode, which changes nothing else of this model
    term = contrast.term()
    assert term is not None
    assert term.item() == pytest.approx(2 * sum(expected) / 4, rel=1e-5)
    assert sum(expected) > 0.1  # there is something to push apart
    term.backward()
    assert float(model.get_input_embeddings().weight.grad.abs().sum()) > 0
    assert contrast.term() is None  # of this batch, once
    with torch.no_grad():
        model.eval()(**batch)
    assert contrast.term() is None  # what is only measured is as it is


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_training_with_contrast_keeps_tokens_apart(
    tiny_model: Path, tmp_path: Path, method: str
) -> None:
    import torch

    write_rows(tiny_model, ROWS, tmp_path / "split.safetensors", max_length=64)
    split = PackedSplit.load(str(tmp_path / "split.safetensors"))
    terms, losses = {}, {}
    for name, more in (("without", {}), ("with", {"contrastive": {"margin": 1.0, "weight": 3.0}})):
        how = {
            "method": method,
            "learning_rate": 1e-2,
            "max_steps": 16,
            "global_batch_size": 6,
            "micro_batch_size": 3,
        }
        outcome = train_here(tiny_model, ROWS, tmp_path / name, {**how, **more})
        losses[name] = outcome.selection_loss or 0
        base = methods.base(
            str(tiny_model), MethodSpec(full=True), precision="fp32", num_labels=None
        )
        model = folders.with_adapter(base, tmp_path / name / "weights").eval()
        with torch.no_grad():
            terms[name] = (
                sum(naive(last_states(model, split[index].texts[0][0]), 1.0) for index in range(4))
                / 4
            )
    assert terms["with"] < 0.95 * terms["without"]
    assert losses["with"] < 0.97 * outcome.history[0].loss


FULL: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-2,
    "max_steps": 12,
    "global_batch_size": 6,
}


def trained(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "weights" / "model.safetensors")


def test_an_l1_penalty_leaves_weights_at_exactly_0(tiny_model: Path, tmp_path: Path) -> None:
    shares, losses = {}, {}
    for name, more in (("without", {}), ("with", {"l1": 0.3})):
        outcome = train_here(tiny_model, ROWS, tmp_path / name, {**FULL, **more})
        weights = [
            weight
            for key, weight in trained(tmp_path / name).items()
            if key.endswith("_proj.weight")
        ]
        shares[name] = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        losses[name] = outcome.selection_loss or 0
        first = outcome.history[0].loss
    assert shares["without"] == 0
    assert shares["with"] > 0.05
    assert losses["with"] < 0.6 * first  # and it learns all the same


def test_soft_thresholding_is_the_proximal_step_of_l1() -> None:
    import torch

    weight = torch.nn.Parameter(torch.tensor([0.5, -0.5, 0.05, -0.05, 0.0]))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.1}])
    shrink(optimizer, 1.0)
    assert weight.tolist() == pytest.approx([0.4, -0.4, 0.0, 0.0, 0.0])


def test_dropout_drops_its_share_while_training_and_nothing_else(tiny_model: Path) -> None:
    import torch

    model = methods.base(str(tiny_model), MethodSpec(full=True), precision="fp32", num_labels=None)
    tokens = torch.arange(40).unsqueeze(0)
    before = model.eval()(input_ids=tokens).logits
    ResidualDropout(model, 0.25)
    parts: list[Any] = []
    layer = model.model.layers[0]
    layer.mlp.register_forward_hook(lambda module, inputs, output: parts.append(output))
    layer.self_attn.register_forward_hook(lambda module, inputs, output: parts.append(output[0]))
    assert torch.equal(model.eval()(input_ids=tokens).logits, before)
    parts.clear()
    torch.manual_seed(0)
    model.train()(input_ids=tokens)
    for part in parts:
        assert float((part == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_training_with_dropout_learns(tiny_model: Path, tmp_path: Path) -> None:
    outcomes = {
        name: train_here(tiny_model, ROWS, tmp_path / name, {**FULL, **more})
        for name, more in (("without", {}), ("with", {"dropout": 0.2}))
    }
    first = outcomes["with"].history[0].loss
    assert first != outcomes["without"].history[0].loss
    assert (outcomes["with"].selection_loss or 0) < 0.6 * first


@pytest.mark.parametrize(
    ("start", "rates"),
    [
        ("top", {"embed": 0.125, 0: 0.25, 1: 0.5, 2: 1.0}),
        ("bottom", {"embed": 1, 0: 1, 1: 0.5, 2: 0.25}),
    ],
)
def test_layers_learn_less_from_either_end(start: str, rates: dict[int | str, float]) -> None:
    import torch

    names = {"embed_tokens": torch.nn.Linear(1, 1, bias=False)}
    model = torch.nn.ModuleDict(
        {**names, "layers": torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(3))}
    )
    model.config = SimpleNamespace(num_hidden_layers=3)
    train = TrainSpec.model_validate(
        {
            "method": "full",
            "learning_rate": 1.0,
            "layerwise_lr_decay": 0.5,
            "layerwise_lr_from": start,
        }
    )
    groups = parameter_groups(model, train)
    found = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    assert found[id(model["embed_tokens"].weight)] == rates["embed"]
    assert [found[id(layer.weight)] for layer in model["layers"]] == [
        rates[index] for index in range(3)
    ]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"dropout": 0.1}, "dropout is for method: full and freeze"),
        ({"l1": 0.1}, "l1 is for method: full and freeze"),
        ({"method": "full", "l1": 0.1, "deepspeed": {"zero_stage": 3}}, "zero_stage 0, 1 or 2"),
        ({"method": "full", "dropout": 0.1, "kernels": ["compile"]}, "take one of them out"),
        ({"layerwise_lr_from": "bottom"}, "say layerwise_lr_decay, too"),
        (
            {"method": "full", "dropout": 0.1, "l1": 0.1, "layerwise_lr_from": "bottom"},
            "say layerwise_lr_decay, too",
        ),
    ],
)
def test_what_does_not_go_together_is_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainSpec.model_validate(said)
