"""The real engine reads every byte of its model before it loads it, however its process came to
be."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from assay.engines.deployment import ray_serve
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.serving.haproxy import ARTIFACT_HEADER
from assay.settings import Settings
from assay.spec.serve import ServeSpec
from assay.stages import deploy
from assay.stages.context import Work

pytestmark = [
    pytest.mark.ray,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
]

SLOT: Slot = "reference"
SERVE = ServeSpec.model_validate({"engine": {"max_model_len": 128}})


def test_every_replica_verifies_what_it_loads(
    on_ray: Settings, tiny_model: Path, tmp_path: Path
) -> None:
    work = Work(on_ray, tmp_path / "work", tmp_path / "progress.jsonl", tmp_path)
    shutil.copytree(tiny_model, tmp_path / "model")
    artifact = work.store.put(tmp_path / "model", "model")
    model = ModelRecord(
        artifact=artifact, architecture="Llama", num_parameters=1, num_layers=1, context_length=128
    )
    api = deploy.serve_api(work.settings)
    try:
        began = time.monotonic()
        record = deploy.into(nullcontext(SLOT), SERVE, model_name="tiny", model=model, work=work)
        seconds = time.monotonic() - began
        (replica,) = record.replicas
        assert ray_serve.loaded(on_ray.loaded_folder, [replica]) == {replica: artifact.digest}
        report = json.loads((on_ray.loaded_folder / f"{replica}.json").read_text())
        assert any(package.startswith("vllm") for package in report["packages"])
        assert report["seconds_to_verify"] < 0.1 * seconds
        _every_answer_says(record, artifact.digest)

        # One that Serve starts instead of a dead one has nobody who looks after it, and verifies
        # all the same.
        _kill(api, record)
        until(lambda: _is_another(api, replica), "another replica")
        state = ray_serve.state(api, SLOT)
        assert state is not None
        assert set(ray_serve.loaded(on_ray.loaded_folder, state.replicas).values()) == {
            artifact.digest
        }

        # Other bytes do not come up, whatever size and time they have.
        weights = next(Path(artifact.path).glob("*.safetensors"))
        before, whole = weights.stat(), weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        _kill(api, record)
        until(lambda: "its SHA-256 has changed" in _messages(api), "a refusal to load")
        state = ray_serve.state(api, SLOT)
        assert state is not None
        assert state.replicas == ()
    finally:
        ray_serve.remove(api, SLOT)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, f"{what} was waited for in vain"
        time.sleep(0.2)


def _every_answer_says(record: DeploymentRecord, digest: str) -> None:
    """Streams, refusals and what is no route of the engine's, too."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    tries: list[tuple[str, str, Any, int]] = [
        ("GET", "/models", None, 200),
        ("POST", "/chat/completions", chat, 200),
        ("POST", "/chat/completions", chat | {"stream": True}, 200),
        ("POST", "/chat/completions", {"model": 1}, 400),
        ("GET", "/nothing", None, 404),
    ]
    for method, path, body, status in tries:
        answer = httpx.request(method, record.url + path, json=body, timeout=60, trust_env=False)
        found = answer.status_code, answer.headers.get_list(ARTIFACT_HEADER)
        assert found == (status, [digest]), (path, answer.text)


def _kill(api: ray_serve.ServeApi, record: DeploymentRecord) -> None:
    """The engine's process, as the kernel kills one that takes too much memory."""
    for _, pid in ray_serve.engine_pids(api, record.slot):
        psutil.Process(pid).kill()


def _is_another(api: ray_serve.ServeApi, replica: str) -> bool:
    state = ray_serve.state(api, SLOT)
    return state is not None and bool(state.replicas) and replica not in state.replicas


def _messages(api: ray_serve.ServeApi) -> str:
    """All that Serve says of the slot."""
    details = ray_serve._request(api, "GET")["applications"].get(SLOT, {})
    return json.dumps(
        [
            details.get("message"),
            [one.get("message") for one in details.get("deployments", {}).values()],
        ]
    )
