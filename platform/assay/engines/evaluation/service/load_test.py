"""A served model under load: streamed chats, so many at a time, and what they took.

The load is closed: each place asks again as soon as it is answered. Nothing is repeated: a failed
request counts.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assay.engines.evaluation.client import Endpoint, client_for
from assay.engines.evaluation.service.engine_memory import EngineProcess, memory_of, watching
from assay.errors import StageFailed
from assay.records.gate import ServiceMeasurement
from assay.spec.suite.measured import LoadSpec

if TYPE_CHECKING:
    import httpx

# Parts of the measurement whose throughput is told apart, of a second or more each.
WINDOWS = 20
# Of plain English, where the server does not tell.
WORDS_A_TOKEN = 0.75
# Of the two prompts from which it is learned how many tokens a word has; both fit into any
# context.
FEW_WORDS, MORE_WORDS = 2, 10
WORDS = (
    "the",
    "river",
    "turned",
    "west",
    "below",
    "an",
    "old",
    "mill",
    "before",
    "winter",
    "came",
    "and",
    "nobody",
)


@dataclass
class _Sample:
    """One request."""

    started: float
    arrivals: list[float] = field(default_factory=list)
    """When a piece of the answer came."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    finished: bool = False


def measure(endpoint: Endpoint, load: LoadSpec, engine: EngineProcess) -> ServiceMeasurement:
    """Loads the server and tells what it did. Raises `StageFailed` when not even the warm-up is
    answered."""
    with watching(lambda: memory_of(engine)) as watch:
        samples, seconds, started = asyncio.run(_run(endpoint, load))
    num_completed = prompt_tokens = output_tokens = 0
    first_tokens_s, paces_s = [], []
    for sample in samples:
        num_completed += sample.finished
        prompt_tokens += sample.prompt_tokens
        output_tokens += sample.output_tokens
        if sample.arrivals:
            first_tokens_s.append(sample.arrivals[0] - sample.started)
        pace_s = _pace_s(sample)
        if pace_s is not None:
            paces_s.append(pace_s)
    return ServiceMeasurement(
        num_requests=len(samples),
        num_concurrent=load.num_concurrent,
        num_failed=len(samples) - num_completed,
        num_completed=num_completed,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seconds=seconds,
        ttft_s=tuple(first_tokens_s),
        inter_token_s=tuple(paces_s),
        window_tokens_per_s=_windows(samples, started, seconds),
        num_engines=engine.num_engines,
        peak_memory_bytes=watch.peak,
        memory_bytes=watch.total,
    )


async def _run(endpoint: Endpoint, load: LoadSpec) -> tuple[list[_Sample], float, float]:
    """(the samples, seconds from the first request to the last answer, when the first was sent)."""
    async with client_for(endpoint, load.num_concurrent) as client:
        make, extra = await _warm_up(client, endpoint, load)
        # One iterator for all places: each takes the next number as soon as it is answered.
        numbers = iter(range(load.num_requests))
        samples: list[_Sample] = []

        async def keep_asking() -> None:
            for number in numbers:
                samples.append(await _ask(client, endpoint, load, make(number), extra))

        started = time.perf_counter()
        await asyncio.gather(*(keep_asking() for _ in range(load.num_concurrent)))
        return samples, time.perf_counter() - started, started


async def _warm_up(
    client: "httpx.AsyncClient", endpoint: Endpoint, load: LoadSpec
) -> tuple[Callable[[int], str], dict[str, Any]]:
    """How a prompt of the wanted length is made, and the fields that the server takes. Fills every
    place once."""
    # Not every server knows how to go on to the length asked for.
    for extra in ({"ignore_eos": True}, {}):
        short = await _ask(client, endpoint, load, _prompt(-1, FEW_WORDS), extra)
        if short.finished:
            break
    else:
        raise StageFailed(
            f"{endpoint.url} does not answer a streamed chat, so its service cannot be measured"
        )
    longer = await _ask(client, endpoint, load, _prompt(-2, MORE_WORDS), extra)
    guess = _num_words(load.prompt_tokens, short.prompt_tokens, MORE_WORDS, longer.prompt_tokens)
    requests = []
    for number in range(-2 - load.num_concurrent, -2):
        requests.append(_ask(client, endpoint, load, _prompt(number, guess), extra))
    filled = await asyncio.gather(*requests)
    words = guess
    tokens = [sample.prompt_tokens for sample in filled if sample.finished]
    if tokens and guess > FEW_WORDS:
        words = _num_words(
            load.prompt_tokens, short.prompt_tokens, guess, sum(tokens) / len(tokens)
        )
    return lambda number: _prompt(number, words), extra


def _num_words(wanted_tokens: int, short_tokens: int, longer: int, longer_tokens: float) -> int:
    """Words of a prompt with so many tokens, FEW_WORDS at least, by the tokens of one of FEW_WORDS
    and of one of `longer` words: both have those of the chat template."""
    tokens_a_word = (longer_tokens - short_tokens) / (longer - FEW_WORDS)
    if tokens_a_word <= 0:
        return max(FEW_WORDS, round(wanted_tokens * WORDS_A_TOKEN))
    return max(FEW_WORDS, FEW_WORDS + round((wanted_tokens - short_tokens) / tokens_a_word))


def _prompt(number: int, num_words: int) -> str:
    """So many words; it begins with its number, so that no cache knows the beginning."""
    draw = random.Random(number)
    words = [f"{number}:"]
    while len(words) < num_words:
        words.append(draw.choice(WORDS))
    return " ".join(words)


async def _ask(
    client: "httpx.AsyncClient",
    endpoint: Endpoint,
    load: LoadSpec,
    prompt: str,
    extra: dict[str, Any],
) -> _Sample:
    """One streamed chat. A failure leaves a sample that is not finished."""
    import httpx

    body = {
        "model": endpoint.model_name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    sample = _Sample(time.perf_counter())
    try:
        async with client.stream("POST", "/chat/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                return sample
            async for line in answer.aiter_lines():
                _read(sample, line)
    # Whatever a server sends that is no streamed chat is a failure of it, not of the measurement.
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        sample.finished = False
    return sample


def _read(sample: _Sample, line: str) -> None:
    if not line.startswith("data: {"):
        return
    event = json.loads(line.removeprefix("data: "))
    if event.get("error"):
        raise ValueError(event["error"])
    for choice in event.get("choices", ()):
        delta = choice["delta"]
        if delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content"):
            sample.arrivals.append(time.perf_counter())
        sample.finished = sample.finished or choice.get("finish_reason") in ("stop", "length")
    if usage := event.get("usage"):
        sample.prompt_tokens = int(usage["prompt_tokens"])
        sample.output_tokens = int(usage["completion_tokens"])


def _pace_s(sample: _Sample) -> float | None:
    """Mean time between tokens after the first. A piece may hold several tokens, so the server's
    count is used."""
    if len(sample.arrivals) < 2 or sample.output_tokens < 2:
        return None
    return (sample.arrivals[-1] - sample.arrivals[0]) / (sample.output_tokens - 1)


def _windows(samples: Sequence[_Sample], started: float, seconds: float) -> tuple[float, ...]:
    """Output tokens a second, window by window; a request's tokens are spread evenly over its
    pieces."""
    count = max(1, min(WINDOWS, int(seconds)))
    length = seconds / count
    tokens = [0.0] * count
    for sample in samples:
        for arrival in sample.arrivals:
            window = min(count - 1, max(0, int((arrival - started) / length)))
            tokens[window] += sample.output_tokens / len(sample.arrivals)
    return tuple(number / length for number in tokens)
