"""`deploy`: a model into a slot, where it answers but has no traffic."""

import time
from dataclasses import dataclass

from assay.engines.deployment import ray_serve
from assay.errors import PlaceError
from assay.records.inputs import StageInputs, only
from assay.records.release import Champion
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.spec.serve import ServeSpec
from assay.stages.context import Work

VERSION = 1
START_TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a deployment depends on."""

    model: ModelRecord
    model_name: str
    """By which clients call it."""
    serve: ServeSpec = only("engine", "replicas")


Output = DeploymentRecord


def run(inputs: Inputs, work: Work, *, champion: Champion | None) -> DeploymentRecord:
    """Deploys into the slot that has no traffic."""
    slot: Slot = "green" if champion and champion.slot == "blue" else "blue"
    return into(slot, inputs.serve, model_name=inputs.model_name, model=inputs.model, work=work)


def into(slot: Slot, serve: ServeSpec, *, model_name: str, model: ModelRecord, work: Work) -> DeploymentRecord:
    """Checks every byte of the model, deploys it into `slot` in place of what is there, and waits until it answers.
    Raises `StageFailed` with Serve's own words when it does not."""
    api = serve_api(work)
    work.store.verify(model.artifact)
    work.say(f"starting the engine in slot {slot}")
    # Serve leaves an application alone whose configuration has not changed; a candidate starts anew.
    ray_serve.remove(api, slot)
    _wait_until_gone(api, slot)
    since = time.time()
    ray_serve.deploy(
        api,
        ray_serve.application(slot, model_name, model.artifact.path, serve, api.engine_python, on_gpu=work.on_gpu),
    )
    state = ray_serve.wait_until_running(api, slot, timeout_s=START_TIMEOUT_S, since=since - 1)
    return DeploymentRecord(
        slot=slot,
        model_name=model_name,
        artifact_digest=model.artifact.digest,
        url=state.url,
        deployed_at=state.deployed_at,
        replicas=state.replicas,
    )


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
