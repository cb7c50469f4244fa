"""Regularizers: their terms are those of the papers, and training with them moves what they are there to move."""

from pathlib import Path
from typing import Any

import pytest

from assay.engines.data.tokenize import Row, write_rows
from assay.engines.models import folders, methods
from assay.engines.training.batches import PackedSplit, collate, collate_padded, take_extras
from assay.engines.training.regularizers import TokenContrast
from assay.spec.method import MethodSpec
from assay.spec.train import ContrastiveSpec
from tiny import THINGS
from training import train_here

ROWS = [
    Row(([{"role": "user", "content": f"is {thing} real?"}, {"role": "assistant", "content": "yes " * (1 + i % 3)}],))
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
def test_the_contrastive_term_is_simctgs_for_each_text(tiny_model: Path, tmp_path: Path, gather: Any) -> None:
    """In packed rows, where pairs must not reach from text to text, and in padded ones, where pads are no tokens."""
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
def test_training_with_contrast_keeps_tokens_apart(tiny_model: Path, tmp_path: Path, method: str) -> None:
    import torch

    write_rows(tiny_model, ROWS, tmp_path / "split.safetensors", max_length=64)
    split = PackedSplit.load(str(tmp_path / "split.safetensors"))
    terms, losses = {}, {}
    for name, more in (("without", {}), ("with", {"contrastive": {"margin": 1.0, "weight": 3.0}})):
        how = {"method": method, "learning_rate": 1e-2, "max_steps": 16, "global_batch_size": 6, "micro_batch_size": 3}
        outcome = train_here(tiny_model, ROWS, tmp_path / name, {**how, **more})
        losses[name] = outcome.selection_loss or 0
        base = methods.base(str(tiny_model), MethodSpec(full=True), precision="fp32", num_labels=None)
        model = folders.with_adapter(base, tmp_path / name / "weights").eval()
        with torch.no_grad():
            terms[name] = sum(naive(last_states(model, split[index].texts[0][0]), 1.0) for index in range(4)) / 4
    assert terms["with"] < 0.95 * terms["without"]
    assert losses["with"] < 0.97 * outcome.history[0].loss
