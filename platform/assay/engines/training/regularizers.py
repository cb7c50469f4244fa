"""What holds training back on purpose: noise on the embeddings, hidden states kept apart, and
weights kept near where they were."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.engines.models import bottleneck
from assay.engines.models.packed_attention import text_sizes
from assay.engines.training.batches import Batch, PackedSplit, collate
from assay.engines.training.objectives import Frozen, completion_loss
from assay.spec.train import TrainSpec
from assay.spec.training.regularizers import ContrastiveSpec, EwcSpec

if TYPE_CHECKING:
    import torch


class EmbeddingNoise:
    """NEFTune's noise, by each text's own length. transformers' own takes the whole row for one
    text, which is too little noise where a row holds many."""

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self.lengths: torch.Tensor | None = None
        model.get_input_embeddings().register_forward_hook(self._add)

    def reads(self, batch: Batch) -> None:
        """The batch that comes next."""
        self.lengths = text_lengths(batch)

    def _add(self, module: Any, inputs: Any, output: "torch.Tensor") -> "torch.Tensor":
        import torch

        if not (module.training and torch.is_grad_enabled()) or self.lengths is None:
            return output
        # NEFTune scales by the root of tokens times width, which makes the noise as long for every
        # text.
        reach = self.alpha / (self.lengths * output.shape[-1]).sqrt().unsqueeze(-1).to(output.dtype)
        return output + (2 * torch.rand_like(output) - 1) * reach


class ResidualDropout:
    """Dropout on what attention and the feed-forward part of each layer add to the stream. Few of
    today's models have such dropout in their configuration, and none of them the same."""

    def __init__(self, model: Any, share: float) -> None:
        self.share = share
        for layer in bottleneck.layers_of(model):
            for part in bottleneck.SUBLAYERS:
                bottleneck.sublayer_of(layer, part).register_forward_hook(self._drop)

    def _drop(self, module: Any, inputs: Any, output: Any) -> Any:
        import torch.nn.functional as functional

        if not module.training:
            return output
        # Attention returns its weights beside what it adds.
        if isinstance(output, tuple):
            return (functional.dropout(output[0], self.share), *output[1:])
        return functional.dropout(output, self.share)


def shrink(optimizer: Any, l1: float) -> None:
    """Soft thresholding: moves every weight towards 0 by `l1` times its learning rate, and no
    further: the proximal step of an L1 penalty (Parikh and Boyd, Proximal Algorithms, 2014, section
    6.5.2)."""
    import torch

    with torch.no_grad():
        for group in optimizer.param_groups:
            for weight in group["params"]:
                # torch's own softshrink wants a number above 0, and the first step of a warm-up has
                # the rate 0.
                weight.copy_(weight.sign() * (weight.abs() - group["lr"] * l1).clamp_(min=0))


class TokenContrast:
    """The contrastive term of a batch, from the last hidden states that the model computes on the
    way."""

    def __init__(self, model: Any, spec: ContrastiveSpec) -> None:
        self.spec = spec
        self.lengths: list[int] = []
        self.is_packed = False
        self.states: torch.Tensor | None = None
        # peft wraps the model once more.
        if hasattr(model, "get_base_model"):
            causal = model.get_base_model()
        else:
            causal = model
        causal.base_model.register_forward_hook(self._keep)

    def reads(self, batch: Batch) -> None:
        """The batch that comes next."""
        self.lengths, self.is_packed = lengths_of_texts(batch), "position_ids" in batch

    def term(self) -> "torch.Tensor | None":
        """The weighted term of the batch that was read; None where nothing is trained."""
        if self.states is None:
            return None
        states, self.states = self.states, None
        if self.is_packed:
            texts = states[0].split(self.lengths)
        else:
            # Rows of padded texts, after any virtual tokens.
            longest = max(self.lengths)
            texts = tuple(
                row[-longest:][:length] for row, length in zip(states, self.lengths, strict=True)
            )
        return self.spec.weight * token_contrast(texts, self.spec.margin)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        import torch

        if module.training and torch.is_grad_enabled():
            self.states = output.last_hidden_state


def token_contrast(texts: "Sequence[torch.Tensor]", margin: float) -> "torch.Tensor":
    """SimCTG's loss (Su et al., 2022, equation 2), its mean over texts of (tokens, width): the mean
    over all pairs of different tokens of max(0, margin - 1 + their cosine similarity)."""
    import torch
    import torch.nn.functional as functional

    terms = []
    for states in texts:
        directions = functional.normalize(states.float(), dim=-1)
        excess = torch.relu(directions @ directions.T + (margin - 1))
        num_pairs = max(len(states) * (len(states) - 1), 1)
        terms.append((excess.sum() - excess.diagonal().sum()) / num_pairs)
    return torch.stack(terms).mean()


def lengths_of_texts(batch: Batch) -> list[int]:
    """How many tokens each text of a batch has, in order."""
    if "position_ids" in batch:
        return text_sizes(batch["position_ids"])
    return [int(length) for length in batch["attention_mask"].sum(1)]


def text_lengths(batch: Batch) -> "torch.Tensor":
    """(rows, row length), fp32: for each token the length of its text."""
    import torch

    lengths = torch.tensor(lengths_of_texts(batch), device=batch["input_ids"].device)
    if "position_ids" not in batch:
        return lengths.unsqueeze(1).expand_as(batch["input_ids"]).float()
    return torch.repeat_interleave(lengths, lengths).unsqueeze(0).float()


@dataclass(frozen=True)
class Anchor:
    """Elastic weight consolidation (Kirkpatrick et al., 2017): a pull to the start, by each
    weight's Fisher information. As in AdamW's weight decay the pull is apart from the loss: through
    Adam, which makes every gradient equally long, it would only shake the weights that must
    stay."""

    strength: float
    starts: "dict[str, torch.Tensor]"
    fisher: "dict[str, torch.Tensor]"
    """Scaled to a mean of 1."""

    def pull(self, model: Any, optimizer: Any) -> None:
        """Moves every weight to where the penalty `strength / 2 * fisher * (weight - start) ** 2`
        and the weight's place after the step, at the step's learning rate, balance (a proximal
        step)."""
        import torch

        # Groups may have rates of their own, and a group knows its weights by identity alone.
        rates = {
            id(weight): group["lr"]
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in self.fisher:
                    force = rates[id(weight)] * self.strength * self.fisher[name]
                    weight.lerp_(self.starts[name], (force / (1 + force)).to(weight.dtype))


def estimate_anchor(model: Any, file: str, ewc: EwcSpec, train: TrainSpec) -> Anchor:
    """Where the trainable weights are, and how much the examples in `file` need each of them: the
    mean square of the gradient of an example's log-likelihood (the empirical Fisher information's
    diagonal)."""
    import torch

    split = PackedSplit.load(file)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    fisher = {
        name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in trained.items()
    }
    num_examples = min(ewc.num_examples, len(split))
    # Without dropout: what a weight is needed for is not to depend on a draw.
    model.eval()
    for index in range(num_examples):
        model.zero_grad()
        batch = {name: tensor.to(model.device) for name, tensor in collate([split[index]]).items()}
        completion_loss(model, batch, train, Frozen()).totals.sum().backward()
        for name, weight in trained.items():
            if weight.grad is not None:
                fisher[name] += weight.grad.float() ** 2 / num_examples
    model.zero_grad()
    model.train()
    total = sum(float(values.sum()) for values in fisher.values())
    count = sum(values.numel() for values in fisher.values())
    # To a mean of 1, so that a strength means the same for every model and data set.
    scale = count / total if total > 0 and math.isfinite(total) else 0.0
    starts = {name: weight.detach().clone() for name, weight in trained.items()}
    return Anchor(ewc.strength, starts, {name: values * scale for name, values in fisher.items()})


def orthogonality(model: Any) -> "torch.Tensor":
    """AdaLoRA's penalty on factors that are not orthogonal: the mean norm of what P^T P and Q Q^T
    differ by from the identity (Zhang et al., 2023, equation 4). peft adds it only to a loss that
    the model itself computes."""
    import torch

    distances = []
    for name, weight in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            if "lora_A" in name:
                product = weight @ weight.T
            else:
                product = weight.T @ weight
            distances.append(
                torch.linalg.norm(product - torch.eye(len(product), device=product.device))
            )
    return torch.stack(distances).mean()
