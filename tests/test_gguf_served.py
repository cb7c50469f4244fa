"""llama.cpp in a slot, behind the real gateway: a GGUF file is approved, promoted and asked."""

import json
from pathlib import Path

import pytest

from assay.engines.compression import gguf_model
from smollm import make_small
from test_release_restart import CHAT, RealOffice, place

__all__ = ["place"]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # gguf's and transformers' own
]


def test_a_gguf_file_is_served_behind_the_gateway(place: RealOffice, tmp_path: Path) -> None:
    merged, made = tmp_path / "merged", tmp_path / "gguf"
    make_small(merged)
    gguf_model.write(merged, made, "q8_0", [list(range(300, 320))])
    run = place.made(made)
    assert any(name.startswith("xllamacpp-") for name in place.record.engine_build)
    place.approve(run)
    place.promote(run)

    whole = place.chat()
    assert whole.status_code == 200, whole.text
    assert whole.headers["X-Assay-Artifact"] == place.record.artifact_digest
    said = whole.json()["choices"][0]["message"]["content"]

    body = {**CHAT, "temperature": 0, "stream": True}
    with place.client.stream("POST", "/chat/completions", json=body, timeout=60) as answer:
        pieces = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
    deltas = [json.loads(piece)["choices"][0]["delta"].get("content") for piece in pieces]
    assert len([delta for delta in deltas if delta]) > 1
    assert said

    echo = {"model": "bot", "prompt": "a", "max_tokens": 1, "echo": True, "logprobs": 1}
    refused = place.client.post("/completions", json=echo, timeout=60)
    assert refused.status_code == 400
    assert "log-probabilities of a prompt" in refused.text
