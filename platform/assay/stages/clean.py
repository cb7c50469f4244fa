"""`clean`: does `data.steps` to the training data, before they are split, and keeps a reason for
every row that is not as it was."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from assay import secrets_file
from assay.engines.cluster import tasks
from assay.engines.data import remote
from assay.engines.data.cleaning.augment.asked import Answer, Prompt
from assay.engines.data.cleaning.clean import Cleaning, clean
from assay.engines.data.cleaning.cleaned import counts_of, write_cleaned
from assay.engines.data.cleaning.masking.key import key_fingerprint, place_key
from assay.engines.evaluation.client import Endpoint, Request, content_of, request_all
from assay.errors import PlaceError, StageFailed
from assay.records.cleaning import CleaningRecord
from assay.records.inputs import StageInputs, only
from assay.records.record import digest_of
from assay.settings import Settings
from assay.spec.augment import AskSpec
from assay.spec.data import DataSpec, is_remote
from assay.spec.spec import FORMATS
from assay.spec.steps import step_names
from assay.spec.train import TrainSpec
from assay.stages.context import Work

VERSION = 2
ANSWERS = "augment-answers.jsonl"
"""What models answered to `augment`: it stays, so that other data or steps ask for what is new
alone."""
MAX_ANSWER_TOKENS = 1024


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
        ask=partial(_ask, work.folder / ANSWERS),
    )
    segments = clean(cleaning, FORMATS[inputs.train.objective.name])
    work.say("writing what is left")
    folder = work.fresh_folder("cleaned")
    write_cleaned(segments, data.train, folder)
    steps, before, after = counts_of(segments, step_names(data.steps), data.train)
    artifact = work.store.put(folder, "dataset")
    shutil.rmtree(scratch)
    return CleaningRecord(artifact=artifact, steps=steps, before=before, after=after)


def _ask(file: Path, spec: AskSpec, prompts: Sequence[Prompt]) -> list[Answer]:
    """Asks a model. Raises `PlaceError` where its key is not there, and `StageFailed` where it does
    not answer."""
    key = secrets_file.value(spec.api_key_env) if spec.api_key_env else "none"
    if not key:
        raise PlaceError(
            f"data.steps: augment needs an API key in {spec.api_key_env}, which neither the "
            "place's secrets nor the environment have"
        )
    endpoint = Endpoint(spec.url.rstrip("/"), spec.model, api_key=key)
    # The answers of one file are of one server and model.
    mark = digest_of([endpoint.url, endpoint.model_name])[:12]
    answers = file.with_stem(f"{file.stem}-{mark}")
    replies = request_all(endpoint, [_request(prompt) for prompt in prompts], answers=answers)
    found = []
    for reply in replies:
        if reply.error:
            raise StageFailed(
                f"data.steps: augment asked {spec.url}, and had no answer: {reply.error}. Run "
                "again: what was answered is kept"
            )
        usage = reply.body.get("usage") or {}
        found.append(Answer(content_of(reply), int(usage.get("total_tokens") or 0)))
    return found


def _request(prompt: Prompt) -> Request:
    body = {
        "messages": [{"role": "user", "content": prompt.text}],
        "temperature": 0.8,
        "seed": prompt.seed,
        "max_tokens": MAX_ANSWER_TOKENS,
    }
    return Request("chat/completions", body)


def _forget_others(scratch: Path) -> None:
    """What was left of other data or steps is of no use any more."""
    for folder in scratch.parent.glob("steps-*"):
        if folder != scratch:
            shutil.rmtree(folder)
