"""Which stages a run would reuse, which it would run and because of what, and which could not be
run."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from assay.flow.pipeline.artifacts import is_intact
from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.graph import Stage, stages_of
from assay.loader.diff import Change, changes
from assay.records.inputs import StoredInputs
from assay.records.plan import StagePlan
from assay.records.record import read_as

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

# Changes of one stage that are listed.
MOST_SHOWN = 6
DIGEST = re.compile(r"[0-9a-f]{64}")
# Digits of a digest that people are shown.
SHORT = 12


def stage_plans(
    context: RunContext, ledger: "Ledger | None", blocks: Mapping[str, str]
) -> list[StagePlan]:
    """The stages in their order. `context.records` is filled with those that stand; `blocks` says
    of a stage what keeps it from being run, as far as that is known."""
    history = _History(ledger, context)
    plans: list[StagePlan] = []
    stopped_by = ""
    for stage in stages_of(context):
        plan = _plan(stage, context, history)
        if plan.action == "run" and (stopped_by or stage.name in blocks):
            reason = blocks.get(stage.name) or f"comes after {stopped_by}"
            plan = StagePlan(stage=stage.name, action="blocked", because=(reason,))
            stopped_by = stopped_by or stage.name
        plans.append(plan)
    return plans


def _plan(stage: Stage[Any], context: RunContext, history: "_History") -> StagePlan:
    inputs = stage.inputs()
    stored = StoredInputs(stage.name, stage.version, inputs.as_data())
    if inputs.pending:
        follows = f"follows {', '.join(inputs.pending)}"
        because = [follows, *_shown(history.changes(stored))]
        return StagePlan(stage=stage.name, action="run", because=tuple(because))
    row = history.record(stored.key)
    record = read_as(stage.output, row.record) if row else None
    if row is None or record is None:
        reasons = tuple(_reasons(stored, history))
        return StagePlan(stage=stage.name, action="run", because=reasons)
    if not is_intact(record, context.settings, fetches=False):
        gone = f"the artifact that {row.run} made is missing, or not as it was put"
        return StagePlan(stage=stage.name, action="run", because=(gone,))
    if not stage.is_valid(record):
        moved = f"its slot does not hold what {row.run} put there"
        return StagePlan(stage=stage.name, action="run", because=(moved,))
    context.records[stage.name] = record
    return StagePlan(stage=stage.name, action="cached", made_by=row.run, seconds=row.seconds)


def _reasons(stored: StoredInputs, history: "_History") -> list[str]:
    """What has changed since the latest run of this name that has such a record."""
    previous = history.latest(stored.stage)
    if previous is None:
        return ["nothing like it was made yet"]
    if previous.key == stored.key:
        return [f"the record of {previous.run} is of another form, or gone"]
    if previous.inputs is None:
        return [f"{previous.run} was made by an older version, which did not keep what it rests on"]
    reasons = _shown(history.changes(stored))
    if previous.inputs.version != stored.version:
        versions = f"version {previous.inputs.version} -> {stored.version}"
        reasons.insert(0, f"its code has changed ({versions})")
    return reasons


def _shown(found: Sequence[Change]) -> list[str]:
    lines = []
    for change in found[:MOST_SHOWN]:
        lines.append(f"{change.path}: {as_yaml(change.old)} -> {as_yaml(change.new)}")
    left = len(found) - MOST_SHOWN
    if left > 0:
        return [*lines, f"and {left} more"]
    return lines


def as_yaml(value: Any) -> str:
    """A value as one would write it, on one line and shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "nothing"
    elif isinstance(value, dict):
        entries = []
        for key, inner in value.items():
            if inner is not None:
                entries.append(f"{key}: {as_yaml(inner)}")
        text = f"{{{', '.join(entries)}}}"
    elif isinstance(value, list):
        text = f"[{', '.join(as_yaml(inner) for inner in value)}]"
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = DIGEST.sub(lambda digest: digest[0][:SHORT], str(value))
    if len(text) <= 60:
        return text
    return f"{text[:57]}..."


@dataclass(frozen=True)
class _Previous:
    """The latest run of this spec's name that has a record of a stage."""

    run: str
    key: str
    inputs: StoredInputs | None
    """None when an older version made it."""


class _History:
    """What the ledger tells of earlier runs of the same name; nothing where there is no ledger."""

    def __init__(self, ledger: "Ledger | None", context: RunContext) -> None:
        self._ledger = ledger
        name = context.spec.name
        if ledger:
            self._runs = [run.id for run in ledger.runs() if run.name == name]
        else:
            self._runs = []
        if ledger:
            self._stages = {run: ledger.stages(run) for run in self._runs}
        else:
            self._stages = {}

    def record(self, key: str) -> Any:
        if self._ledger:
            return self._ledger.record(key)
        return None

    def latest(self, stage: str) -> _Previous | None:
        assert self._ledger is not None or not self._runs
        for run in self._runs:
            for row in self._stages[run]:
                if row.stage == stage and row.state in ("done", "cached"):
                    return _Previous(run, row.key, self._inputs(row.key))
        return None

    def changes(self, stored: StoredInputs) -> list[Change]:
        """What the stage rests on now and the latest run's did not; what is still to be made is
        left out."""
        previous = self.latest(stored.stage)
        if previous is None or previous.inputs is None:
            return []
        known = {}
        for name, value in stored.inputs.items():
            if not _is_pending(value):
                known[name] = value
        before = {name: previous.inputs.inputs.get(name) for name in known}
        return list(changes("", before, known))

    def _inputs(self, key: str) -> StoredInputs | None:
        text = self._ledger.inputs(key) if self._ledger else None
        if text:
            return StoredInputs(**json.loads(text))
        return None


def _is_pending(value: JsonValue) -> bool:
    if isinstance(value, list):
        return any(_is_pending(inner) for inner in value)
    return isinstance(value, dict) and "pending" in value
