"""Whether a candidate may have traffic: the verdict, the reviewers' words, and the same bytes as
evaluated."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from assay.errors import IntegrityError, NotApproved
from assay.records.gate import Scorecard
from assay.records.releases.release import Approval
from assay.spec.approval import ApprovalSpec, folded_name

# How far ahead an approver's clock may be.
CLOCK_SKEW_S = 60.0


@dataclass(frozen=True)
class Verdict:
    """What reviewers give their word on: one scorecard of one run."""

    run: str
    scorecard: Scorecard
    scorecard_digest: str
    """What an approval is bound to, besides the artifact."""
    starters: Collection[str]
    """The people who started the run."""


def check_approval(
    verdict: Verdict,
    approval_spec: ApprovalSpec,
    approvals: Sequence[Approval],
    now: float,
    *,
    held_at: float | None = None,
) -> None:
    """Refuse with NotApproved unless enough reviewers approve this scorecard of this artifact, and
    no reviewer rejects it. A reviewer's last word counts: a rejection stands until its author
    approves.

    `approvals` are in the order in which the ledger took them, which no clock changes. `now` is in
    seconds since the epoch. `held_at` is when the approvals must have held, if not now: a former
    champion's were needed when it got its traffic, and a rejection since then counts.
    """
    run, scorecard = verdict.run, verdict.scorecard
    if scorecard.outcome != "PASS":
        raise NotApproved(
            f"run {run} cannot be promoted: the gate's verdict is {scorecard.outcome}, not PASS"
        )
    words = []
    faults = {}
    for word in approvals:
        if word.run != run:
            continue
        if _is_dated_ahead(word):
            faults[word.reviewer] = "it was dated ahead of the ledger's clock"
        else:
            words.append(word)
    reviewers = set(map(folded_name, approval_spec.reviewers))
    valid: dict[str, str] = {}
    for word in _last_words(words, scorecard.artifact_digest, verdict.scorecard_digest):
        if word.decision == "reject" and folded_name(word.reviewer) in reviewers:
            reason = f": {word.reason.strip()}" if word.reason.strip() else ""
            raise NotApproved(f"run {run} was rejected by {word.reviewer}{reason}")
        if fault := _fault(word, verdict, approval_spec, now, held_at):
            faults[word.reviewer] = fault
        else:
            valid[folded_name(word.reviewer)] = word.reviewer
            faults.pop(word.reviewer, None)
    needed = num_required(approval_spec, scorecard)
    if len(valid) < needed:
        raise NotApproved(_shortfall(run, approval_spec, needed, scorecard, set(valid), faults))


def num_required(approval_spec: ApprovalSpec, scorecard: Scorecard) -> int:
    """How many reviewers must approve: more than otherwise when a soft limit was missed."""
    if not scorecard.missed_soft_limits:
        return approval_spec.required
    return max(approval_spec.required, approval_spec.required_on_soft_miss)


def check_reviewer(
    approval_spec: ApprovalSpec,
    reviewer: str,
    starters: Collection[str],
    decision: Literal["approve", "reject"],
    reason: str,
    scorecard: Scorecard,
) -> None:
    """Refuse with NotApproved a word that may not be given. Every named reviewer may always
    reject."""
    if fault := _reviewer_fault(approval_spec, reviewer, starters, decision):
        raise NotApproved(f"{reviewer} cannot {decision}: {fault}")
    if decision == "reject":
        return
    if scorecard.outcome != "PASS":
        raise NotApproved(
            f"there is nothing to approve: the gate's verdict is {scorecard.outcome}, not PASS"
        )
    if scorecard.missed_soft_limits and not reason.strip():
        raise NotApproved(f"a reason is needed, because {_missed(scorecard)}")


def check_champion(scorecard: Scorecard, champion_digest: str | None) -> None:
    """Refuse with IntegrityError when the candidate was compared with another champion than the one
    that has the traffic now; where there is none, with another model than the base model.
    `champion_digest` is its artifact's."""
    compared = scorecard.champion_digest
    if compared is None or champion_digest == scorecard.artifact_digest:
        return
    if champion_digest is None:
        stands_in = scorecard.base_digest
    else:
        stands_in = champion_digest
    if compared != stands_in:
        raise IntegrityError(
            f"the candidate was compared with champion {_short(compared)}, and the champion is "
            f"{_short(champion_digest)} now; run `assay run SPEC` again to compare it with that one"
        )


def check_same_deployment(
    scorecard: Scorecard,
    deployed_at: float | None,
    replicas: Collection[str],
    slot_digest: str | None,
    loaded: Mapping[str, str],
    *,
    is_former: bool = False,
) -> None:
    """Refuse with IntegrityError unless the evaluated deployment still stands, with the bytes that
    were evaluated: every engine replica, those of autoscaling and restarts too, must itself have
    said that it loaded them (`loaded`, by replica). One that was evaluated must be among them,
    unless it `is_former`: a champion from before may have been restarted since. None stands for a
    slot that is empty.
    """
    evaluated = scorecard.artifact_digest
    differences = []
    if slot_digest != evaluated:
        differences.append(
            f"slot {scorecard.deployment_slot} serves {_short(slot_digest)}, not "
            f"{_short(evaluated)}"
        )
    if deployed_at != scorecard.deployed_at:
        differences.append(
            f"slot {scorecard.deployment_slot} was deployed anew after it was evaluated"
        )
    if not replicas or not (is_former or set(replicas) & set(scorecard.replicas)):
        differences.append(
            f"replicas {_listed(scorecard.replicas)} were evaluated, now there are "
            f"{_listed(replicas)}"
        )
    for replica in sorted(replicas):
        if loaded.get(replica) != evaluated:
            differences.append(
                f"replica {replica} says that it has loaded {_short(loaded.get(replica))}"
            )
    if differences:
        raise IntegrityError(
            "; ".join(differences) + "; run `assay run SPEC` again to evaluate it anew"
        )


def _last_words(
    words: Sequence[Approval], artifact_digest: str, scorecard_digest: str
) -> list[Approval]:
    """Each reviewer's last word on this scorecard, or on another one where there is none on
    this."""

    def is_here(word: Approval) -> bool:
        return (word.artifact_digest, word.scorecard_digest) == (artifact_digest, scorecard_digest)

    elsewhere: dict[str, Approval] = {}
    here: dict[str, Approval] = {}
    for word in words:
        if is_here(word):
            here[folded_name(word.reviewer)] = word
        else:
            elsewhere[folded_name(word.reviewer)] = word
    last = []
    for word in (elsewhere | here).values():
        # A rejection of another scorecard is history.
        if word.decision == "approve" or is_here(word):
            last.append(word)
    return last


def _is_dated_ahead(word: Approval) -> bool:
    """Whether an approval was dated ahead of the clock of the ledger that took it: it never counts,
    not later either. A rejection counts whenever it is dated."""
    if word.decision == "reject" or word.recorded_at is None:
        return False
    # `not <=`: a time that is no number (NaN) is ahead, too.
    return not word.given_at <= word.recorded_at + CLOCK_SKEW_S


def _fault(
    word: Approval,
    verdict: Verdict,
    approval_spec: ApprovalSpec,
    now: float,
    held_at: float | None,
) -> str:
    """Why an approval does not count; empty when it does."""
    scorecard, scorecard_digest = verdict.scorecard, verdict.scorecard_digest
    if fault := _reviewer_fault(approval_spec, word.reviewer, verdict.starters, word.decision):
        return fault
    if word.artifact_digest != scorecard.artifact_digest:
        return (
            f"it is for artifact {_short(word.artifact_digest)}, this is "
            f"{_short(scorecard.artifact_digest)}"
        )
    if word.scorecard_digest != scorecard_digest:
        return (
            f"it is for scorecard {_short(word.scorecard_digest)}, this is "
            f"{_short(scorecard_digest)}"
        )
    age_s = (now if held_at is None else held_at) - word.given_at
    if age_s > approval_spec.expires:
        return f"it expired {_hours(age_s - approval_spec.expires)} ago"
    if not word.given_at <= now + CLOCK_SKEW_S:
        return "it is dated in the future"
    if scorecard.missed_soft_limits and not word.reason.strip():
        return f"it gives no reason, although {_missed(scorecard)}"
    return ""


def _reviewer_fault(
    approval_spec: ApprovalSpec,
    reviewer: str,
    starters: Collection[str],
    decision: Literal["approve", "reject"],
) -> str:
    person = folded_name(reviewer)
    if person not in map(folded_name, approval_spec.reviewers):
        return f"the spec's reviewers are {_listed(approval_spec.reviewers)}"
    has_started = person in map(folded_name, starters)
    if decision == "approve" and has_started and not approval_spec.allow_self_approval:
        return "they started this run, and the spec does not allow self-approval"
    return ""


def _shortfall(
    run: str,
    approval_spec: ApprovalSpec,
    needed: int,
    scorecard: Scorecard,
    valid: set[str],
    faults: dict[str, str],
) -> str:
    """What is missing, what does not count and why, and who can help."""
    if valid:
        have = f"has {len(valid)} of the {needed} approvals needed"
    else:
        have = "is not approved"
    if needed > approval_spec.required:
        why = f", because {_missed(scorecard)}"
    else:
        why = ""
    parts = [f"run {run} {have}{why}"]
    if needed > len(approval_spec.reviewers):
        parts.append(
            f"that takes {needed} reviewers, and the spec names {len(approval_spec.reviewers)}"
        )
    for reviewer, fault in sorted(faults.items()):
        parts.append(f"{reviewer}'s word does not count: {fault}")
    others = []
    for reviewer in approval_spec.reviewers:
        if folded_name(reviewer) not in valid:
            others.append(reviewer)
    parts.append(f"`assay approve {run}` is for {_listed(others)}")
    return "; ".join(parts)


def _missed(scorecard: Scorecard) -> str:
    missed = []
    for result in scorecard.missed_soft_limits:
        missed.append(f"{result.task} ({result.metric} {result.requirement})")
    return f"soft limits are missed: {', '.join(missed)}"


def _short(digest: str | None) -> str:
    if digest:
        return digest[:12]
    return "nothing"


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _hours(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes"
