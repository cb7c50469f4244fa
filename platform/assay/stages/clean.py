"""`clean`: does `data.steps` to the training data, before they are split, and keeps a reason for
every row that is not as it was."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.data import remote
from assay.engines.data.cleaning.clean import Cleaning, clean
from assay.engines.data.cleaning.cleaned import counts_of, write_cleaned
from assay.engines.data.cleaning.masking.key import key_fingerprint, place_key
from assay.records.cleaning import CleaningRecord
from assay.records.inputs import StageInputs, only
from assay.records.record import digest_of
from assay.settings import Settings
from assay.spec.data import DataSpec, is_remote
from assay.spec.spec import FORMATS
from assay.spec.steps import step_names
from assay.spec.train import TrainSpec
from assay.stages.context import Work

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the cleaned data depend on."""

    data: DataSpec = only("train", "format", "steps", "selection.source", "gate.source")
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each data file, or what stands for it elsewhere, by path."""
    train: TrainSpec = only("objective")
    key: str
    """Fingerprint of the place's key, with which rows are named and names are replaced."""


Output = CleaningRecord


def inputs_of(
    data: DataSpec, files: Mapping[str, str], train: TrainSpec, settings: Settings
) -> Inputs:
    """The inputs in this place."""
    return Inputs(data=data, files=files, train=train, key=key_fingerprint(settings.home))


def run(inputs: Inputs, work: Work) -> CleaningRecord:
    """Writes the cleaned data. Raises `InvalidInput` for broken lines, and `UsageError` when
    nothing is left, or the data are not of the form that the objective learns from."""
    data = inputs.data
    work.say("reading the data")
    if any(map(is_remote, data.patterns)):
        work.say("fetching the data")
    scratch = work.folder / f"steps-{digest_of(inputs.as_data())[:16]}"
    _forget_others(scratch)
    cleaning = Cleaning(
        data=data,
        root=work.root,
        fetched=remote.fetch_all(data.patterns, work.folder),
        folder=scratch,
        key=place_key(work.settings.home),
        each=tasks.map_in_order,
        say=work.say,
    )
    segments = clean(cleaning, FORMATS[inputs.train.objective.name])
    work.say("writing what is left")
    folder = work.fresh_folder("cleaned")
    write_cleaned(segments, data.train, folder)
    steps, before, after = counts_of(segments, step_names(data.steps), data.train)
    artifact = work.store.put(folder, "dataset")
    shutil.rmtree(scratch)
    return CleaningRecord(artifact=artifact, steps=steps, before=before, after=after)


def _forget_others(scratch: Path) -> None:
    """What was left of other data or steps is of no use any more."""
    for folder in scratch.parent.glob("steps-*"):
        if folder != scratch:
            shutil.rmtree(folder)
