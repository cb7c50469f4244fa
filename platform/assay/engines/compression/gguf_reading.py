"""What llama.cpp makes of a GGUF file: its tokens, its template, and its distributions of the next
token, beside those of transformers."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from assay.errors import StageFailed
from assay.records.stages import Divergence
from assay.spec.compress import GgufType

NUM_TOLD = 64
"""Likeliest tokens that are compared."""

MAX_TEXTS, PLACES = 8, 8
"""Texts, and places in each at which the next token is asked for."""

MAX_DISTANCE: dict[GgufType, float] = {"f16": 0.05, "q8_0": 0.1, "q4_0": 0.6, "q4_k_m": 0.5}
"""How far log-probabilities of told tokens may be from the merged model's, as a root mean square
and a share of the spread over the whole vocabulary. Two models that have nothing in common are 1.4
apart."""

CHAT = ({"role": "user", "content": "Is it real?\n1 + 1 = 2, naïve, 是的"},)


class Told(NamedTuple):
    """The likeliest tokens at one place, with their log-probabilities in nats."""

    prompt: list[int]
    logprobs: dict[int, float]


@contextmanager
def server(file: Path, max_length: int) -> Iterator[Any]:
    """llama.cpp with the file, and an HTTP client of it."""
    import httpx
    import xllamacpp

    said = xllamacpp.CommonParams()
    said.model.path = str(file)
    said.n_ctx, said.n_parallel, said.n_gpu_layers = max_length, 1, 0
    said.warmup = False
    # llama.cpp's threads wait for each other by spinning: on a machine that does other things, too,
    # two of them are slower than one.
    said.cpuparams.n_threads = max(1, (os.cpu_count() or 1) - 1)
    said.verbosity = -1
    try:
        engine = xllamacpp.Server(said)
    except RuntimeError as error:
        raise StageFailed(f"llama.cpp does not load {file.name}: {error}") from error
    with httpx.Client(base_url=engine.listening_address, timeout=600) as client:
        yield client
    del engine


def check(file: Path, source: Path, texts: Sequence[Sequence[int]], kind: GgufType) -> Divergence:
    """Loads the file, and compares tokens, template and distributions with what transformers makes
    of the folder `source`. Raises `StageFailed` where they differ."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    prompts = list(_prompts(texts))
    longest = max(len(prompt) for prompt in prompts)
    with server(file, max(256, 2 * longest)) as client:
        for text in [
            CHAT[0]["content"],
            *(tokenizer.decode(list(one)) for one in texts[:MAX_TEXTS]),
        ]:
            _check_tokens(client, tokenizer, text)
        _check_template(client, tokenizer)
        told = list(_told(client, prompts))
    if 2 * len(told) < len(prompts):
        raise StageFailed(
            f"llama.cpp tells what comes next at {len(told)} of {len(prompts)} places alone"
        )
    found, distance = _compare(source, told)
    if distance > MAX_DISTANCE[kind]:
        raise StageFailed(
            f"{file.name} does not answer as the model that it was made of: log-probabilities are "
            f"{distance:.2g} of their spread apart, and {MAX_DISTANCE[kind]:g} is allowed for "
            f"{kind}"
        )
    return found


def _prompts(texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    for text in texts[:MAX_TEXTS]:
        step = max(1, (len(text) - 1) // PLACES)
        for end in range(step, len(text), step):
            yield list(text[:end])


def _check_tokens(client: Any, tokenizer: Any, text: str) -> None:
    body = {"content": text, "add_special": False, "parse_special": True}
    found = client.post("/tokenize", json=body).json()["tokens"]
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    if found != wanted:
        at = next(
            (i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), 0
        )
        raise StageFailed(
            f"llama.cpp reads {text[:40]!r} as other tokens than the model's tokenizer, from token "
            f"{at} on: it would not see what the model was trained on"
        )


def _check_template(client: Any, tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        return
    answer = client.post("/apply-template", json={"messages": list(CHAT)}).json()
    wanted = tokenizer.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True)
    if answer.get("prompt") != wanted:
        raise StageFailed("llama.cpp renders chats otherwise than the model's chat template does")


def _told(client: Any, prompts: Sequence[list[int]]) -> Iterator[Told]:
    """What llama.cpp tells of the next token. Of an end of text, and of a token that is a part of a
    letter alone, it tells nothing: such places are left out."""
    for prompt in prompts:
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": NUM_TOLD}
        answer = client.post("/v1/completions", json=body)
        if answer.status_code != 200:
            raise StageFailed(f"llama.cpp does not answer: {answer.text[:200]}")
        said = answer.json()["choices"][0]["logprobs"]
        if not said or not said["content"]:
            continue
        likeliest = said["content"][0]["top_logprobs"]
        yield Told(prompt, {one["id"]: float(one["logprob"]) for one in likeliest})


def _compare(source: Path, told: Sequence[Told]) -> tuple[Divergence, float]:
    """The divergence from the merged model over the told tokens and all others as one (never above
    the whole divergence: Cover and Thomas, theorem 2.7.1), and the distance of the told tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    squares, spreads, divergences, agreed = [], [], [], 0
    for prompt, logprobs in told:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        whole = torch.log_softmax(logits, dim=-1)
        merged = {token: float(whole[token]) for token in logprobs}
        squares += [(merged[token] - value) ** 2 for token, value in logprobs.items()]
        spreads.append(float(whole.std()) ** 2)
        divergences.append(_kl(merged, logprobs))
        agreed += int(whole.argmax()) == max(logprobs, key=lambda token: logprobs[token])
    found = Divergence(
        kl=sum(divergences) / len(told),
        top1_agreement=agreed / len(told),
        loss=None,
        merged_loss=None,
        num_tokens=len(told),
    )
    distance = math.sqrt(sum(squares) / len(squares) / (sum(spreads) / len(spreads)))
    return found, distance


def _kl(merged: dict[int, float], found: dict[int, float]) -> float:
    known = sum(math.exp(merged[token]) * (merged[token] - found[token]) for token in merged)
    rest = []
    for side in (merged, found):
        rest.append(max(1.0 - sum(math.exp(value) for value in side.values()), 1e-9))
    return max(0.0, known + rest[0] * math.log(rest[0] / rest[1]))
