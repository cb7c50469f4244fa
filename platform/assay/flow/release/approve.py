"""`approve`: a named reviewer's word on one scorecard."""

import time
from collections.abc import Collection
from typing import Literal

from assay.records.gate import Scorecard
from assay.records.record import digest_of
from assay.records.releases.release import Approval
from assay.records.stages import ModelRecord
from assay.rules.release.approval import check_reviewer
from assay.spec.approval import ApprovalSpec
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger


def run(
    approval: ApprovalSpec,
    *,
    run_id: str,
    decision: Literal["approve", "reject"],
    reviewer: str,
    reason: str,
    scorecard: Scorecard,
    model: ModelRecord,
    starters: Collection[str],
    ledger: Ledger,
    store: ArtifactStore,
) -> Approval:
    """Checks the reviewer and, to approve, every byte of the artifact, and writes the word down.
    Raises `NotApproved` for a reviewer who may not, and `IntegrityError` when the bytes have
    changed since they were evaluated."""
    check_reviewer(approval, reviewer, starters, decision, reason, scorecard)
    if decision == "approve":  # whoever says no need not care which bytes they are
        store.verify(model.artifact)
    word = Approval(
        run=run_id,
        decision=decision,
        reviewer=reviewer,
        reason=reason,
        artifact_digest=model.artifact.digest,
        scorecard_digest=digest_of(scorecard.model_dump(mode="json")),
        given_at=time.time(),
    )
    return ledger.add_approval(word)
