"""From a verdict to traffic: approving, rejecting, promoting and rolling back one run."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from assay.engines.ray_serve import ServeApi
from assay.errors import NotApproved, PlaceError
from assay.place import Place
from assay.records.gate import GateRecord
from assay.records.record import digest_of
from assay.records.release import Approval, Traffic
from assay.records.stages import ModelRecord
from assay.rules.release import check_approval
from assay.spec.spec import Spec
from assay.stages import approve, promote
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger


@dataclass(frozen=True)
class Weighed:
    """A run whose gate has spoken, as the ledger has it."""

    run: str
    spec: Spec
    gate: GateRecord
    model: ModelRecord

    @property
    def scorecard_digest(self) -> str:
        """What an approval is bound to."""
        return digest_of(self.gate.scorecard.model_dump(mode="json"))


def weighed(run: str, ledger: Ledger) -> Weighed:
    """The newest verdict of a run. Raises `NotApproved` when the gate has not spoken yet."""
    row = ledger.find_run(run)
    keys = {stage.stage: stage.key for stage in ledger.stages(row.id) if stage.state in ("done", "cached")}
    found = {name: ledger.record(keys[name]) for name in ("gate", "compress") if name in keys}
    if not found.get("gate") or not found.get("compress"):
        raise NotApproved(f"run {row.id} has no verdict yet; `assay run` takes it to the gate")
    return Weighed(
        row.id,
        Spec.model_validate(json.loads(row.spec)),
        GateRecord.model_validate_json(found["gate"].record),  # type: ignore[union-attr]
        ModelRecord.model_validate_json(found["compress"].record),  # type: ignore[union-attr]
    )


def say_yes_or_no(
    run: str, *, decision: Literal["approve", "reject"], reviewer: str, reason: str, place: Place
) -> Approval:
    """Writes down a reviewer's word on a run's newest verdict."""
    ledger = Ledger(place.ledger_url)
    it = weighed(run, ledger)
    return approve.run(
        it.spec.approval,
        run_id=it.run,
        decision=decision,
        reviewer=reviewer,
        reason=reason,
        scorecard=it.gate.scorecard,
        model=it.model,
        starters=ledger.starters(it.run),
        ledger=ledger,
        store=ArtifactStore(place.home / "artifacts"),
    )


def move_traffic(run: str, *, place: Place, say: Callable[[str], None]) -> Traffic:
    """Promotes a run. Raises `NotApproved` without a passing verdict and a valid approval, and `Drift` when the
    bytes or the slot are not those that were weighed."""
    ledger = Ledger(place.ledger_url)
    it = weighed(run, ledger)
    check_approval(
        it.run,
        it.spec.approval,
        it.gate.scorecard,
        it.scorecard_digest,
        ledger.starters(it.run),
        ledger.approvals(it.run),
        time.time(),
    )
    return promote.run(
        it.spec.serve.canary,
        run_id=it.run,
        scorecard=it.gate.scorecard,
        model=it.model,
        api=_api(place),
        place=place,
        by=place.user,
        ledger=ledger,
        store=ArtifactStore(place.home / "artifacts"),
        say=say,
    )


def move_back(*, place: Place, reason: str) -> Traffic:
    """Gives traffic back to the former champion."""
    return promote.roll_back(
        api=_api(place), place=place, by=place.user, reason=reason, ledger=Ledger(place.ledger_url)
    )


def _api(place: Place) -> ServeApi:
    if not place.engine_python:
        raise PlaceError("the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON")
    return ServeApi(place.dashboard_url, place.ray_token(), place.serve_port, place.engine_python)
