"""A served model under load: streamed chats, so many at a time, and what they took.

The load is closed: each place asks again as soon as it is answered. Nothing is repeated: a failed
request counts.
"""

import asyncio
import itertools
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assay.engines.evaluation.client import Endpoint, client_for
from assay.errors import StageFailed
from assay.records.gate import ServiceMeasurement
from assay.spec.suite.measured import LoadSpec

if TYPE_CHECKING:
    import httpx

# Parts of the measurement whose throughput is told apart, of a second or more each.
WINDOWS = 20
# How often the engine's memory is looked at.
SAMPLE_S = 0.5
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


@dataclass(frozen=True)
class EngineProcess:
    """Where an engine runs, as far as this machine can look at it."""

    pids: tuple[int, ...]
    """Of the replicas on this machine; their children belong to them. Empty when they are
    elsewhere."""
    on_gpu: bool
    num_engines: int
    """GPUs, or replicas on CPU."""


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
    with _watching(lambda: _memory(engine)) as watch:
        samples, seconds, started = asyncio.run(_run(endpoint, load))
    return ServiceMeasurement(
        num_requests=len(samples),
        num_concurrent=load.num_concurrent,
        num_failed=sum(not sample.finished for sample in samples),
        num_completed=sum(sample.finished for sample in samples),
        prompt_tokens=sum(sample.prompt_tokens for sample in samples),
        output_tokens=sum(sample.output_tokens for sample in samples),
        seconds=seconds,
        ttft_s=tuple(sample.arrivals[0] - sample.started for sample in samples if sample.arrivals),
        inter_token_s=tuple(pace for sample in samples if (pace := _pace_s(sample)) is not None),
        window_tokens_per_s=_windows(samples, started, seconds),
        num_engines=engine.num_engines,
        peak_memory_bytes=watch.peak,
        memory_bytes=watch.total,
    )


async def _run(endpoint: Endpoint, load: LoadSpec) -> tuple[list[_Sample], float, float]:
    """(the samples, seconds from the first request to the last answer, when the first was sent)."""
    async with client_for(endpoint, load.num_concurrent) as client:
        make, extra = await _warm_up(client, endpoint, load)
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
    numbers = range(-2 - load.num_concurrent, -2)
    filled = await asyncio.gather(
        *(_ask(client, endpoint, load, _prompt(number, guess), extra) for number in numbers)
    )
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
    words = itertools.chain([f"{number}:"], (draw.choice(WORDS) for _ in itertools.count()))
    return " ".join(itertools.islice(words, num_words))


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


@dataclass
class _Watch:
    """The highest use of memory seen so far, and all there is; None for what cannot be known."""

    peak: int | None = None
    total: int | None = None

    def see(self, now: tuple[int, int] | None) -> None:
        if now is not None:
            self.peak, self.total = max(self.peak or 0, now[0]), now[1]


@contextmanager
def _watching(memory: Callable[[], tuple[int, int] | None]) -> Iterator[_Watch]:
    watch, ended = _Watch(), threading.Event()

    def look() -> None:
        watch.see(memory())
        while not ended.wait(SAMPLE_S):
            watch.see(memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join(timeout=10)


def _memory(engine: EngineProcess) -> tuple[int, int] | None:
    if not engine.pids:
        return None
    if engine.on_gpu:
        return _gpu_memory()
    return _resident_memory(engine.pids)


def _resident_memory(pids: Sequence[int]) -> tuple[int, int] | None:
    """(bytes that the processes and their children hold, bytes of the machine). Shared pages count
    in part."""
    import psutil

    family = set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue
    held = 0
    for process in family:
        try:
            held += process.memory_full_info().pss
        except psutil.Error:
            continue
    if held:
        return (held, psutil.virtual_memory().total)
    return None


def _gpu_memory() -> tuple[int, int] | None:
    """(bytes used, bytes there are) of the GPU that is fullest; None where NVIDIA's tool does not
    tell."""
    command = [
        "nvidia-smi",
        "--query-gpu=memory.used,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout
        rows = []
        for line in said.splitlines():
            if line.strip():
                rows.append([int(part) for part in line.split(",")])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    used, total = max(rows, key=lambda row: row[0] / row[1], default=(0, 0))
    if total:
        return (used << 20, total << 20)
    return None
