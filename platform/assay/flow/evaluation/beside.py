"""Any model in the slot `reference`, for as long as somebody talks to it: the base, an adapter, a
run's candidate.

Nothing is promoted and nothing is written to the ledger: the slot never has traffic, and is freed
in the end.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from assay.engines.cluster import tasks
from assay.engines.deployment import ray_serve
from assay.engines.models import folders
from assay.errors import UsageError
from assay.flow.pipeline.artifacts import is_intact
from assay.flow.pipeline.engines import serve_for
from assay.flow.pipeline.keys import folder_fingerprint
from assay.flow.release.slots import reference_slot
from assay.records.record import read_as
from assay.records.stages import DeploymentRecord, ModelRecord, TrainingRecord
from assay.settings import Settings
from assay.spec.model import ModelSpec
from assay.spec.serve import ServeSpec
from assay.spec.spec import Spec
from assay.stages import deploy, fetch, merge
from assay.stages.context import Work
from assay.store.ledger import Ledger
from assay.store.schema.rows import RunRow

M = TypeVar("M", bound=BaseModel)

BASE = "base"
ADAPTER = "adapter_config.json"
CANDIDATES = ("compress", "merge")
"""Stages that make what could serve, the one that serves first."""


@dataclass(frozen=True)
class Named:
    """What somebody wants to talk to: a model, or how it is made, and what its spec says of it."""

    title: str
    make: Callable[[Work], ModelRecord]
    serve: ServeSpec = field(default_factory=ServeSpec)
    system: str | None = None
    deployment: DeploymentRecord | None = None
    """Where it may answer already."""


def find(named: str, ledger: Ledger, root: Path, settings: Settings) -> Named:
    """What `base`, the id of a run (or its start), an adapter's folder, or a model's source stands
    for. Raises `UsageError` where it stands for nothing that could answer."""
    if named == BASE:
        return _base(_leading_run(ledger), ledger, root, settings)
    folder = root / Path(named).expanduser()
    if (folder / ADAPTER).is_file():
        return _adapter(named, folder, root)
    if folder.is_dir() or named.startswith(("hf:", "package:")):
        source = ModelSpec(source=named)
        return Named(named, partial(_fetched, source, root))
    return _candidate(ledger.find_run(named), ledger, root, settings)


@contextmanager
def answering(
    named: Named,
    *,
    root: Path,
    settings: Settings,
    before_work: Callable[[], None],
    say: Callable[[str], None],
) -> Iterator[Callable[[], DeploymentRecord]]:
    """Has the model answer, and says where each time that it is asked. Raises `UsageError` when an
    evaluation has taken the slot meanwhile."""
    before_work()
    tasks.connect(settings.cluster_address)
    mark = hashlib.sha256(named.title.encode()).hexdigest()[:10]
    folder = settings.home / "chat" / mark
    work = Work(settings, folder, folder / "progress.jsonl", root, on_gpu=tasks.size().gpus > 0)
    api = deploy.serve_api(settings)
    try:
        if named.deployment is not None and ray_serve.holds(api, named.deployment):
            yield _watched(api, named.deployment)
            return
        say(f"starting an engine for {named.title}")
        model = named.make(work)
        slot, serve = reference_slot(settings), serve_for(named.serve, model)
        there = deploy.into(slot, serve, model_name="beside", model=model, work=work)
        try:
            yield _watched(api, there)
        finally:
            # An evaluation may have taken the slot, which is then not ours to free.
            if ray_serve.holds(api, there):
                with reference_slot(settings) as name:
                    ray_serve.remove(api, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watched(api: ray_serve.ServeApi, there: DeploymentRecord) -> Callable[[], DeploymentRecord]:
    def where() -> DeploymentRecord:
        if not ray_serve.holds(api, there):
            raise UsageError(
                f"slot {there.slot} was given to another model meanwhile; start the conversation "
                "anew"
            )
        return there

    return where


def _leading_run(ledger: Ledger) -> RunRow:
    """The champion's run; before the first release the newest with a spec."""
    champion = ledger.champion()
    if champion is not None:
        return ledger.find_run(champion.run)
    # Evaluations without a run are in the ledger, too, and have no spec.
    run = next((run for run in ledger.runs() if read_as(Spec, run.spec)), None)
    if run is None:
        raise UsageError(
            "there is no run whose base model it could be; name the model itself, such as "
            "hf:ORG/NAME"
        )
    return run


def _base(run: RunRow, ledger: Ledger, root: Path, settings: Settings) -> Named:
    spec = Spec.model_validate_json(run.spec)
    fetched = _record(run, ledger, settings, ("fetch",))
    if fetched is not None:
        make = partial(_given, fetched)
    else:
        make = partial(_fetched, spec.model, root)
    return Named(
        f"base ({spec.model.source})", make, ServeSpec(engine=spec.serve.engine), spec.data.system
    )


def _candidate(run: RunRow, ledger: Ledger, root: Path, settings: Settings) -> Named:
    """What the run made, as far as it has come: compressed, merged, or an adapter that is still to
    be merged."""
    spec = read_as(Spec, run.spec)
    if spec is None:
        raise UsageError(f"{run.id} is no run of a spec, so that it has no candidate")
    serve = ServeSpec(engine=spec.serve.engine)
    model = _record(run, ledger, settings, CANDIDATES)
    if model is not None:
        there = _newest(run, ledger, "deploy", DeploymentRecord)
        # What was deployed may be older than the newest model.
        if there is not None and there.artifact_digest != model.artifact.digest:
            there = None
        return Named(run.id, partial(_given, model), serve, spec.data.system, there)
    base = _record(run, ledger, settings, ("fetch",))
    training = _training(run, ledger, settings)
    if base is None or training is None or not spec.train_steps[-1].objective.generates:
        raise UsageError(
            f"{run.id} has made nothing yet that could answer; `assay status {run.id}` says how "
            "far it is"
        )
    inputs = merge.Inputs(base=base, training=training)
    return Named(f"{run.id} (its adapter)", partial(merge.run, inputs), serve, spec.data.system)


def _adapter(named: str, folder: Path, root: Path) -> Named:
    """An adapter's folder names its base model."""
    said = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(said, str) or not said:
        raise UsageError(
            f"{folder / ADAPTER} does not say which model it belongs to (base_model_name_or_path)"
        )
    source = ModelSpec(source=said if (root / said).is_dir() else f"hf:{said}")

    def make(work: Work) -> ModelRecord:
        base = _fetched(source, root, work)
        target = work.fresh_folder("merged")
        facts = tasks.call(folders.merge, Path(base.artifact.path), folder, target)
        return ModelRecord(artifact=work.store.put(target, "model"), **facts.model_dump())

    return Named(f"{named} on {said}", make)


def _record(
    run: RunRow, ledger: Ledger, settings: Settings, stages: tuple[str, ...]
) -> ModelRecord | None:
    """The model of the first of these stages that has an intact one; of a stage that ran several
    times the last."""
    for wanted in stages:
        for stage in reversed(ledger.stages(run.id)):
            if stage.stage.partition("-")[0] != wanted:
                continue
            row = ledger.record(stage.key)
            model = read_as(ModelRecord, row.record) if row else None
            if model is not None and is_intact(model, settings):
                return model
    return None


def _training(run: RunRow, ledger: Ledger, settings: Settings) -> TrainingRecord | None:
    """The run's own training: of a chain the first stands on the base, and a later one on what the
    others made."""
    found = _newest(run, ledger, "train", TrainingRecord)
    if found is not None and is_intact(found, settings):
        return found
    return None


def _newest(run: RunRow, ledger: Ledger, stage: str, kind: type[M]) -> M | None:
    """The record of the last time that a stage of the run ran."""
    keys = [row.key for row in ledger.stages(run.id) if row.stage == stage]
    row = ledger.record(keys[-1]) if keys else None
    if row is None:
        return None
    return read_as(kind, row.record)


def _given(model: ModelRecord, _: Work) -> ModelRecord:
    return model


def _fetched(source: ModelSpec, root: Path, work: Work) -> ModelRecord:
    return fetch.run(fetch.Inputs(model=source, files=folder_fingerprint(source, root)), work)
