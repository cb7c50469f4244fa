"""Weights that become 0: the smallest ones here, the others by llm-compressor; and training after
which they are 0 still."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from assay.spec.training.pruning import PruneSpec, RecoverSpec


def modifier(prune: PruneSpec) -> Any:
    """llm-compressor's modifier of a method that looks at data."""
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    kind = WandaPruningModifier if prune.method == "wanda" else SparseGPTModifier
    structure = "2:4" if prune.pattern == "2:4" else "0:0"  # its word for unstructured
    return kind(
        sparsity=prune.sparsity,
        mask_structure=structure,
        targets=["Linear"],
        ignore=list(prune.ignore),
    )


def by_magnitude(model: Any, prune: PruneSpec) -> None:
    """In place: the smallest weights of each linear module become 0."""
    import torch

    with torch.no_grad():
        for _, weight in _linear_weights(model, prune.ignore):
            weight.mul_(_kept(weight, prune))


def _kept(weight: Any, prune: PruneSpec) -> Any:
    """Which weights stay: of as many as `sparsity` says, the smallest go."""
    import torch

    size = weight.float().abs()
    if prune.threshold is not None:
        return size >= prune.threshold
    if prune.pattern == "2:4":
        fours = size.reshape(-1, 4)
        smallest = fours.argsort(dim=1, stable=True)[:, :2]
    else:
        fours = size.reshape(1, -1)
        count = int(prune.sparsity * fours.numel())
        # argsort, not a threshold: of equal weights no more go than were asked for.
        smallest = fours.argsort(dim=1, stable=True)[:, :count]
    kept = torch.ones_like(fours, dtype=torch.bool).scatter_(1, smallest, value=False)
    return kept.reshape(weight.shape)


def sparsity(model: Any) -> float:
    """Share of the linear modules' weights that are 0, the output head left out."""
    zeros = total = 0
    for _, weight in _linear_weights(model, ("lm_head",)):
        zeros += int((weight == 0).sum())
        total += weight.numel()
    return zeros / max(1, total)


def recover(model: Any, merged: Any, texts: Sequence[Sequence[int]], spec: RecoverSpec) -> float:
    """Trains what is not 0 in place, so that the model's distributions of the next token become
    the merged one's (Hinton et al., 2015, at temperature 1). Returns the divergence of the last
    batch, in nats a token. Computed in float32: AdamW's small steps are lost in bfloat16."""
    import torch

    kind = model.dtype
    model.train()
    trained = [weight for weight in model.parameters() if weight.is_floating_point()]
    for weight in trained:
        weight.data = weight.data.float()
        weight.requires_grad_(True)
    masks = []
    for _, weight in _linear_weights(model, ()):
        masks.append((weight, weight != 0))
    optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=0.0)
    num_steps = spec.num_epochs * math.ceil(len(texts) / spec.batch_size)
    rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / num_steps, num_steps)
    last = math.inf
    for batch in _batches(texts, spec):
        last = _step(model, merged, batch)
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)
    model.eval().requires_grad_(False)
    for weight in trained:
        # Not `model.to`: that would round buffers, too, such as the frequencies of the rotation,
        # which are float32 in a model that is loaded.
        weight.data = weight.data.to(kind)
    return last


def _step(model: Any, merged: Any, batch: Sequence[Sequence[int]]) -> float:
    """Adds up the gradients of a batch, text by text: nothing is padded."""
    import torch
    from torch.nn.functional import kl_div, log_softmax

    num_tokens = sum(len(text) for text in batch)
    total = 0.0
    for text in batch:
        tokens = torch.tensor([text], device=model.device)
        with torch.no_grad():
            wanted = log_softmax(merged(input_ids=tokens).logits[0].float(), dim=-1)
        found = log_softmax(model(input_ids=tokens).logits[0].float(), dim=-1)
        loss = kl_div(found, wanted, reduction="sum", log_target=True) / num_tokens
        loss.backward()
        total += float(loss)
    return total


def _batches(
    texts: Sequence[Sequence[int]], spec: RecoverSpec
) -> Iterator[Sequence[Sequence[int]]]:
    for _ in range(spec.num_epochs):
        for start in range(0, len(texts), spec.batch_size):
            yield texts[start : start + spec.batch_size]


def _linear_weights(model: Any, ignore: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The weights of linear modules that are not ignored, as llm-compressor names them."""
    from compressed_tensors.utils import match_named_modules

    for name, module in match_named_modules(model, ["Linear"], list(ignore)):
        yield name, module.weight
