"""From a verdict to traffic: approving, rejecting, promoting and rolling back one run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from assay.engines.deployment.ray_serve import ServeApi
from assay.errors import NotApproved, PlaceError
from assay.flow.release import approve, promote
from assay.records.gate import GateRecord
from assay.records.record import digest_of
from assay.records.release import Approval, Traffic
from assay.records.stages import ModelRecord
from assay.rules.release.approval import check_approval
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.stages import gate
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger


@dataclass(frozen=True)
class Evaluated:
    """A run whose gate has spoken, as the ledger has it."""

    run: str
    spec: Spec
    gate: GateRecord
    model: ModelRecord

    @property
    def scorecard_digest(self) -> str:
        """What an approval is bound to."""
        return digest_of(self.gate.scorecard.model_dump(mode="json"))


def evaluated(run: str, ledger: Ledger) -> Evaluated:
    """The newest verdict of a run, named by the start of its id; of the newest run that has one, when the name is
    empty. Raises `NotApproved` when the gate has not spoken yet."""
    rows = [ledger.find_run(run)] if run else [ledger.find_run(run), *ledger.runs()]
    for row in rows:
        keys = {stage.stage: stage.key for stage in ledger.stages(row.id) if stage.state in ("done", "cached")}
        verdict, model = (ledger.record(keys[stage]) if stage in keys else None for stage in ("gate", "compress"))
        if verdict and model:
            return Evaluated(
                row.id,
                Spec.model_validate_json(row.spec),
                GateRecord.model_validate_json(verdict.record),
                ModelRecord.model_validate_json(model.record),
            )
        if run and verdict:
            raise NotApproved(
                f"{row.id} was evaluated by `assay gate run`; only what `assay run` has made can be released"
            )
    raise NotApproved(f"run {rows[0].id} has no verdict yet; `assay run` takes it to the gate")


def record_decision(
    run: str, *, decision: Literal["approve", "reject"], reviewer: str, reason: str, settings: Settings
) -> Approval:
    """Writes down a reviewer's word on a run's newest verdict."""
    ledger = Ledger(settings.ledger_url)
    store = ArtifactStore(settings.home / "artifacts")
    it = evaluated(run, ledger)
    if decision == "approve" and it.gate.scorecard.outcome == "PASS":
        gate.verify(it.gate, store)
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
        store=store,
    )


def promote_run(run: str, *, settings: Settings, say: Callable[[str], None]) -> Traffic:
    """Promotes a run. Raises `NotApproved` without a passing verdict and a valid approval, and `IntegrityError`
    when the bytes or the slot are not those that were evaluated, or the scorecard is not what its evidence says."""
    ledger = Ledger(settings.ledger_url)
    store = ArtifactStore(settings.home / "artifacts")
    it = evaluated(run, ledger)
    check_approval(
        it.run,
        it.spec.approval,
        it.gate.scorecard,
        it.scorecard_digest,
        ledger.starters(it.run),
        ledger.approvals(it.run),
        time.time(),
    )
    gate.verify(it.gate, store)
    return promote.run(
        it.spec.serve.canary,
        run_id=it.run,
        scorecard=it.gate.scorecard,
        model=it.model,
        api=_api(settings),
        settings=settings,
        by=settings.user,
        ledger=ledger,
        store=store,
        say=say,
    )


def rollback_run(*, settings: Settings, reason: str) -> Traffic:
    """Gives traffic back to the former champion."""
    return promote.roll_back(
        api=_api(settings), settings=settings, by=settings.user, reason=reason, ledger=Ledger(settings.ledger_url)
    )


def _api(settings: Settings) -> ServeApi:
    if not settings.engine_python:
        raise PlaceError("the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON")
    return ServeApi(settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python)
