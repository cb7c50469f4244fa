"""Log-probabilities of the real engine, place by place and by echo, against those of
transformers."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from assay.engines.evaluation import logprobs
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.logprobs import Pair, score
from assay.settings import Settings
from servers import free_port
from tiny import make_model

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

PAIRS = [
    Pair((3, 20 + item, 31, 40, 4), (50 + letter,)) for item in range(6) for letter in range(4)
]
PAIRS += [
    Pair((3, 20 + item, 31, 4), (50, 60 + choice, 70)) for item in range(3) for choice in range(3)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring") / "model"
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(model: Path) -> Iterator[Endpoint]:
    """vLLM's own server with the tiny model."""
    port = free_port()
    command = [
        Settings().engine_python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        f"--port={port}",
        "--host=127.0.0.1",
    ]
    command += [
        f"--model={model}",
        "--served-model-name=tiny",
        "--dtype=float32",
        "--max-model-len=128",
    ]
    command += ["--enforce-eager"]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }
    log = model.parent / "vllm.log"
    with log.open("w") as output:
        server = psutil.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url, end = f"http://127.0.0.1:{port}/v1", time.monotonic() + 240
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/models", timeout=5, trust_env=False).is_success:
                    break
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        yield Endpoint(url, "tiny", 8, patience_s=5, timeout_s=60)
    finally:
        family = [server, *server.children(recursive=True)] if server.is_running() else [server]
        server.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for left in alive:
            left.kill()


def test_both_ways_agree_with_transformers(
    model: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = _by_transformers(model)
    monkeypatch.setattr(logprobs, "COST_OF_ECHO", 1e6)
    by_place = score(endpoint, PAIRS, answers=tmp_path / "answers.jsonl")
    asked = (tmp_path / "answers.jsonl").read_text()
    assert not [found.error for found in by_place if found.error]
    assert '"token_logprobs"' in asked
    assert len(asked.splitlines()) < len(PAIRS)  # a prompt is sent for all that may follow it
    monkeypatch.setattr(logprobs, "COST_OF_ECHO", -1e6)
    by_echo = score(endpoint, PAIRS)
    assert [found.logprob for found in by_place] == pytest.approx(
        [logprob for logprob, _ in expected], abs=1e-3
    )
    assert [found.logprob for found in by_echo] == pytest.approx(
        [logprob for logprob, _ in expected], abs=1e-3
    )
    assert [found.is_greedy for found in by_place] == [greedy for _, greedy in expected]
    assert [found.is_greedy for found in by_echo] == [greedy for _, greedy in expected]


def _by_transformers(folder: Path) -> list[tuple[float, bool]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for pair in PAIRS:
        tokens = torch.tensor([pair.context + pair.continuation])
        with torch.inference_mode():
            table = torch.log_softmax(model(tokens).logits[0], dim=-1)
        rows = table[len(pair.context) - 1 : -1]
        own = rows.gather(1, tokens[0, len(pair.context) :, None])
        found.append(
            (float(own.sum()), bool((rows.argmax(dim=1) == tokens[0, len(pair.context) :]).all()))
        )
    return found
