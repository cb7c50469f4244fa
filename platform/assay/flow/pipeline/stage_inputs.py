"""What each stage of a run depends on, as the records of the stages before stand now."""

from pathlib import Path
from typing import cast

from assay.flow.pipeline.context import RunContext, numbered
from assay.flow.pipeline.judging import measured_judge
from assay.flow.pipeline.keys import (
    data_digests,
    ewc_digests,
    folder_fingerprint,
    template_digest,
)
from assay.records.evaluations.judge import JudgeAgreement
from assay.records.gate import EvaluationRecord, ParityRecord, ServiceRecord
from assay.records.inputs import Pending
from assay.records.stages import ModelRecord
from assay.spec.model import ModelSpec
from assay.stages import (
    baseline,
    clean,
    compress,
    fetch,
    gate,
    prepare,
    sweep,
)
from assay.stages.evidence import parity


def fetch_inputs(model: ModelSpec, context: RunContext) -> fetch.Inputs:
    """Of a model, with what stands for the files of a local one."""
    return fetch.Inputs(
        model=model,
        files=folder_fingerprint(model, context.root),
        chat_template=template_digest(model, context.root),
    )


def clean_inputs(context: RunContext, index: int) -> clean.Inputs:
    """Of the steps of `data.steps`."""
    data = context.data_spec(index)
    files = data_digests(data, context.root)
    return clean.inputs_of(data, files, context.spec.train_steps[index], context.settings)


def prepare_inputs(context: RunContext, index: int) -> prepare.Inputs:
    """Of the splits of training run `index`; a later one leaves out what the first has sealed."""
    data, spec = context.data_spec(index), context.spec.train_steps[index]
    return prepare.Inputs(
        model=context.model,
        data=data,
        files=data_digests(data, context.root),
        train=spec,
        ewc_files=ewc_digests(spec, context.root),
        sealed=context.data if index else None,
        cleaned=context.record(numbered("clean", index), clean.Output) if data.steps else None,
    )


def sweep_inputs(context: RunContext) -> sweep.Inputs:
    """Of the search, which is over the first training run."""
    assert context.spec.sweep is not None
    return sweep.Inputs(
        model=context.model,
        data=context.data,
        sweep=context.spec.sweep,
        train=context.spec.train_steps[0],
        teacher=context.teacher(0),
    )


def compress_inputs(context: RunContext) -> compress.Inputs:
    """Of the model that serves; the data count where a step of the recipe looks at them."""
    spec = context.spec.compress
    return compress.Inputs(
        merged=context.merged,
        compress=spec,
        calibration=context.last_data if spec.is_calibrated else None,
    )


def reference_inputs(context: RunContext, digest: str) -> baseline.Inputs:
    """Of the answers of the base model or the champion, which has this digest."""
    serve = context.spec.serve
    return baseline.Inputs(
        artifact_digest=digest, engine=serve.engine, replicas=serve.replicas, tasks=context.tasks
    )


def parity_inputs(context: RunContext) -> parity.Inputs:
    """Of the comparison of the trained, the merged, the compressed and the served model."""
    assert context.suite.parity is not None
    return parity.Inputs(
        data=context.data,
        base=context.start(len(context.spec.train_steps) - 1),
        training=context.training,
        merged=context.merged,
        compressed=context.candidate,
        deployment=context.deployment,
        parity=context.suite.parity,
    )


def gate_inputs(context: RunContext) -> gate.Inputs:
    """Of the verdict: everything that it rests on."""
    suite = context.suite
    if context.wants_base:
        base = context.record("baseline", EvaluationRecord)
    else:
        base = None
    champion = None
    if context.wants_champion and context.champion:
        champion = context.record("champion", EvaluationRecord)
    elif context.wants_champion:
        champion = base  # before the first release the base model stands in
    return gate.Inputs(
        deployment=context.deployment,
        suite=suite,
        tasks=context.tasks,
        base=base,
        champion=champion,
        contamination=context.contamination,
        parity=context.record("parity", ParityRecord) if suite.parity else None,
        service=context.record("service", ServiceRecord) if suite.service else None,
        judge=_judge(context) if suite.judged_tasks else None,
        suite_file=", ".join(context.spec.gate.suite),
    )


def _judge(context: RunContext) -> JudgeAgreement | None:
    """How far the suite's judge agrees with people, where that was measured."""
    from assay.store.ledger import Ledger

    url = context.settings.ledger_url
    file = url.removeprefix("sqlite:///")
    if file != url and not Path(file).is_file():
        return None  # a plan creates no ledger
    return measured_judge(context.suite, context.root, Ledger(url))


def digest_of_model(model: ModelRecord) -> str:
    """A model's digest; before it is there, what it waits for."""
    if isinstance(model, Pending):
        return cast(str, model)
    return model.artifact.digest
