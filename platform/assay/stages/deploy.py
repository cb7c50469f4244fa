"""`deploy`: a model into a slot, where it answers but has no traffic."""

import time
from dataclasses import dataclass

from assay.engines import ray_cluster, ray_serve
from assay.errors import PlaceError
from assay.records.release import Champion
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.spec.serve import ServeSpec
from assay.stages.work import Work

VERSION = 1
START_TIMEOUT_S = 900.0
INGRESS_CPUS = 1  # of the application's own router


def run(
    serve: ServeSpec,
    *,
    model_name: str,
    model: ModelRecord,
    champion: Champion | None,
    started: "Started | None" = None,
    work: Work,
) -> DeploymentRecord:
    """Deploys into the slot that has no traffic, or waits for the deployment that was `started` there before."""
    if started is None:
        return into(idle_slot(champion), serve, model_name=model_name, model=model, work=work)
    return wait(started, work=work)


def idle_slot(champion: Champion | None) -> Slot:
    """The one of the two slots that has no traffic."""
    return "green" if champion and champion.slot == "blue" else "blue"


def into(slot: Slot, serve: ServeSpec, *, model_name: str, model: ModelRecord, work: Work) -> DeploymentRecord:
    """Checks every byte of the model, deploys it into `slot` and waits until it answers."""
    return wait(start(slot, serve, model_name=model_name, model=model, work=work), work=work)


@dataclass(frozen=True)
class Started:
    """A deployment that was asked for, and may not answer yet."""

    slot: Slot
    model_name: str
    artifact_digest: str
    since: float
    """When it was asked for, in seconds since the epoch."""


def start(slot: Slot, serve: ServeSpec, *, model_name: str, model: ModelRecord, work: Work) -> Started:
    """Checks every byte of the model and asks Serve to deploy it into `slot`, in place of what is there."""
    api = serve_api(work)
    work.store.verify(model.artifact)
    # Serve leaves an application alone whose configuration has not changed; a candidate starts anew.
    ray_serve.remove(api, slot)
    _wait_until_gone(api, slot)
    since = time.time()
    ray_serve.deploy(
        api,
        ray_serve.application(slot, model_name, model.artifact.path, serve, api.engine_python, on_gpu=work.on_gpu),
    )
    return Started(slot, model_name, model.artifact.digest, since)


def wait(started: Started, *, work: Work) -> DeploymentRecord:
    """Waits until a deployment answers. Raises `StageFailed` with Serve's own words when it does not."""
    work.say(f"starting the engine in slot {started.slot}")
    state = ray_serve.wait_until_running(
        serve_api(work), started.slot, timeout_s=START_TIMEOUT_S, since=started.since - 1
    )
    return DeploymentRecord(
        slot=started.slot,
        model_name=started.model_name,
        artifact_digest=started.artifact_digest,
        url=state.url,
        deployed_at=state.deployed_at,
        replicas=state.replicas,
    )


def has_room_for_two(serve: ServeSpec, work: Work) -> bool:
    """Whether two deployments of this size can start side by side now."""
    engines = 2 * serve.replicas.min
    free = ray_cluster.free()
    if work.on_gpu:
        return free.gpus >= engines * serve.engine.tensor_parallel_size
    return free.cpus >= engines * (serve.engine.tensor_parallel_size + INGRESS_CPUS)


def serve_api(work: Work) -> ray_serve.ServeApi:
    """Serve's REST API of this place. Raises `PlaceError` when there is no engine environment."""
    place = work.place
    if not place.engine_python:
        raise PlaceError("the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON")
    return ray_serve.ServeApi(place.dashboard_url, place.ray_token(), place.serve_port, place.engine_python)


def _wait_until_gone(api: ray_serve.ServeApi, slot: Slot, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while ray_serve.state(api, slot) is not None and time.monotonic() < end:
        time.sleep(ray_serve.POLL_S)
