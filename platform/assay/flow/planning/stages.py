"""Which stages a run would reuse, which it would run and because of what, and which could not be run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.flow.pipeline.artifacts import is_intact
from assay.flow.pipeline.graph import Context, Step, numbered
from assay.loader.diff import Change, differences
from assay.loader.globs import matching_files
from assay.records.plan import StagePlan
from assay.records.record import digest_of, read_as
from assay.spec.spec import Spec
from assay.spec.train import WITHOUT_EFFECT

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

MOST_SHOWN = 6
"""Changes of one stage that are listed."""


@dataclass(frozen=True)
class Reads:
    """What a stage reads, as people call it."""

    after: tuple[str, ...]
    """Stages whose records it reads."""
    paths: tuple[str, ...]
    """Keys of the spec, with all that is under them."""
    otherwise: str
    """What else can have changed, when the spec has not."""
    apart_from: tuple[str, ...] = ()
    """Keys under `paths` that it does not read."""


_WITHOUT_EFFECT = tuple(f"train.{name}" for name in sorted(WITHOUT_EFFECT))

READS: dict[str, Reads] = {
    "fetch": Reads((), ("model",), "the files of the model's folder have changed"),
    "prepare": Reads(
        ("fetch",),
        ("data", "train.data", "train.max_length", "train.objective", "train.ewc"),
        "the data's files have changed",
    ),
    "contamination": Reads(("prepare",), ("gate.suite",), "the suite's tasks or their data have changed"),
    "teacher": Reads((), ("train.objective",), "the files of the teacher's folder have changed"),
    "sweep": Reads(
        ("fetch", "prepare", "teacher"),
        ("sweep", "train"),
        "the model or the prepared data have changed",
        ("sweep.max_concurrent_trials", "train.learning_rate", *_WITHOUT_EFFECT),
    ),
    "train": Reads(
        ("fetch", "prepare", "sweep", "teacher"),
        ("train",),
        "the model, the prepared data or the sweep's choice changed",
        _WITHOUT_EFFECT,
    ),
    "merge": Reads(("fetch", "train"), (), "the training came to other weights"),
    "compress": Reads(("merge",), ("compress",), "the merged model has changed"),
    "baseline": Reads(
        ("fetch", "prepare"), ("serve.engine", "serve.replicas"), "the suite's tasks or their data have changed"
    ),
    "champion": Reads(
        ("prepare",),
        ("serve.engine", "serve.replicas"),
        "the champion, the suite's tasks or their data have changed",
    ),
    "deploy": Reads(
        ("compress",), ("name", "serve.model_name", "serve.engine", "serve.replicas"), "the model has changed"
    ),
    "service": Reads(("deploy",), ("gate.suite",), "the deployment or the suite's load have changed"),
    "parity": Reads(("prepare", "train", "deploy"), ("gate.suite",), "the model or the suite's probes have changed"),
    "gate": Reads(
        ("deploy", "baseline", "champion", "contamination", "parity", "service"),
        ("gate.suite",),
        "the deployment, the suite, its tasks or their data have changed",
    ),
}
"""What `steps()` has as functions, in words; a test holds the two together."""


_PER_RUN = ("prepare", "contamination", "teacher", "train", "merge")
"""Stages that every training run has."""


def stage_plans(
    steps: Sequence[Step], context: Context, ledger: "Ledger | None", blocks: dict[str, str]
) -> list[StagePlan]:
    """The stages in their order. `context.records` is filled with those that stand; `blocks` says of a stage what
    keeps it from being run, as far as that is known."""
    history = _History(ledger, context)
    plans: dict[str, StagePlan] = {}
    stopped_by = ""
    for step in steps:
        plan = _stage(step, context, history, plans)
        if plan.action == "run" and (stopped_by or step.name in blocks):
            reason = blocks.get(step.name) or f"comes after {stopped_by}"
            plan = StagePlan(stage=step.name, action="blocked", because=(reason,))
            stopped_by = stopped_by or step.name
        plans[step.name] = plan
    return list(plans.values())


def _stage(step: Step, context: Context, history: "_History", before: dict[str, StagePlan]) -> StagePlan:
    reads = _reads(step.name)
    anew = [name for name, plan in before.items() if _is_read(name, step.name, reads) and plan.action != "cached"]
    previous = history.latest(step.name)
    if anew:
        because = [f"follows {', '.join(anew)}"]
        if previous is not None and previous.spec is not None:
            because += _shown(_changes(reads, previous.spec, context.spec))
        return StagePlan(stage=step.name, action="run", because=tuple(because))
    key = step.key(context)
    row = history.record(key)
    record = read_as(step.record, row.record) if row else None
    if row is None or record is None:
        return StagePlan(stage=step.name, action="run", because=tuple(_reasons(step, reads, key, context, previous)))
    if not is_intact(record, context.settings):
        gone = f"the artifact that {row.run} made is missing, or not as it was put"
        return StagePlan(stage=step.name, action="run", because=(gone,))
    if not step.stands(context, record):
        return StagePlan(stage=step.name, action="run", because=(f"its slot does not hold what {row.run} put there",))
    context.records[step.name] = record
    return StagePlan(stage=step.name, action="cached", made_by=row.run, seconds=row.seconds)


def _reads(stage: str) -> Reads:
    """What a stage reads. Those of a second training run (`train-2`) read their own run's, and what the runs before
    it made; those after the last run read what all of them made."""
    kind, _, number = stage.partition("-")
    own = READS.get(kind) or Reads(tuple(READS), ("",), "something that it reads has changed")
    if not number:
        return own
    after = [f"{name}-{number}" if name in _PER_RUN else name for name in own.after]
    if kind == "prepare":
        after.append("prepare")  # the sealed split
    if kind in ("train", "merge"):
        after += [numbered("merge", index) for index in range(int(number) - 1)]
    return replace(own, after=tuple(after), paths=(*own.paths, "train"))


def _is_read(name: str, stage: str, reads: Reads) -> bool:
    """Whether the stage `name` is one that `stage` reads."""
    kind = name.partition("-")[0]
    is_after_all = stage.partition("-")[0] not in _PER_RUN
    return name in reads.after or (is_after_all and kind in ("contamination", "train", "merge") and kind in reads.after)


def _reasons(step: Step, reads: Reads, key: str, context: Context, previous: "_Previous | None") -> list[str]:
    """What has changed since the latest run of this name that has such a record."""
    if previous is None:
        return ["nothing like it was made yet"]
    if previous.key == key:
        return [f"the record of {previous.run} is of another form, or gone"]
    for version in range(1, step.version):
        if digest_of([step.name, version, step.reads(context)]) == previous.key:
            return [f"its code has changed (version {version} -> {step.version})"]
    if previous.spec is None:
        return [f"the spec of {previous.run} is of another form"]
    changes = _changes(reads, previous.spec, context.spec)
    reasons = _shown(changes)
    if not changes or _key_with(step, context, previous.spec) != previous.key:
        reasons.append(_written_since(reads, context, previous) or reads.otherwise)
    return reasons


def _changes(reads: Reads, old: Spec, new: Spec) -> list[Change]:
    return [
        change
        for change in differences(old, new)
        if any(_under(change.path, path) or _under(path, change.path) for path in reads.paths)
        and not any(_under(change.path, path) for path in reads.apart_from)
        and not (new.sweep is not None and change.path in ("train.learning_rate", *_swept(new)))
    ]


def _swept(spec: Spec) -> list[str]:
    """Fields of `train` in whose place the sweep's choice stands."""
    return [f"train.{name}" for name in spec.sweep.parameters] if spec.sweep else []


def _under(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _shown(changes: Sequence[Change]) -> list[str]:
    said = [f"{change.path}: {as_yaml(change.old)} -> {as_yaml(change.new)}" for change in changes[:MOST_SHOWN]]
    return [*said, f"and {len(changes) - MOST_SHOWN} more"] if len(changes) > MOST_SHOWN else said


def as_yaml(value: Any) -> str:
    """A value as one would write it, on one line and shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "nothing"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {as_yaml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    elif isinstance(value, list):
        text = f"[{', '.join(as_yaml(inner) for inner in value)}]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _key_with(step: Step, context: Context, old: Spec) -> str:
    """The key that the stage would have under the old spec: the old run's, if nothing but the spec has changed."""
    try:
        return step.key(replace(context, spec=old))
    except Exception:  # what the old spec names may be gone
        return ""


def _written_since(reads: Reads, context: Context, previous: "_Previous") -> str:
    """The data files that were written after the record was."""
    if "data" not in reads.paths:
        return ""
    files: dict[Path, None] = {}
    for pattern in (pattern for data in context.spec.all_data for pattern in data.patterns):
        files.update(dict.fromkeys(matching_files(pattern, context.root)))
    newer = [file.name for file in files if file.stat().st_mtime > previous.at]
    return f"written since {previous.run}: {', '.join(newer)}" if newer else ""


@dataclass(frozen=True)
class _Previous:
    """The latest run of this spec's name that has a record of a stage."""

    run: str
    key: str
    at: float
    spec: Spec | None
    """None when it was written in another form."""


class _History:
    """What the ledger tells of earlier runs of the same name; nothing where there is no ledger."""

    def __init__(self, ledger: "Ledger | None", context: Context) -> None:
        self._ledger = ledger
        self._runs = [run for run in ledger.runs() if run.name == context.spec.name] if ledger else []
        self._stages = {run.id: ledger.stages(run.id) for run in self._runs} if ledger else {}

    def record(self, key: str) -> Any:
        return self._ledger.record(key) if self._ledger else None

    def latest(self, stage: str) -> _Previous | None:
        for run in self._runs:
            for row in self._stages[run.id]:
                if row.stage == stage and row.state in ("done", "cached"):
                    return _Previous(run.id, row.key, row.ended_at or row.started_at, read_as(Spec, run.spec))
        return None
