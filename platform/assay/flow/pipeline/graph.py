"""The stages of a run, in their order: what each depends on, said once, and what runs it.

A stage's `Inputs` are its dependencies: what stands `Pending` in them is what it waits for, and
their digest is the key of its record. Caching, resuming, `assay plan` and `assay diff` all read
this one table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from assay.engines.deployment import ray_serve
from assay.errors import Unreachable
from assay.flow.pipeline import engines
from assay.flow.pipeline.attempts import begin_attempt
from assay.flow.pipeline.context import RunContext, numbered
from assay.flow.pipeline.keys import (
    engine_fingerprint,
    run_id,
)
from assay.flow.pipeline.stage_inputs import (
    clean_inputs,
    compress_inputs,
    digest_of_model,
    fetch_inputs,
    gate_inputs,
    parity_inputs,
    prepare_inputs,
    reference_inputs,
    sweep_inputs,
)
from assay.records.gate import EvaluationRecord, GateRecord
from assay.records.inputs import StageInputs, StoredInputs
from assay.records.record import Record, read_as
from assay.records.stages import DeploymentRecord, SweepRecord, TrainingRecord
from assay.rules.gate.attempts import corrected_confidence
from assay.spec.gate import SuiteSpec
from assay.stages import (
    baseline,
    clean,
    compress,
    deploy,
    evaluate,
    fetch,
    gate,
    merge,
    prepare,
    sweep,
    train,
)
from assay.stages.context import Work
from assay.stages.evidence import contamination, parity, service
from assay.stages.sweeping.trials import goes_all_the_way

R = TypeVar("R", bound=Record)

MODULES: dict[str, ModuleType] = {
    "fetch": fetch,
    "clean": clean,
    "prepare": prepare,
    "contamination": contamination,
    "teacher": fetch,
    "sweep": sweep,
    "train": train,
    "merge": merge,
    "compress": compress,
    "baseline": baseline,
    "champion": baseline,
    "deploy": deploy,
    "service": service,
    "parity": parity,
    "gate": gate,
}
"""The module of each kind of stage: its `VERSION`, `Inputs`, `Output` and `run`."""


def _always(_: Record) -> bool:
    return True


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One stage of one run."""

    name: str
    version: int
    output: type[R]
    inputs: Callable[[], StageInputs]
    """As the records of the stages before stand now."""
    run: Callable[[Any, Work], R]
    """Called with the inputs."""
    is_valid: Callable[[Any], bool] = _always
    """Whether what a record of it tells of is still so, beyond its artifact's bytes."""

    def stored_inputs(self) -> StoredInputs:
        """The inputs as the ledger keeps them; their key is the record's."""
        return StoredInputs(self.name, self.version, self.inputs().as_data())


def output_of(stage: str) -> type[Record] | None:
    """The kind of record that a stage of this name leaves; None for a name that no version knew."""
    module = MODULES.get(stage.partition("-")[0])
    if module:
        return cast(type[Record], module.Output)
    return None


def stages_of(context: RunContext) -> list[Stage[Any]]:
    """From the base model to the gate; approval and promotion follow on a person's word."""
    found = [_stage("fetch", lambda: fetch_inputs(context.spec.model, context))]
    for index in range(len(context.spec.train_steps)):
        found += _training_stages(context, index)
    return [*found, *_serving_stages(context)]


def _stage(
    name: str,
    inputs: Callable[[], StageInputs],
    run: Callable[[Any, Work], Record] | None = None,
    is_valid: Callable[[Any], bool] = _always,
) -> Stage[Any]:
    module = MODULES[name.partition("-")[0]]
    return Stage(name, module.VERSION, module.Output, inputs, run or module.run, is_valid)


def _training_stages(context: RunContext, index: int) -> Iterator[Stage[Any]]:
    """The stages of one training run. The first has the sweep."""
    spec = context.spec.train_steps[index]
    if context.data_spec(index).steps:
        yield _stage(numbered("clean", index), lambda: clean_inputs(context, index))
    yield _stage(numbered("prepare", index), lambda: prepare_inputs(context, index))
    if context.checks_contamination:
        yield _stage(
            numbered("contamination", index),
            lambda: contamination.Inputs(
                data=context.prepared(index),
                contamination=context.suite.contamination,
                tasks=context.tasks,
                model=context.model,
            ),
        )
    distill = spec.objective.distill
    if distill is not None:
        yield _stage(numbered("teacher", index), lambda: fetch_inputs(distill.teacher, context))
    if index == 0 and context.spec.sweep is not None:
        yield _stage("sweep", lambda: sweep_inputs(context), partial(_sweep, context))
    yield _stage(
        numbered("train", index),
        lambda: train.Inputs(
            model=context.start(index),
            data=context.prepared(index),
            train=context.train_spec(index),
            teacher=context.teacher(index),
            reward_model=context.reward_model(index),
        ),
        partial(_train, context, index),
    )
    yield _stage(
        numbered("merge", index),
        lambda: merge.Inputs(
            base=context.start(index),
            training=context.record(numbered("train", index), train.Output),
            labels=context.labels(index),
        ),
        partial(_merge, context, index),
    )


def _serving_stages(context: RunContext) -> Iterator[Stage[Any]]:
    """From the merged model to the verdict on it."""
    serve, suite = context.spec.serve, context.suite
    yield _stage(
        "compress",
        lambda: compress_inputs(context),
        lambda inputs, work: compress.run(inputs, work, data=context.last_data),
    )
    if context.wants_base:
        yield _stage(
            "baseline",
            lambda: reference_inputs(context, digest_of_model(context.model)),
            partial(engines.base_answers, context),
            _is_answered,
        )
    champion = context.champion if context.wants_champion else None
    if champion is not None:
        yield _stage(
            "champion",
            lambda: reference_inputs(context, champion.artifact_digest),
            partial(engines.champion_answers, context),
            _is_answered,
        )
    yield _stage(
        "deploy",
        lambda: deploy.Inputs(
            model=context.candidate, model_name=context.spec.served_name, serve=serve
        ),
        partial(engines.deploy_candidate, context),
        partial(_is_deployed, context),
    )
    if suite.service is not None:
        load = suite.service.load
        gpus = serve.engine.gpus_per_replica
        yield _stage(
            "service",
            lambda: service.Inputs(deployment=context.deployment, load=load, gpus_a_replica=gpus),
            lambda inputs, work: service.run(inputs, work, api=deploy.serve_api(work.settings)),
        )
    if suite.parity is not None:
        yield _stage("parity", lambda: parity_inputs(context))
    yield _stage("gate", lambda: gate_inputs(context), partial(_gate, context), _is_answered)


def _train(context: RunContext, index: int, inputs: train.Inputs, work: Work) -> Record:
    trained = _trained_in_the_sweep(context, index, inputs, work)
    if trained is not None:
        work.say("the sweep's best trial went all the way: it is this training")
        return trained
    engines.wait_for_workers(inputs.train, work)
    return train.run(inputs, work)


def _trained_in_the_sweep(
    context: RunContext, index: int, inputs: train.Inputs, work: Work
) -> TrainingRecord | None:
    """The chosen trial's weights, where training again would only repeat it."""
    sweep_spec = context.spec.sweep
    if index or sweep_spec is None or not goes_all_the_way(sweep_spec, inputs.train):
        return None
    record = context.record("sweep", SweepRecord)
    trained = record.trials[record.chosen].training
    if trained is None or not work.store.is_intact(trained.artifact):
        return None
    return trained


def _sweep(context: RunContext, inputs: sweep.Inputs, work: Work) -> Record:
    engines.wait_for_workers(inputs.train, work, driver_cpus=1)
    return sweep.run(inputs, work, trial=train.part)


def _merge(context: RunContext, index: int, inputs: merge.Inputs, work: Work) -> Record:
    """After the last training run, the base model's engine can start meanwhile."""
    if index == len(context.spec.train_steps) - 1:
        engines.start_base_early(context, work)
    return merge.run(inputs, work)


def _gate(context: RunContext, inputs: gate.Inputs, work: Work) -> GateRecord:
    """Counts the attempt, then evaluates."""
    from assay.reporting.document import newest_selftest, summary
    from assay.store.ledger import Ledger  # a plan without a ledger has no need of its library

    ledger = Ledger(context.settings.ledger_url)
    # Before the first question: one that is broken off has seen some of the samples, too.
    attempt = begin_attempt(
        context.suite,
        context.tasks,
        artifact_digest=inputs.deployment.artifact_digest,
        engine=engine_fingerprint(context.spec.serve.engine, context.settings),
        run=run_id(context.spec, context.suite, context.root),
        ledger=ledger,
    )
    stopping = stopping_of(context.suite, inputs.base, inputs.champion)
    return gate.run(
        inputs,
        work,
        evaluate=partial(
            engines.ask, context, model=context.candidate, work=work, stopping=stopping
        ),
        attempt=attempt,
        selftest=summary(newest_selftest(gate.suite_digest(context.suite, context.tasks), ledger)),
    )


def stopping_of(
    suite: SuiteSpec, base: EvaluationRecord | None, champion: EvaluationRecord | None
) -> evaluate.Stopping | None:
    """When the candidate has answered enough; None where it is asked everything."""
    if not suite.stop_early:
        return None
    return evaluate.Stopping(
        suite,
        gate.read_evaluation(base) if base else None,
        gate.read_evaluation(champion) if champion else None,
        corrected_confidence(suite),
    )


def _is_answered(record: EvaluationRecord | GateRecord) -> bool:
    """Whether an evaluation got all its answers; one that did not is made again, and asks for those
    alone."""
    evaluation = record.candidate if isinstance(record, GateRecord) else record
    return evaluation.num_errors == 0


def _is_deployed(context: RunContext, record: DeploymentRecord) -> bool:
    """Whether the slot still holds this very deployment, or gave it back because the verdict on it
    was not PASS: that verdict stands, and asking for it again starts nothing."""
    settings = context.settings
    if _was_refused(context, record):
        return True
    api = ray_serve.ServeApi(
        settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python
    )
    try:
        state = ray_serve.state(api, record.slot)
    except Unreachable:  # no cluster runs here; a refused token is an error
        return False
    # By the time that is written into it, and a replica that is left: Serve may restart others.
    return (
        state is not None
        and state.answers
        and state.deployed_at == record.deployed_at
        and bool(set(state.replicas) & set(record.replicas))
        and state.model_path == context.candidate.artifact.path
    )


def _was_refused(context: RunContext, deployment: DeploymentRecord) -> bool:
    """Whether all that follows this deployment is on record, and the gate has not passed it."""
    from assay.store.ledger import Ledger  # a plan without a ledger has no need of its library

    ledger = Ledger(context.settings.ledger_url)
    then = replace(context, records={**context.records, "deploy": deployment})
    for stage in stages_after("deploy", then):
        inputs = stage.inputs()
        key = StoredInputs(stage.name, stage.version, inputs.as_data()).key
        row = None if inputs.pending else ledger.record(key)
        record = read_as(stage.output, row.record) if row else None
        if record is None or not stage.is_valid(record):
            return False
        then.records[stage.name] = record
    return then.record("gate", GateRecord).scorecard.outcome != "PASS"


def stages_after(name: str, context: RunContext) -> list[Stage[Any]]:
    """The stages that come after the one of this name."""
    stages = stages_of(context)
    names = [stage.name for stage in stages]
    return stages[names.index(name) + 1 :]
