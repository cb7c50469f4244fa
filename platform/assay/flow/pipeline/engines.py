"""The engines of a run: the candidate's, and those of what it is compared with.

On processors an engine takes most of a minute of one core to start. So on a machine without GPUs
the base model's is told to start before the candidate is merged, and the candidate's before the
base model is asked, where both have room.
"""

from contextlib import AbstractContextManager
from functools import partial

import psutil

from assay.engines.cluster import local_head
from assay.engines.deployment import ray_serve
from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.keys import engine_fingerprint
from assay.records.gate import EvaluationRecord
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.spec.serve import EngineSpec, ServeSpec
from assay.spec.train import TrainSpec
from assay.stages import baseline, deploy, evaluate
from assay.stages.context import Work

GIB = 2**30
# Of one engine's processes, besides weights and cache (measured, vLLM 0.32 on processors).
ENGINE_BYTES = 3 * GIB
BASE, CANDIDATE = "baseline", "deploy"


def start_base_early(context: RunContext, work: Work) -> None:
    """Tells the base model's engine to start, when it will be asked and there is room for two."""
    if not context.wants_base:
        return
    known = _known_answers(context, context.model, context.spec.served_name, work)
    if known is None and _has_room(context, work):
        context.started[BASE] = _start(context, _reference_slot(context), context.model, work)


def stop_unasked(context: RunContext) -> None:
    """Frees the slot of a base model that was told to start and was never asked."""
    if context.started.pop(BASE, None):
        with _reference_slot(context) as name:
            ray_serve.remove(deploy.serve_api(context.settings), name)


def deploy_candidate(context: RunContext, inputs: deploy.Inputs, work: Work) -> DeploymentRecord:
    """The candidate into a slot that is idle when it is deployed, whatever was idle when the run
    began."""
    from assay.flow.release.slots import idle_slot  # a plan has no need of it

    started = context.started.pop(CANDIDATE, None)
    if started is None:
        _make_room(context, idle_slot(context.settings), work)
    return deploy.run(inputs, work, slot=idle_slot(context.settings), started=started)


def wait_for_workers(train: TrainSpec, work: Work, driver_cpus: float = 0.0) -> None:
    """Waits until training's workers find room beside the engines."""
    gpus = train.worker.gpus
    each = float(work.on_gpu) if gpus is None else gpus
    cpus = train.num_workers * train.worker.cpus + driver_cpus
    _wait("training's workers", cpus, train.num_workers * each, work)


def _make_room(context: RunContext, slot: AbstractContextManager[Slot], work: Work) -> None:
    """Frees the slot that is about to be deployed to, and waits until its engine finds room."""
    api = deploy.serve_api(context.settings)
    # First: what stands there holds the room that is waited for.
    with slot as name:
        ray_serve.remove(api, name)
    serve = context.spec.serve
    count = serve.replicas.min * serve.engine.gpus_per_replica
    _wait("the engine's replicas", count, count * float(work.on_gpu), work)


def _wait(what: str, cpus: float, gpus: float, work: Work) -> None:
    from assay.flow.resources.waiting import Room, wait_for_room  # a plan has no need of it

    wait_for_room(Room(what, cpus, gpus), work.settings, say=work.say)


def base_answers(context: RunContext, inputs: baseline.Inputs, work: Work) -> EvaluationRecord:
    """The base model's answers. Its engine, where it was started early, is not the last to
    start."""
    if BASE in context.started:
        _start_candidate_early(context, work)
    return _reference_answers(context, context.model, context.spec.served_name, work)


def champion_answers(context: RunContext, inputs: baseline.Inputs, work: Work) -> EvaluationRecord:
    """The champion's answers; it is asked in a slot of its own, for its users have the other."""
    assert context.champion is not None
    return _reference_answers(context, context.champion_model, context.champion.model_name, work)


def ask(
    context: RunContext,
    deployment: DeploymentRecord,
    *,
    model: ModelRecord,
    work: Work,
    stopping: evaluate.Stopping | None = None,
) -> EvaluationRecord:
    """Asks a deployment of `model` all of the suite's questions, or as many as decide."""
    spec = context.spec
    asked = evaluate.Respondent(
        deployment=deployment,
        engine=engine_fingerprint(spec.serve.engine, context.settings),
        tokenizer=model.artifact.path,
        num_concurrent=spec.gate.num_concurrent * spec.serve.replicas.min,
        is_deployed=lambda: ray_serve.holds(deploy.serve_api(context.settings), deployment),
    )
    (record,) = evaluate.run(asked, [evaluate.EvalRequest(context.tasks, stopping)], work)
    return record


def _reference_answers(
    context: RunContext, model: ModelRecord, name: str, work: Work
) -> EvaluationRecord:
    """A model's answers, asked for in the slot `reference`. One that has answered everything before
    is not started."""
    known = _known_answers(context, model, name, work)
    if known is not None:
        return known

    def deployed() -> DeploymentRecord:
        serve, served_name = context.spec.serve, context.spec.served_name
        early = context.started.pop(BASE, None)
        if early is None:
            _make_room(context, _reference_slot(context), work)
        started = early or _start(context, _reference_slot(context), model, work)
        return deploy.wait(started, serve, model_name=served_name, model=model, work=work)

    return baseline.run(
        deploy=deployed,
        evaluate=lambda deployment: ask(context, deployment, model=model, work=work),
        slot=partial(_reference_slot, context),
        api=deploy.serve_api(context.settings),
    )


def serve_for(serve: ServeSpec, model: ModelRecord) -> ServeSpec:
    """The engine's settings, no longer a context than the model was made for."""
    engine = serve.engine
    # 0 is a model that does not say.
    if not 0 < model.context_length < engine.max_model_len:
        return serve
    fitting = {**engine.model_dump(), "max_model_len": model.context_length}
    # Validated anew: other settings are checked against the length.
    return ServeSpec(engine=EngineSpec.model_validate(fitting), replicas=serve.replicas)


def _known_answers(
    context: RunContext, model: ModelRecord, name: str, work: Work
) -> EvaluationRecord | None:
    engine = engine_fingerprint(context.spec.serve.engine, context.settings)
    return evaluate.finished(model.artifact.digest, name, context.tasks, engine=engine, work=work)


def _start_candidate_early(context: RunContext, work: Work) -> None:
    """Tells the candidate's engine to start, unless it stands already."""
    from assay.flow.release.slots import idle_slot  # a plan has no need of it

    api, path = deploy.serve_api(context.settings), context.candidate.artifact.path
    slots: tuple[Slot, ...] = ("blue", "green")
    held = [ray_serve.state(api, slot) for slot in slots]
    if not any(state and state.model_path == path for state in held):
        context.started[CANDIDATE] = _start(
            context, idle_slot(context.settings), context.candidate, work
        )


def _start(
    context: RunContext, slot: AbstractContextManager[Slot], model: ModelRecord, work: Work
) -> deploy.Started:
    return deploy.start(
        slot, context.spec.serve, model_name=context.spec.served_name, model=model, work=work
    )


def _reference_slot(context: RunContext) -> AbstractContextManager[Slot]:
    from assay.flow.release.slots import reference_slot  # a plan has no need of it

    return reference_slot(context.settings)


def _has_room(context: RunContext, work: Work) -> bool:
    """Whether engines of the base model and of the candidate fit side by side into this machine's
    free memory."""
    cache = context.spec.serve.engine.kv_cache_gb_on_cpu * GIB
    wanted = 2 * (2 * context.model.artifact.size + cache + ENGINE_BYTES)
    is_here = not work.on_gpu and local_head.is_running(work.settings)
    return is_here and psutil.virtual_memory().available > wanted
