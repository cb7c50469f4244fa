"""`assay data show`: a spec's data as the model will see them, without a cluster and without the
model's weights."""

import shutil
import tempfile
from itertools import islice, starmap
from pathlib import Path
from typing import NamedTuple

from assay.engines.data import preview
from assay.engines.data import remote as remote_data
from assay.engines.data.chats import folder as chat_folder
from assay.engines.data.cleaning.clean import Cleaning, clean
from assay.engines.data.cleaning.cleaned import (
    counts_of,
    families_of,
    files_of,
    read_reasons,
    write_cleaned,
)
from assay.engines.data.cleaning.masking.key import place_key
from assay.engines.data.families import Families
from assay.engines.data.splits import Fetched, Splits, SplitSource
from assay.engines.models import folders
from assay.errors import UsageError
from assay.flow.pipeline.keys import folder_fingerprint
from assay.records.cleaning import Reason
from assay.records.preview import Preview, StepEffect
from assay.records.record import digest_of
from assay.settings import Settings
from assay.spec.data import DataSpec
from assay.spec.model import ModelSpec
from assay.spec.spec import FORMATS, Spec
from assay.spec.steps import step_names
from assay.spec.train import TrainSpec

# Of each step.
REASONS_SHOWN = 3
CLEANED = "cleaned"
"""Folder of what the steps leave."""


def data_preview(spec: Spec, *, step: int, num: int, root: Path, settings: Settings) -> Preview:
    """The data of training step `step`, counted from 1. Raises `UsageError` when there is no such
    step, `InvalidInput` for broken lines, and `PlaceError` when what lies elsewhere cannot be
    had."""
    if not 1 <= step <= len(spec.train_steps):
        raise UsageError(f"--step {step}: the spec has {len(spec.train_steps)}")
    train = spec.train_steps[step - 1]
    data = train.data or spec.data
    tokenizer = _tokenizer(spec.model, root, settings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fetched = remote_data.fetch_all(data.patterns, folder)
        cleaned: Fetched | None = None
        steps: tuple[StepEffect, ...] = ()
        if data.steps:
            cleaned, steps = _cleaned(data, train, Places(root, folder, fetched, settings))
        families = families_of(folder / CLEANED) if data.steps else Families()
        source = SplitSource(data, root, fetched, cleaned, families)
        splits = Splits(source, train.objective, frozenset())
        found = preview.preview(tokenizer, splits, train, num)
        return Preview.model_validate({**found.model_dump(), "steps": steps})


class Places(NamedTuple):
    """Where data are read and written for a look."""

    root: Path
    scratch: Path
    fetched: Fetched
    settings: Settings


def _cleaned(
    data: DataSpec, train: TrainSpec, places: Places
) -> tuple[Fetched, tuple[StepEffect, ...]]:
    """What `data.steps` leave of the training data, in this process, and what each does."""
    cleaning = Cleaning(
        data=data,
        root=places.root,
        fetched=places.fetched,
        folder=places.scratch / "steps",
        key=place_key(places.settings.home),
        each=starmap,
        say=lambda _: None,
    )
    segments = clean(cleaning, FORMATS[train.objective.name])
    folder = places.scratch / CLEANED
    write_cleaned(segments, data.train, folder)
    counts, _, _ = counts_of(segments, step_names(data.steps), data.train)
    effects = tuple(StepEffect(counts=step, reasons=_first(folder, step.name)) for step in counts)
    return files_of(folder, data.train), effects


def _first(folder: Path, step: str) -> tuple[Reason, ...]:
    of_step = (reason for reason in read_reasons(folder) if reason.step == step)
    return tuple(islice(of_step, REASONS_SHOWN))


def _tokenizer(model: ModelSpec, root: Path, settings: Settings) -> Path:
    """The model's tokenizer with the chat template that will serve; it is kept for the next
    look."""
    template = model.chat_template
    named = template
    if template and (root / template).is_file():
        named = (root / template).read_text()
    mark = digest_of([model.model_dump(mode="json"), folder_fingerprint(model, root), named])[:16]
    folder = settings.home / "tokenizers" / mark
    if folder.is_dir():
        return folder
    draft = folder.with_name(f"{mark}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    folders.fetch_tokenizer(model, draft, root)
    chat_folder.write(model, draft, root)
    draft.rename(folder)
    return folder
