"""What became of a row of the data: in which runs it stands, why, and what was made of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from assay.engines.data.cleaning.lookup import find_rows
from assay.errors import UsageError
from assay.flow.pipeline.context import numbered
from assay.records.artifact import Artifact
from assay.records.cleaning import CleaningRecord, RowModel, RowStory
from assay.records.record import read_as
from assay.records.stages import ModelRecord, TrainingRecord
from assay.reporting.data_card import data_card
from assay.spec.spec import Spec
from assay.store.ledger import Ledger
from assay.store.schema.rows import RunRow

# Of an id.
FEWEST_DIGITS = 6
FINISHED = ("done", "cached")
HOLD_WEIGHTS = ("train", "merge", "compress")


class RunCleaning(NamedTuple):
    """The cleaned data of one training run of a run."""

    run: RunRow
    number: int
    """Of the training run, from 0."""
    record: CleaningRecord


def cleanings(ledger: Ledger, run: str | None) -> Iterator[RunCleaning]:
    """The cleaned data of one run, or of all, the newest first."""
    for row in [ledger.find_run(run)] if run is not None else ledger.runs():
        keys = {stage.stage: stage.key for stage in ledger.stages(row.id)}
        index = 0
        while numbered("train", index) in keys or numbered("clean", index) in keys:
            found = ledger.record(keys.get(numbered("clean", index), ""))
            record = read_as(CleaningRecord, found.record) if found else None
            if record is not None:
                yield RunCleaning(row, index, record)
            index += 1


def stories(ledger: Ledger, wanted: str, run: str | None) -> list[RowStory]:
    """What became of the row in each run, the newest first. Raises `UsageError` when no run has
    it."""
    if ":" not in wanted and len(wanted) < FEWEST_DIGITS:
        raise UsageError(f"write at least {FEWEST_DIGITS} digits of the row's id, or FILE:LINE")
    found = []
    searched = 0
    for cleaning in cleanings(ledger, run):
        artifact = cleaning.record.artifact
        if not Path(artifact.path).is_dir():
            continue
        searched += 1
        for row in find_rows(Path(artifact.path), wanted):
            found.append(
                RowStory(
                    run=cleaning.run.id,
                    stage=numbered("clean", cleaning.number),
                    artifact=artifact.digest,
                    **row._asdict(),
                )
            )
    if not found:
        raise UsageError(
            f"no row is {wanted!r} in the {searched} data sets that `data.steps` made here; "
            "write a row's id, or FILE:LINE as the spec names the file"
        )
    return found


def models_of(ledger: Ledger, wanted: str) -> list[RowModel]:
    """Every artifact that was trained on the row, or made of one that was."""
    found = []
    stories_left = []
    for story in stories(ledger, wanted, None):
        if story.example is not None:
            stories_left.append(story)
    for run, first in {story.run: story.stage for story in reversed(stories_left)}.items():
        trained = False
        for stage in ledger.stages(run):
            trained |= stage.stage == first.replace("clean", "train", 1)
            if not trained or stage.stage.partition("-")[0] not in HOLD_WEIGHTS:
                continue
            row = ledger.record(stage.key) if stage.state in FINISHED else None
            if row is not None and (artifact := _artifact(row.record)):
                found.append(RowModel(run=run, stage=stage.stage, artifact=artifact.digest))
    return found


def _artifact(record: str) -> Artifact | None:
    """Of a record that holds weights."""
    training, model = read_as(TrainingRecord, record), read_as(ModelRecord, record)
    found = training or model
    return found.artifact if found else None


def cards(ledger: Ledger, run: str) -> Iterator[str]:
    """A card for the data of each training run of a run. Raises `UsageError` when it has no cleaned
    data."""
    found = list(cleanings(ledger, run))
    if not found:
        name = ledger.find_run(run).id
        raise UsageError(
            f"run {name} has no cleaned data: its spec has no data.steps, or they failed"
        )
    for cleaning in found:
        spec = read_as(Spec, cleaning.run.spec)
        if spec is None:
            raise UsageError(
                f"the spec of {cleaning.run.id} is of a form that is not read any more"
            )
        data = spec.train_steps[cleaning.number].data or spec.data
        yield data_card(spec.name, cleaning.run.id, data, cleaning.record)
