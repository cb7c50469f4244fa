"""`deploy`: a model into a slot, where it answers but has no traffic."""

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.deployment import ray_serve
from assay.engines.deployment.application import (
    ServedModel,
    Verification,
    application,
    classifier_application,
    engine_packages,
    llama_cpp_application,
)
from assay.engines.deployment.chat_settings import chat_settings
from assay.errors import PlaceError, StageFailed
from assay.records.inputs import StageInputs, only
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.settings import Settings
from assay.spec.serve import ServeSpec
from assay.stages.context import Work

VERSION = 3  # every answer says which artifact is loaded
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


@dataclass(frozen=True)
class Started:
    """An engine that was told to start, and may not answer yet."""

    slot: Slot
    deployed_at: float
    """Seconds since the epoch."""


def run(
    inputs: Inputs,
    work: Work,
    *,
    slot: AbstractContextManager[Slot],
    started: Started | None = None,
) -> DeploymentRecord:
    """Deploys the candidate; see `into`. One that was `started` before is waited for."""
    model, name = inputs.model, inputs.model_name
    started = started or start(slot, inputs.serve, model_name=name, model=model, work=work)
    return wait(started, inputs.serve, model_name=name, model=model, work=work)


def into(
    slot: AbstractContextManager[Slot],
    serve: ServeSpec,
    *,
    model_name: str,
    model: ModelRecord,
    work: Work,
) -> DeploymentRecord:
    """Starts the model's engine and waits until it answers; see `start` and `wait`."""
    started = start(slot, serve, model_name=model_name, model=model, work=work)
    return wait(started, serve, model_name=model_name, model=model, work=work)


def start(
    slot: AbstractContextManager[Slot],
    serve: ServeSpec,
    *,
    model_name: str,
    model: ModelRecord,
    work: Work,
) -> Started:
    """Checks every byte of the model and deploys it in place of what is in `slot`. The slot is
    entered when it is about to be changed, and left when Serve has been told; it must be one
    without traffic."""
    api = serve_api(work.settings)
    # Before the slot is taken: what stands there goes on answering while the bytes are read.
    work.store.verify(model.artifact)
    with slot as name:
        work.say(f"starting the engine in slot {name}")
        return Started(
            name, _replace(api, name, serve, model_name=model_name, model=model, work=work)
        )


def wait(
    started: Started, serve: ServeSpec, *, model_name: str, model: ModelRecord, work: Work
) -> DeploymentRecord:
    """Waits until an engine answers. Raises `StageFailed` with Serve's own words when it does
    not."""
    api, name = serve_api(work.settings), started.slot
    work.say(f"waiting for the engine in slot {name}")
    state = ray_serve.wait_until_running(
        api, name, timeout_s=START_TIMEOUT_S, deployed_at=started.deployed_at
    )
    if state.model_path != model.artifact.path:
        raise StageFailed(
            f"slot {name} was taken by another run while this one's engine started; run the spec "
            "again"
        )
    chats = chat_settings(Path(model.artifact.path), serve.engine)
    loaded = ray_serve.loaded(work.settings.loaded_folder, state.replicas)
    # Each replica must have said itself what it has loaded; one that says nothing counts as wrong.
    are_right = [loaded.get(replica) == model.artifact.digest for replica in state.replicas]
    if not are_right or not all(are_right):
        raise StageFailed(
            f"slot {name} answers, but not every replica says that it has loaded "
            f"{model.artifact.path}"
        )
    return DeploymentRecord(
        slot=name,
        model_name=model_name,
        artifact_digest=model.artifact.digest,
        url=state.url,
        deployed_at=state.deployed_at,
        replicas=state.replicas,
        # Half of the context, so that room is left for what comes after it.
        max_reasoning_tokens=serve.engine.max_model_len // 2 if chats.reasons else 0,
        engine_build=engine_build(model, work.settings),
        on_gpu=work.on_gpu,
    )


def standing(
    slot: Slot, serve: ServeSpec, *, model_name: str, model: ModelRecord, work: Work
) -> Started | None:
    """The engine of this very model that was started in the slot before, and may still come up;
    None where there is none."""
    wanted = _application(slot, serve, model_name, model, work)
    deployed_at = ray_serve.standing(serve_api(work.settings), wanted)
    return Started(slot, deployed_at) if deployed_at is not None else None


def engine_build(model: ModelRecord, settings: Settings) -> tuple[str, ...]:
    """Name and version of the engine that serves a model, and of what it stands on, as they are
    installed now. The platform's own environment serves classifiers and GGUF files."""
    if model.architecture.endswith(CLASSIFIER):
        return tuple(engine_packages(sys.executable))
    if model.format == "gguf":
        return tuple(engine_packages(sys.executable, "xllamacpp"))
    return tuple(engine_packages(settings.engine_python))


def _replace(
    api: ray_serve.ServeApi,
    slot: Slot,
    serve: ServeSpec,
    *,
    model_name: str,
    model: ModelRecord,
    work: Work,
) -> float:
    """Puts the model where another was; returns when. Serve leaves an application
    alone whose configuration has not changed; a candidate starts anew."""
    ray_serve.remove(api, slot)
    _wait_until_gone(api, slot)
    return ray_serve.deploy(api, _application(slot, serve, model_name, model, work))


def _application(
    slot: Slot, serve: ServeSpec, model_name: str, model: ModelRecord, work: Work
) -> dict[str, Any]:
    served = ServedModel(slot, model_name, model.artifact.path)
    verification = Verification(model.artifact.digest, work.settings.loaded_folder)
    if model.architecture.endswith(CLASSIFIER):
        return classifier_application(served, serve, verification)
    if model.format == "gguf":
        return llama_cpp_application(served, serve, verification)
    python = work.settings.engine_python
    return application(served, serve, python, on_gpu=work.on_gpu, verification=verification)


def serve_api(settings: Settings) -> ray_serve.ServeApi:
    """Serve's REST API of this place. Raises `PlaceError` when there is no engine environment."""
    if not settings.engine_python:
        raise PlaceError(
            "the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON"
        )
    return ray_serve.ServeApi(
        settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python
    )


def _wait_until_gone(api: ray_serve.ServeApi, slot: Slot, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while ray_serve.state(api, slot) is not None and time.monotonic() < end:
        time.sleep(ray_serve.POLL_S)
