"""A restart, with the real engine, the real Ray and the real gateway: production comes back, with
the bytes that were approved."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psutil
import pytest

from assay.engines.cluster import local_head
from assay.flow.release import controller
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.serving import gateway
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.stages import deploy
from assay.stages.context import Work
from office import ASSAY, Office, Running
from servers import free_ports

pytestmark = [
    pytest.mark.ray,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
]

CHAT = {
    "model": "bot",
    "messages": [{"role": "user", "content": "is tello real?"}],
    "max_tokens": 4,
}


class RealOffice(Office):
    """The same place, with a run whose engine is real."""

    record: DeploymentRecord

    def spec(self, name: str) -> Spec:
        said = super().spec(name).model_dump(mode="json", exclude_unset=True)
        return Spec.model_validate(said | {"serve": {"engine": {"max_model_len": 128}}})

    def _deployment(self, slot: Slot, digest: str) -> DeploymentRecord:
        return self.record

    def made(self, model: Path) -> str:
        """A run that has come to the gate, and whose candidate answers in blue."""
        run, home = self.run("first"), self.settings.home
        work = Work(self.settings, home / "work", home / "progress.jsonl", home)
        shutil.copytree(model, home / "made")
        compress = ModelRecord(
            artifact=work.store.put(home / "made", "model"),
            architecture="LlamaForCausalLM",
            num_parameters=1,
            num_layers=1,
            context_length=128,
            format="gguf" if (model / "model.gguf").is_file() else "safetensors",
        )
        serve = self.spec("first").serve
        where = nullcontext(cast(Slot, "blue"))
        self.record = deploy.into(where, serve, model_name="bot", model=compress, work=work)
        self._finish(run, "compress", compress)
        self._finish(run, "deploy", self.record)
        digest = compress.artifact.digest
        self._finish(run, "gate", self._gate(run, "blue", digest, {digest: 60}))
        return run

    def chat(self) -> httpx.Response:
        return self.client.post("/chat/completions", json=CHAT, timeout=60)

    def status(self) -> int:
        """Of an answer; 0 where the connection broke off, as one that was cut by a crash does."""
        try:
            return self.chat().status_code
        except httpx.TransportError:
            return 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[RealOffice]:
    ports = free_ports(4)
    settings = Settings(
        home=tmp_path / "home",
        ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}",
        ray_address="",
        ray_port=ports[0],
        dashboard_port=ports[1],
        serve_port=ports[2],
        gateway_port=ports[3],
        user="ben",
    )
    local_head.start(settings)
    gateway.start(settings)
    try:
        headers = {"Authorization": f"Bearer {gateway.create_key(settings, 'tests')}"}
        with httpx.Client(base_url=settings.gateway_url, headers=headers) as client:
            serve: Any = SimpleNamespace()
            yield RealOffice(Running(settings, serve, client), settings.ledger_url)
    finally:
        controller.stop(settings)
        gateway.stop(settings)
        local_head.stop(settings)


def test_production_comes_back_after_a_restart_and_after_a_crash(
    place: RealOffice, tiny_model: Path
) -> None:
    run = place.made(tiny_model)
    place.approve(run)
    place.promote(run)
    before = place.chat()
    assert before.status_code == 200, before.text

    local_head.stop(place.settings)
    away = place.chat()
    assert (away.status_code, "Retry-After" in away.headers) == (503, True)
    began = time.monotonic()
    env = place.environment() | {"ASSAY_RAY_PORT": str(place.settings.ray_port)}
    up = subprocess.run([*ASSAY, "up"], env=env, capture_output=True, text=True, timeout=300)
    print(up.stderr, f"{time.monotonic() - began:.0f} s from `assay up` to traffic")
    assert up.returncode == 0, up.stderr
    again = place.chat()
    assert again.status_code == 200, again.text

    # Nobody says `up` after a crash: the controller does.
    head = psutil.Process(int((place.settings.home / "ray-head.pid").read_text()))
    family = [*head.children(recursive=True), head]
    began = time.monotonic()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    while place.status() == 200:  # what the dead have left may answer for a moment
        time.sleep(0.1)
    while (status := place.status()) != 200:
        assert status in (0, 502, 503)
        assert time.monotonic() - began < 240, controller.log_file(place.settings).read_text()
        time.sleep(0.2)
    print(f"{time.monotonic() - began:.0f} s from the crash to traffic, on {os.cpu_count()} cores")
