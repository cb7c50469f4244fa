"""Running a spec: stage after stage, each of which is skipped when its record stands."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assay.engines import ray_cluster
from assay.errors import AssayError, PlaceError, StageFailed, UsageError
from assay.flow.attempts import MAKE_CANDIDATES, check_attempts_left
from assay.flow.standing import is_intact, read_record
from assay.flow.steps import Context, Step, run_id, steps
from assay.place import Place
from assay.records.gate import GateRecord
from assay.records.record import Record
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.stages.work import Work
from assay.store.ledger import Ledger


class Watcher(Protocol):
    """Who is told how a run goes."""

    def began(self, stage: str, progress_file: Path) -> None:
        """A stage is being run; its progress can be followed in the file."""

    def ended(self, stage: str, record: Record, *, seconds: float, cached: bool) -> None:
        """A stage has its record."""


@dataclass(frozen=True)
class RunOutcome:
    """A run that went as far as the gate."""

    run: str
    gate: GateRecord
    num_stages_run: int
    """0 when every record stood already."""


def run(
    spec: Spec, suite: SuiteSpec, *, root: Path, place: Place, watcher: Watcher, before_work: Callable[[], None]
) -> RunOutcome:
    """Takes the spec as far as the gate's verdict. What stands in the ledger with intact artifacts is not done
    again; `before_work` is called once, before the first stage that is. Raises `UsageError` before anything
    starts when the cluster cannot hold the run, or no other candidate may be weighed with the suite's items, and
    `StageFailed` when a stage stops; the finished ones are kept."""
    ledger = Ledger(place.ledger_url)
    name = run_id(spec, suite, root)
    with only_one(place.run_folder(name), name):
        ledger.open_run(name, name=spec.name, spec=spec.model_dump_json(), started_by=place.user)
        context = Context(spec, suite, root, place, ledger.champion())
        num_run = 0
        for step in _wanted(context):
            if _reuse(step, context, ledger, place, name, watcher):
                continue
            if step.name.partition("-")[0] in MAKE_CANDIDATES:
                check_attempts_left(suite, context.tasks, ledger)
            if not num_run:
                before_work()
                _prepare_cluster(spec, place)
            _execute(step, context, ledger, place, name, watcher)
            num_run += 1
    return RunOutcome(name, context.record("gate", GateRecord), num_run)


def _wanted(context: Context) -> list[Step]:
    return [step for step in steps(len(context.spec.train_steps)) if step.wanted(context)]


def _reuse(step: Step, context: Context, ledger: Ledger, place: Place, name: str, watcher: Watcher) -> bool:
    key = step.key(context)
    row = ledger.record(key)
    if row is None:
        return False
    record = read_record(step, row.record)
    if record is None or not is_intact(record, place) or not step.stands(context, record):
        return False
    ledger.reuse_stage(name, step.name, key)
    context.records[step.name] = record
    watcher.ended(step.name, record, seconds=row.seconds, cached=True)
    return True


def _execute(step: Step, context: Context, ledger: Ledger, place: Place, name: str, watcher: Watcher) -> None:
    key = step.key(context)
    folder = place.run_folder(name) / step.name
    folder.mkdir(parents=True, exist_ok=True)
    progress_file = folder / "progress.jsonl"
    progress_file.unlink(missing_ok=True)
    progress_file.touch()
    work = Work(place, folder, progress_file, context.root, on_gpu=ray_cluster.size().gpus > 0)
    attempt = ledger.begin_stage(name, step.name, key)
    watcher.began(step.name, progress_file)
    try:
        record = step.run(context, work)
    except BaseException as error:
        ledger.fail_stage(attempt, str(error) or type(error).__name__)
        if isinstance(error, PlaceError | OSError):
            raise StageFailed(f"{step.name}: {error}") from error
        if isinstance(error, AssayError):
            raise (
                type(error)(error.problems) if hasattr(error, "problems") else type(error)(f"{step.name}: {error}")
            ) from error
        raise
    ledger.finish_stage(attempt, record)
    context.records[step.name] = record
    row = ledger.record(key)
    watcher.ended(step.name, record, seconds=row.seconds if row else 0.0, cached=False)


def _prepare_cluster(spec: Spec, place: Place) -> None:
    """Connects, and refuses a run that the cluster could never hold."""
    ray_cluster.connect(place.cluster_address)
    size = ray_cluster.size()
    train = max(spec.train_steps, key=lambda one: one.num_workers * one.worker.cpus)
    cpus = train.num_workers * train.worker.cpus + (1 if spec.sweep else 0)
    gpus = max(one.num_workers * (one.worker.gpus or 0) for one in spec.train_steps)
    if cpus > size.cpus or gpus > size.gpus:
        raise UsageError(
            f"the spec asks for {train.num_workers} workers, together {cpus:g} CPUs and {gpus:g} GPUs; the cluster "
            f"has {size.cpus:g} CPUs and {size.gpus:g} GPUs on {size.nodes} nodes. Lower train.num_workers, or "
            "use a larger cluster"
        )


@contextmanager
def only_one(folder: Path, name: str) -> Iterator[None]:
    """Holds the run's lock; the kernel lets go of it when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise PlaceError(
            f"cannot write to {folder}: {error.strerror}. Set ASSAY_HOME to a folder you may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"run {name} is being run already; `assay status {name}` shows how far it is") from error
    try:
        yield
    finally:
        os.close(descriptor)
