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
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = folders.with_adapter(model, adapter)
    model.to(device).eval()
    reading: Reading = []
    for number, probe in enumerate(probes):
        places = torch.tensor(probe.places, device=device)
        tokens = torch.tensor(probe.tokens, device=device)
        with torch.inference_mode():
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
    asks = [
        Request(
            "completions",
            {
                "prompt": list(probe.tokens),
                "max_tokens": 1,
                "temperature": 0,
                "echo": True,
                "logprobs": NUM_TOLD,
                "return_tokens_as_token_ids": True,
            },
        )
        for probe in probes
    ]
    reading: Reading = []
    for probe, reply in zip(probes, request_all(endpoint, asks), strict=True):
        if reply.error:
            raise StageFailed(f"the served model does not tell log-probabilities: {reply.error}")
        said = reply.body["choices"][0]["logprobs"]
        own, tops = said["token_logprobs"], said["top_logprobs"]
        told = []
        for place in probe.places:
            told.append({_token_id(name): value for name, value in tops[place].items()})
        reading.append(
            [
                Position(own[place], max(top, key=lambda token: (top[token], -token)), top)
                for place, top in zip(probe.places, told, strict=True)
            ]
        )
    return reading


def _token_id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def compare(first: ModelForm, one: Reading, second: ModelForm, other: Reading) -> ParityPair:
    """Two forms, place by place."""
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(one, other, strict=True)]
    differences = []
    for probe in pairs:
        differences.append([abs(a.logprob - b.logprob) for a, b in probe])
    flat = [difference for probe in differences for difference in probe]
    agreed = sum(a.likeliest == b.likeliest for probe in pairs for a, b in probe)
    divergences = [_kl(a.told, b.told) for probe in pairs for a, b in probe]
    return ParityPair(
        first=first,
        second=second,
        num_probes=len(pairs),
        num_tokens=len(flat),
        mean_abs_logprob=sum(flat) / len(flat),
        max_abs_logprob=max(flat),
        top1_agreement=agreed / len(flat),
        top1_agreed=agreed,
        probe_abs_logprob=tuple(sum(probe) / len(probe) for probe in differences),
        kl=sum(divergences) / len(divergences),
    )


def _kl(first: dict[int, float], second: dict[int, float]) -> float:
    """Kullback-Leibler divergence over the tokens that both tell of, and the rest as one: never
    above the whole divergence (Cover and Thomas, Elements of Information Theory, theorem 2.7.1: the
    log sum inequality)."""
    shared = first.keys() & second.keys()
    known = sum(math.exp(first[token]) * (first[token] - second[token]) for token in shared)
    rest = []
    for side in (first, second):
        rest.append(max(1.0 - sum(math.exp(side[token]) for token in shared), 1e-9))
    return max(0.0, known + rest[0] * math.log(rest[0] / rest[1]))
