"""`make bench-serve`: what the slots and the gateway cost, against vLLM's own server, on CPU.

Three targets answer the same streamed chats: vLLM's own OpenAI server, a slot's route on Ray Serve,
and that slot through the gateway. The engine settings are the same. All are up all the time, and
one at a time is loaded, in an order that moves on by one each round. Output tokens/s are medians
over rounds; time to first token is the median over all requests.
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from common import ROOT, base_model, demo_spec, free_ports, met, own_place, running_head

from assay.engines.deployment import ray_serve
from assay.engines.deployment.application import ServedModel
from assay.engines.deployment.application import application as serving
from assay.serving import gateway
from assay.settings import Settings

MODEL_NAME = "bench"
PROMPTS = ROOT / "evals" / "country-facts"
TARGETS = ("vLLM", "slot", "gateway")
MIN_REQUESTS = 8
START_TIMEOUT_S = 600.0
SLOT_BAR, VLLM_BAR, TTFT_BAR_MS = 0.95, 0.7, 10.0


@dataclass(frozen=True)
class Target:
    """Where to send requests."""

    name: str
    url: str
    key: str = "none"


@dataclass(frozen=True)
class Sample:
    """One target under one load, once."""

    tokens_per_s: float
    ttft_ms: list[float]


Samples = dict[tuple[str, int], list[Sample]]
"""By target and number of requests in flight."""


def main() -> None:
    options = _options()
    spec = demo_spec()
    model = (options.model or base_model(spec)).resolve()
    with own_place() as settings:
        application = serving(
            ServedModel("blue", MODEL_NAME, str(model)),
            spec.serve,
            settings.engine_python,
            on_gpu=False,
        )
        print("starting vLLM's server, Ray Serve and the gateway", flush=True)
        with (
            _vllm(settings, application) as vllm_url,
            running_head(settings),
            _gateway(settings) as key,
        ):
            slot_url = _deploy(settings, application)
            targets = [
                Target("vLLM", vllm_url),
                Target("slot", slot_url),
                Target("gateway", settings.gateway_url, key),
            ]
            samples = _measure(targets, options)
    _report(samples, options.concurrency)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="loads of each target (5)")
    parser.add_argument(
        "--concurrency", type=_numbers, default=[1, 8, 32], help="requests in flight (1,8,32)"
    )
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of each answer (64)")
    parser.add_argument("--model", type=Path, help="a model's folder (the demo's base model)")
    options = parser.parse_args()
    if options.rounds < 1 or options.max_tokens < 1:
        parser.error("at least 1 round and 1 token are wanted")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@contextmanager
def _vllm(settings: Settings, application: dict[str, Any]) -> Iterator[str]:
    """vLLM's own server with the engine settings of a slot; yields its URL."""
    config = application["args"]["llm_configs"][0]
    (port,) = free_ports(1)
    command = [
        settings.engine_python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        f"--port={port}",
        "--host=127.0.0.1",
    ]
    command += [
        f"--model={config['model_loading_config']['model_source']}",
        f"--served-model-name={MODEL_NAME}",
    ]
    command += [_flag(name, value) for name, value in config["engine_kwargs"].items()]
    log = settings.home / "vllm.log"
    with log.open("w") as output:
        environment = {**os.environ, **config["runtime_env"]["env_vars"]}
        server = psutil.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        _wait_until_answers(server, url, log)
        yield url
    finally:
        _stop(server)


def _wait_until_answers(server: psutil.Process, url: str, log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/models", timeout=5, trust_env=False).is_success:
                return
        if (
            not server.is_running()
            or server.status() == psutil.STATUS_ZOMBIE
            or time.monotonic() > end
        ):
            sys.exit(f"vLLM's own server did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)


def _flag(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}={value}"


def _stop(server: psutil.Process) -> None:
    family = [server]
    if server.is_running():
        family += server.children(recursive=True)
        server.terminate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=5)


@contextmanager
def _gateway(settings: Settings) -> Iterator[str]:
    """The gateway, all traffic to blue; yields an API key."""
    try:
        gateway.start(settings)
        writer = gateway.newest_writer(settings) + 1
        gateway.claim(settings, writer)
        gateway.give(settings, {"blue": 100, "green": 0}, (), writer=writer)
        yield gateway.create_key(settings, "bench")
    finally:
        gateway.stop(settings)


def _deploy(settings: Settings, application: dict[str, Any]) -> str:
    """Puts the model into the slot; returns the URL of its own route."""
    api = ray_serve.ServeApi(
        settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python
    )
    deployed_at = ray_serve.deploy(api, application)
    state = ray_serve.wait_until_running(
        api, "blue", timeout_s=START_TIMEOUT_S, deployed_at=deployed_at
    )
    return state.url


def _measure(targets: list[Target], options: argparse.Namespace) -> Samples:
    prompts = _prompts()
    for target in targets:
        asyncio.run(_load(target, prompts, max(options.concurrency), options.max_tokens))  # warm-up
    samples: Samples = defaultdict(list)
    for number in range(options.rounds):
        for target in _rotated(targets, number):
            for in_flight in options.concurrency:
                sample = asyncio.run(_load(target, prompts, in_flight, options.max_tokens))
                samples[target.name, in_flight].append(sample)
                print(
                    f"round {number + 1}  {target.name:<8} {in_flight:>3} in flight  "
                    f"{_line([sample])}",
                    flush=True,
                )
    return samples


def _prompts() -> list[str]:
    """Questions of the demo's suite."""
    lines = [
        line for file in sorted(PROMPTS.glob("*.jsonl")) for line in file.read_text().splitlines()
    ]
    return [json.loads(line)["question"] for line in lines]


def _rotated(targets: list[Target], number: int) -> list[Target]:
    first = number % len(targets)
    return [*targets[first:], *targets[:first]]


async def _load(target: Target, prompts: list[str], in_flight: int, max_tokens: int) -> Sample:
    """Keeps `in_flight` requests going until each place has had two turns, and 8 requests at least
    are done."""
    questions = iter(
        list(itertools.islice(itertools.cycle(prompts), max(MIN_REQUESTS, 2 * in_flight)))
    )
    tokens: list[int] = []
    ttft_ms: list[float] = []

    async def keep_asking(client: httpx.AsyncClient) -> None:
        for question in questions:
            first_s, count = await _ask(client, question, max_tokens)
            ttft_ms.append(1000 * first_s)
            tokens.append(count)

    limits = httpx.Limits(max_connections=in_flight)
    async with httpx.AsyncClient(
        base_url=target.url,
        headers=_headers(target),
        timeout=START_TIMEOUT_S,
        limits=limits,
        trust_env=False,
    ) as client:
        started = time.perf_counter()
        await asyncio.gather(*(keep_asking(client) for _ in range(in_flight)))
        seconds = time.perf_counter() - started
    return Sample(sum(tokens) / seconds, ttft_ms)


async def _ask(client: httpx.AsyncClient, question: str, max_tokens: int) -> tuple[float, int]:
    """(seconds to the first token, output tokens) of one streamed answer."""
    body = {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first_s: float | None = None
    count: int | None = None
    started = time.perf_counter()
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError(
                f"{answer.url} said {answer.status_code}: {(await answer.aread()).decode()[:500]}"
            )
        async for line in answer.aiter_lines():
            if first_s is None and _has_content(line):
                first_s = time.perf_counter() - started
            if '"completion_tokens"' in line:
                count = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    if first_s is None or count is None:
        raise RuntimeError(f"{answer.url} broke off")
    return first_s, count


def _has_content(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return bool(choices and choices[0]["delta"].get("content"))


def _headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.key}"}


def _line(samples: list[Sample]) -> str:
    return f"{_speed(samples):7.1f} tokens/s   TTFT p50 {_ttft_ms(samples):7.1f} ms"


def _speed(samples: list[Sample]) -> float:
    return median(sample.tokens_per_s for sample in samples)


def _ttft_ms(samples: list[Sample]) -> float:
    return median(ms for sample in samples for ms in sample.ttft_ms)


def _report(samples: Samples, concurrency: list[int]) -> None:
    loads: dict[str, dict[str, Any]] = {}
    for in_flight in concurrency:
        speed = {name: _speed(samples[name, in_flight]) for name in TARGETS}
        ttft = {name: _ttft_ms(samples[name, in_flight]) for name in TARGETS}
        to_slot, to_vllm = speed["gateway"] / speed["slot"], speed["gateway"] / speed["vLLM"]
        added_ms = ttft["gateway"] - ttft["slot"]
        print(f"\n{in_flight} in flight")
        for name in TARGETS:
            print(f"  {name:<8} {_line(samples[name, in_flight])}")
        print(f"  gateway / slot   {to_slot:.3f}      {met(to_slot, SLOT_BAR)}")
        print(f"  gateway / vLLM   {to_vllm:.3f}      {met(to_vllm, VLLM_BAR)}")
        print(
            f"  added TTFT p50   {added_ms:+.1f} ms    {met(added_ms, TTFT_BAR_MS, at_most=True)}"
        )
        loads[str(in_flight)] = {
            "tokens_per_s": speed,
            "ttft_p50_ms": ttft,
            "gateway_to_slot": to_slot,
            "gateway_to_vllm": to_vllm,
            "added_ttft_p50_ms": added_ms,
        }
    rounds = len(samples[TARGETS[0], concurrency[0]])
    print()
    print(json.dumps({"bench": "serve", "rounds": rounds, "loads": loads}))


if __name__ == "__main__":
    main()
