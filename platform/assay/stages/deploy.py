"""`deploy`: a model into a slot, where it answers but has no traffic."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.deployment import ray_serve
from assay.engines.deployment.chat_settings import chat_settings
from assay.errors import PlaceError, StageFailed
from assay.records.inputs import StageInputs, only
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.spec.serve import ServeSpec
from assay.stages.context import Work

VERSION = 2  # each replica verifies what it loads; replicas are the engine's alone
CLASSIFIER = "ForSequenceClassification"
"""How transformers calls the architecture of a classifier with a head, at the end of its name."""
START_TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a deployment depends on."""

    model: ModelRecord
    model_name: str
    """By which clients call it."""
    serve: ServeSpec = only("engine", "replicas")


Output = DeploymentRecord


def run(inputs: Inputs, work: Work, *, slot: AbstractContextManager[Slot]) -> DeploymentRecord:
    """Deploys the candidate; see `into`."""
    return into(slot, inputs.serve, model_name=inputs.model_name, model=inputs.model, work=work)


def into(
    slot: AbstractContextManager[Slot],
    serve: ServeSpec,
    *,
    model_name: str,
    model: ModelRecord,
    work: Work,
) -> DeploymentRecord:
    """Checks every byte of the model, deploys it in place of what is in `slot`, and waits until it answers. The slot is
    entered when it is about to be changed, and left when Serve has been told; it must be one without traffic. Raises
    `StageFailed` with Serve's own words when the model does not answer."""
    api = serve_api(work)
    work.store.verify(model.artifact)
    with slot as name:
        work.say(f"starting the engine in slot {name}")
        since = _replace(api, name, serve, model_name=model_name, model=model, work=work)
    state = ray_serve.wait_until_running(api, name, timeout_s=START_TIMEOUT_S, since=since - 1)
    if state.model_path != model.artifact.path:
        raise StageFailed(f"slot {name} was taken by another run while this one's engine started; run the spec again")
    chats = chat_settings(Path(model.artifact.path), serve.engine)
    loaded = ray_serve.loaded(work.settings.loaded_folder, state.replicas)
    if not state.replicas or any(loaded.get(replica) != model.artifact.digest for replica in state.replicas):
        raise StageFailed(f"slot {name} answers, but not every replica says that it has loaded {model.artifact.path}")
    return DeploymentRecord(
        slot=name,
        model_name=model_name,
        artifact_digest=model.artifact.digest,
        url=state.url,
        deployed_at=state.deployed_at,
        replicas=state.replicas,
        max_reasoning_tokens=serve.engine.max_model_len // 2 if chats.reasons else 0,
    )


def _replace(
    api: ray_serve.ServeApi, slot: Slot, serve: ServeSpec, *, model_name: str, model: ModelRecord, work: Work
) -> float:
    """Puts the model where another was; returns the time just before. Serve leaves an application alone whose
    configuration has not changed; a candidate starts anew."""
    ray_serve.remove(api, slot)
    _wait_until_gone(api, slot)
    since = time.time()
    ray_serve.deploy(api, _application(slot, serve, model_name, model, work))
    return since


def _application(slot: Slot, serve: ServeSpec, model_name: str, model: ModelRecord, work: Work) -> dict[str, Any]:
    path = model.artifact.path
    verification = ray_serve.Verification(model.artifact.digest, work.settings.loaded_folder)
    if model.architecture.endswith(CLASSIFIER):
        return ray_serve.classifier_application(slot, model_name, path, serve, verification)
    python = work.settings.engine_python
    return ray_serve.application(slot, model_name, path, serve, python, on_gpu=work.on_gpu, verification=verification)


def serve_api(work: Work) -> ray_serve.ServeApi:
    """Serve's REST API of this place. Raises `PlaceError` when there is no engine environment."""
    settings = work.settings
    if not settings.engine_python:
        raise PlaceError("the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON")
    return ray_serve.ServeApi(settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python)


def _wait_until_gone(api: ray_serve.ServeApi, slot: Slot, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while ray_serve.state(api, slot) is not None and time.monotonic() < end:
        time.sleep(ray_serve.POLL_S)
