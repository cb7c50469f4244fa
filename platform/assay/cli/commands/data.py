"""Reading all of a spec's data once, before anything starts."""

from pathlib import Path

from assay.engines.data.readers import check_forms, stream_sources
from assay.errors import InvalidInput, Problem
from assay.spec.data import DataSpec, HeldOut, is_remote
from assay.spec.spec import FORMATS, Spec
from assay.spec.train import TrainSpec


def check_data(spec: Spec, root: Path) -> None:
    """Raises `InvalidInput` with every broken line of every file, and `UsageError` for data of a form that the
    objective does not learn from. Data that lie elsewhere are read when they are prepared."""
    problems: list[Problem] = []
    for train in spec.train_steps:
        problems += [one for one in _check(train.data or spec.data, train, root) if one not in problems]
    if problems:
        raise InvalidInput(problems)


def _check(data: DataSpec, train: TrainSpec, root: Path) -> list[Problem]:
    problems: list[Problem] = []
    held = [split.source for split in (data.selection, data.gate) if isinstance(split, HeldOut)]
    for named in (data.train, *held):
        source = [pattern for pattern in named if not is_remote(pattern)]
        try:
            if source:
                examples = (one for _, one in stream_sources(source, data.format, data.system, root))
                check_forms(examples, FORMATS[train.objective.name], ", ".join(source))
        except InvalidInput as error:
            problems += error.problems
    if train.ewc is not None:
        try:
            kept = (one for _, one in stream_sources(train.ewc.data, "auto", data.system, root))
            check_forms(kept, FORMATS["sft"], "train.ewc.data")
        except InvalidInput as error:
            problems += error.problems
    return problems
