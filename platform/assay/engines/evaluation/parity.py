"""torch, peft and a served model on the same probes: how alike two forms of one model are.

A form is read token by token: the log-probability of the token that stands there, the likeliest
one, and the log-probabilities of a few others. What is compared are the tokens that bear loss in
training: the answers.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.evaluation.client import Endpoint, Request, request_all
from assay.engines.models import folders
from assay.errors import StageFailed
from assay.records.gate import ModelForm, ParityPair

# Likeliest tokens that are kept at each place; vLLM tells no more.
NUM_TOLD = 20


@dataclass(frozen=True)
class Probe:
    """One text, and which of its tokens are compared."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Indices into `tokens`, all above 0."""


@dataclass(frozen=True)
class Position:
    """What one form says at one place of a probe."""

    logprob: float
    """Of the token that stands there, in nats."""
    likeliest: int
    told: dict[int, float]
    """Token to log-probability, for some tokens."""


Reading = list[list[Position]]
"""Probe by probe, place by place."""


def read_forms(
    split: Path, num_probes: int, forms: Sequence[tuple[Path, Path | None]], endpoint: Endpoint
) -> tuple[list[Probe], list[Reading]]:
    """The probes of a split, and what each of the forms (model folder, and the adapter on it) says
    of them, the served one last. One model is in memory at a time. Raises as `read_served`."""
    probes = read_probes(split, num_probes)
    readings: list[Reading] = []
    for folder, adapter in forms:
        readings.append(read_local(folder, adapter, probes, readings[0] if readings else None))
    return probes, [*readings, read_served(endpoint, probes)]


def read_probes(split: Path, num_probes: int) -> list[Probe]:
    """The first texts of a tokenized split that have tokens to compare."""
    from safetensors.numpy import load_file

    tensors = load_file(split)
    offsets, tokens, mask = (tensors[name].tolist() for name in ("offsets", "tokens", "loss_mask"))
    probes = []
    for start, end in itertools.pairwise(offsets):
        places = tuple(place for place in range(1, end - start) if mask[start + place])
        if places:
            probes.append(Probe(tuple(tokens[start:end]), places))
    return probes[:num_probes]


def read_local(
    folder: Path, adapter: Path | None, probes: Sequence[Probe], like: Reading | None
) -> Reading:
    """A model folder, with an adapter on it or without, computed in float32. Told are the likeliest
    tokens, or those that `like` tells of."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # In float32, whatever it was saved in: the forms are to differ, not the arithmetic.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = folders.with_adapter(model, adapter)
    model.to(device).eval()
    reading: Reading = []
    for number, probe in enumerate(probes):
        places = torch.tensor(probe.places, device=device)
        tokens = torch.tensor(probe.tokens, device=device)
        with torch.inference_mode():
            # What stands at a place is foretold by the logits of the place before it.
            logits = model(input_ids=tokens[None]).logits[0, places - 1].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        own = logprobs.gather(1, tokens[places][:, None])[:, 0].tolist()
        likeliest = logprobs.argmax(dim=-1).tolist()
        told = _told(logprobs, like[number] if like else None)
        reading.append([Position(*said) for said in zip(own, likeliest, told, strict=True)])
    return reading


def _told(logprobs: Any, like: Sequence[Position] | None) -> list[dict[int, float]]:
    if like is None:
        best = logprobs.topk(min(NUM_TOLD, logprobs.shape[1]))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [dict(zip(tokens, values, strict=True)) for tokens, values in rows]
    told = []
    for row, place in zip(logprobs, like, strict=True):
        told.append({token: float(row[token]) for token in place.told})
    return told


def read_served(endpoint: Endpoint, probes: Sequence[Probe]) -> Reading:
    """The same through the serving engine. Raises `StageFailed` when it does not tell."""
    asks = []
    for probe in probes:
        body = {
            "prompt": list(probe.tokens),
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": NUM_TOLD,
            # As ids: two tokens may have the same text, and a text is no key then.
            "return_tokens_as_token_ids": True,
        }
        asks.append(Request("completions", body))
    reading: Reading = []
    for probe, reply in zip(probes, request_all(endpoint, asks), strict=True):
        if reply.error:
            raise StageFailed(f"the served model does not tell log-probabilities: {reply.error}")
        said = reply.body["choices"][0]["logprobs"]
        positions = []
        for place in probe.places:
            own, tops = said["token_logprobs"][place], said["top_logprobs"][place]
            positions.append(_position(own, tops))
        reading.append(positions)
    return reading


def _position(own: float, tops: dict[str, float]) -> Position:
    """What the API says of one place: the log-probability of its token, and those of the
    likeliest."""
    told = {_token_id(name): value for name, value in tops.items()}
    # Of two that are equally likely the smaller id, as `argmax` has it.
    likeliest = max(told, key=lambda token: (told[token], -token))
    return Position(own, likeliest, told)


def _token_id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def compare(first: ModelForm, one: Reading, second: ModelForm, other: Reading) -> ParityPair:
    """Two forms, place by place."""
    differences: list[float] = []
    divergences: list[float] = []
    of_probes = []
    agreed = 0
    for mine, its in zip(one, other, strict=True):
        own = [abs(a.logprob - b.logprob) for a, b in zip(mine, its, strict=True)]
        differences += own
        of_probes.append(sum(own) / len(own))
        for a, b in zip(mine, its, strict=True):
            agreed += a.likeliest == b.likeliest
            divergences.append(_kl(a.told, b.told))
    num_tokens = len(differences)
    return ParityPair(
        first=first,
        second=second,
        num_probes=len(of_probes),
        num_tokens=num_tokens,
        mean_abs_logprob=sum(differences) / num_tokens,
        max_abs_logprob=max(differences),
        top1_agreement=agreed / num_tokens,
        top1_agreed=agreed,
        probe_abs_logprob=tuple(of_probes),
        kl=sum(divergences) / num_tokens,
    )


def _kl(first: dict[int, float], second: dict[int, float]) -> float:
    """Kullback-Leibler divergence over the tokens that both tell of, and the rest as one: never
    above the whole divergence (Cover and Thomas, Elements of Information Theory, theorem 2.7.1: the
    log sum inequality)."""
    shared = first.keys() & second.keys()
    known, mass, other_mass = 0.0, 0.0, 0.0
    for token in shared:
        known += math.exp(first[token]) * (first[token] - second[token])
        mass += math.exp(first[token])
        other_mass += math.exp(second[token])
    # Rounding may make the sums a little more than 1, of which there is no logarithm.
    rest, other_rest = max(1.0 - mass, 1e-9), max(1.0 - other_mass, 1e-9)
    return max(0.0, known + rest * math.log(rest / other_rest))
