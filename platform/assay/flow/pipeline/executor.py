"""Runs stages one after the other: each is skipped when its record stands, and leaves its record
otherwise."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from assay.engines.cluster import signals, tasks
from assay.errors import AssayError, PlaceError, StageFailed
from assay.flow.pipeline.artifacts import is_intact
from assay.flow.pipeline.graph import Stage
from assay.flow.pipeline.log import logger
from assay.flow.place.run_lock import is_worked_on
from assay.records.inputs import StoredInputs
from assay.records.record import Record, canonical_json, read_as
from assay.settings import Settings
from assay.stages.context import Work
from assay.store.ledger import Ledger
from assay.store.schema.rows import StageRow

R = TypeVar("R", bound=Record)


class Watcher(Protocol):
    """Who is told how the stages go."""

    def began(self, stage: str, progress_file: Path) -> None:
        """A stage is being run; its progress can be followed in the file."""

    def ended(self, stage: str, record: Record, *, seconds: float, cached: bool) -> None:
        """A stage has its record."""


def _nothing() -> None:
    """What most stages do before the cluster is there."""


@dataclass
class StageExecutor:
    """The stages of one run, or of one evaluation without a run."""

    name: str
    """The run's id."""
    settings: Settings
    root: Path
    """Folder that relative paths start from."""
    ledger: Ledger
    watcher: Watcher
    before_work: Callable[[], None]
    """Called once, before the first stage that needs the cluster and is not on record."""
    num_run: int = field(default=0, init=False)
    """Stages that were run, and not taken from the ledger."""
    _on_gpu: bool | None = field(default=None, init=False)

    def record(
        self,
        stage: Stage[R],
        *,
        first: Callable[[], None] = _nothing,
        needs_cluster: bool = True,
    ) -> R:
        """The record of a stage: the one under its inputs' key, when that is whole and what it
        tells of is still so; otherwise `first` is called, and the stage run. Raises `StageFailed`
        for what is missing in the middle of the work, and `KeyboardInterrupt`, with the record
        written, when somebody asked to stop as the stage came to its end."""
        inputs = stage.inputs()
        assert not inputs.pending, f"{stage.name} comes before {inputs.pending}"
        stored = StoredInputs(stage.name, stage.version, inputs.as_data())
        row = self.ledger.record(stored.key)
        record = read_as(stage.output, row.record) if row else None
        stands = record is not None and is_intact(record, self.settings) and stage.is_valid(record)
        if row is not None and record is not None and stands:
            logger.info("%s: cached, made by %s", stage.name, row.run)
            self.ledger.reuse_stage(self.name, stage.name, stored.key)
            self.watcher.ended(stage.name, record, seconds=row.seconds, cached=True)
            return record
        first()
        if needs_cluster:
            self._connect()
        return self._execute(stage.name, stored, partial(stage.run, inputs))

    def _connect(self) -> None:
        if self._on_gpu is None:
            self.before_work()
            tasks.connect(self.settings.cluster_address)
            self._on_gpu = tasks.size().gpus > 0

    def _execute(self, stage: str, inputs: StoredInputs, run: Callable[[Work], R]) -> R:
        folder = self.settings.run_folder(self.name) / stage
        folder.mkdir(parents=True, exist_ok=True)
        progress_file = folder / "progress.jsonl"
        progress_file.unlink(missing_ok=True)
        progress_file.touch()
        attempt = self.ledger.begin_stage(self.name, stage, inputs.key, canonical_json(inputs.data))
        logger.info("%s: begins, key %s", stage, inputs.key)
        self.watcher.began(stage, progress_file)
        try:
            record = run(
                Work(self.settings, folder, progress_file, self.root, on_gpu=bool(self._on_gpu))
            )
        # Ctrl-C, too: the ledger must not say for ever that the stage is running.
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            self.ledger.fail_stage(
                attempt, "interrupted" if interrupted else str(error) or type(error).__name__
            )
            logger.error("%s: stopped", stage, exc_info=not interrupted)
            if isinstance(error, PlaceError | OSError):
                raise StageFailed(f"{stage}: {error}") from error
            # An error with problems says for each of them where it is.
            if isinstance(error, AssayError) and not hasattr(error, "problems"):
                raise type(error)(f"{stage}: {error}") from error
            raise
        self.ledger.finish_stage(attempt, record)
        self.num_run += 1
        logger.info("%s: done", stage)
        row = self.ledger.record(inputs.key)
        self.watcher.ended(stage, record, seconds=row.seconds if row else 0.0, cached=False)
        signals.raise_if_requested()
        return record


def stages_now(run: str, ledger: Ledger, settings: Settings) -> list[StageRow]:
    """The stages of a run as they stand now: one that the ledger says is running, in a place where
    no process works on the run, was killed."""
    if is_worked_on(settings.run_folder(run)):
        return ledger.stages(run)
    rows = ledger.stages(run)
    now = []
    for row in rows:
        now.append(replace(row, state="killed") if row.state == "running" else row)
    return now
