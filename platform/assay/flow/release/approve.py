"""`approve`: a named reviewer's word on one scorecard."""

import time
from typing import Literal

from assay.flow.release.checks import Evaluated
from assay.records.releases.release import Approval
from assay.rules.release.approval import check_reviewer
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger


def run(
    it: Evaluated,
    *,
    decision: Literal["approve", "reject"],
    reviewer: str,
    reason: str,
    ledger: Ledger,
    store: ArtifactStore,
) -> Approval:
    """Checks the reviewer and, to approve, every byte of the artifact, and writes the word down.
    Raises `NotApproved` for a reviewer who may not, and `IntegrityError` when the bytes have
    changed since they were evaluated."""
    starters = ledger.starters(it.run)
    check_reviewer(it.spec.approval, reviewer, starters, decision, reason, it.scorecard)
    if decision == "approve":  # whoever says no need not care which bytes they are
        store.verify(it.model.artifact)
    word = Approval(
        run=it.run,
        decision=decision,
        reviewer=reviewer,
        reason=reason,
        artifact_digest=it.model.artifact.digest,
        scorecard_digest=it.scorecard_digest,
        given_at=time.time(),
    )
    return ledger.add_approval(word)
