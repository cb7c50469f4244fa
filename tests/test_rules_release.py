from typing import Any

import pytest

from assay.errors import ExitCode, IntegrityError, NotApproved
from assay.records.gate import LimitResult, Scorecard
from assay.records.releases.release import Approval
from assay.rules.release.approval import (
    Verdict,
    check_approval,
    check_reviewer,
    check_same_deployment,
)
from assay.spec.approval import ApprovalSpec

NOW = 1_000_000.0
SPEC = ApprovalSpec(reviewers=("ann", "ben", "cleo"), expires="72h")
TWO = ApprovalSpec(reviewers=("ann", "ben", "cleo"), required=2)


def scorecard(**changes: Any) -> Scorecard:
    fields: dict[str, Any] = {
        "suite": "s.yaml",
        "suite_digest": "suite",
        "artifact_digest": "bytes",
        "base_digest": None,
        "confidence": 0.95,
        "outcome": "PASS",
        "limits": (),
        "deployment_slot": "green",
        "deployed_at": 900_000.5,
        "replicas": ("r1", "r2"),
    }
    return Scorecard(**(fields | changes))


def missed_soft_limit() -> LimitResult:
    return LimitResult(
        task="elements",
        metric="exact_match",
        requirement=">= base - 10.0%",
        level="soft",
        outcome="FAIL",
        num_items=30,
        observed=-0.3,
        bound=-0.5,
        limit=-0.1,
        base_observed=0.8,
        reason="",
    )


def word(reviewer: str = "ann", decision: str = "approve", **changes: Any) -> Approval:
    fields: dict[str, Any] = {
        "run": "run-1",
        "decision": decision,
        "reviewer": reviewer,
        "reason": "",
        "artifact_digest": "bytes",
        "scorecard_digest": "card",
        "given_at": NOW - 3600,
    }
    return Approval(**(fields | changes))


def check(
    *words: Approval, spec: ApprovalSpec = SPEC, card: Scorecard | None = None, now: float = NOW
) -> None:
    check_approval(Verdict("run-1", card or scorecard(), "card", {"sam"}), spec, words, now)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (SPEC, [word()]),
        (TWO, [word(), word("ben")]),
        (
            SPEC,
            [word("ben", "reject", given_at=NOW - 9), word("ben", given_at=NOW - 5)],
        ),  # ben came round
        (SPEC, [word(), word("ben", "reject", scorecard_digest="an older one")]),
        (SPEC, [word(), word("ben", "reject", run="run-2")]),
        (SPEC, [word(), word("dan", "reject")]),  # nobody asked dan
        (SPEC, [word(given_at=NOW - 72 * 3600)]),
        (SPEC, [word(), word(artifact_digest="other", given_at=NOW - 1)]),
        (ApprovalSpec(reviewers=("sam",), allow_self_approval=True), [word("sam")]),
    ],
)
def test_enough_valid_approvals_are_accepted(spec: ApprovalSpec, words: list[Approval]) -> None:
    check(*words, spec=spec)


@pytest.mark.parametrize(
    ("spec", "words", "said"),
    [
        (SPEC, [], "run run-1 is not approved; `assay approve run-1` is for ann, ben, cleo"),
        (SPEC, [word(run="run-2")], "is not approved"),
        (
            SPEC,
            [word(), word("ben", "reject", reason="wrong tone")],
            "was rejected by ben: wrong tone",
        ),
        (SPEC, [word(), word("ben", "reject", given_at=NOW - 7200)], "was rejected by ben"),
        (SPEC, [word(), word("ann", "reject", given_at=NOW - 60)], "was rejected by ann"),
        (
            SPEC,
            [word(), word("ann", "reject")],
            "was rejected by ann",
        ),  # at the same moment: the ledger's order counts
        (SPEC, [word("dan")], "dan's word does not count: the spec's reviewers are ann, ben, cleo"),
        (
            ApprovalSpec(reviewers=("sam", "ann")),
            [word("sam")],
            "sam's word does not count: they started this run",
        ),
        (SPEC, [word(artifact_digest="other")], "it is for artifact other, this is bytes"),
        (SPEC, [word(scorecard_digest="old")], "it is for scorecard old, this is card"),
        (SPEC, [word(given_at=NOW - 74 * 3600)], "it expired 2.0 hours ago"),
        (SPEC, [word(given_at=NOW - 72 * 3600 - 300)], "it expired 5 minutes ago"),
        (SPEC, [word(given_at=NOW + 3600)], "it is dated in the future"),
        (SPEC, [word(given_at=float("nan"))], "it is dated in the future"),
        (TWO, [word()], "has 1 of the 2 approvals needed; `assay approve run-1` is for ben, cleo"),
        (
            TWO,
            [word(), word(given_at=NOW - 1)],
            "has 1 of the 2 approvals needed",
        ),  # ann twice is ann
        (
            TWO,
            [word(), word("ben", given_at=0)],
            "has 1 of the 2 approvals needed; ben's word does not count",
        ),
    ],
)
def test_everything_else_is_refused_with_its_reason(
    spec: ApprovalSpec, words: list[Approval], said: str
) -> None:
    with pytest.raises(NotApproved) as refused:
        check(*words, spec=spec)
    assert said in str(refused.value)
    assert refused.value.exit_code == ExitCode.NOT_APPROVED


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE"])
def test_no_approval_replaces_a_passing_verdict(outcome: str) -> None:
    with pytest.raises(NotApproved, match=f"the gate's verdict is {outcome}, not PASS"):
        check(word(), card=scorecard(outcome=outcome))


def test_an_approval_of_a_missed_soft_limit_says_why() -> None:
    card = scorecard(limits=(missed_soft_limit(),))
    check(
        word(reason="chemistry is not asked of this bot"), word("ben", reason="agreed"), card=card
    )
    with pytest.raises(
        NotApproved, match="gives no reason, although soft limits are missed: elements"
    ):
        check(word(reason="  "), word("ben", reason="agreed"), card=card)


def test_a_missed_soft_limit_takes_a_second_approver() -> None:
    card = scorecard(limits=(missed_soft_limit(),))
    with pytest.raises(
        NotApproved,
        match="has 1 of the 2 approvals needed, because soft limits are missed: elements",
    ):
        check(word(reason="chemistry is not asked of this bot"), card=card)
    with pytest.raises(NotApproved, match="that takes 2 reviewers, and the spec names 1"):
        check(word(reason="fine"), card=card, spec=ApprovalSpec(reviewers=("ann",)))
    check(
        word(reason="fine"),
        card=card,
        spec=ApprovalSpec(reviewers=("ann",), required_on_soft_miss=1),
    )
    check(word(), card=scorecard())  # without a miss one is enough
    three = ApprovalSpec(reviewers=("ann", "ben", "cleo"), required=3)
    with pytest.raises(NotApproved, match="2 of the 3"):
        check(word(reason="a"), word("ben", reason="b"), card=card, spec=three)


@pytest.mark.parametrize(
    ("reviewer", "decision", "reason", "card", "said"),
    [
        (
            "dan",
            "approve",
            "",
            scorecard(),
            "dan cannot approve: the spec's reviewers are ann, sam",
        ),
        ("dan", "reject", "", scorecard(), "dan cannot reject"),
        ("sam", "approve", "", scorecard(), "sam cannot approve: they started this run"),
        ("ann", "approve", "", scorecard(outcome="FAIL"), "verdict is FAIL"),
        ("ann", "approve", "", scorecard(outcome="INCONCLUSIVE"), "verdict is INCONCLUSIVE"),
        ("ann", "approve", " ", scorecard(limits=(missed_soft_limit(),)), "a reason is needed"),
    ],
)
def test_a_word_that_may_not_be_given(
    reviewer: str, decision: Any, reason: str, card: Scorecard, said: str
) -> None:
    with pytest.raises(NotApproved, match=said):
        check_reviewer(
            ApprovalSpec(reviewers=("ann", "sam")), reviewer, {"sam"}, decision, reason, card
        )


@pytest.mark.parametrize(
    ("reviewer", "decision", "reason", "card"),
    [
        ("ann", "approve", "", scorecard()),
        ("ann", "approve", "known", scorecard(limits=(missed_soft_limit(),))),
        ("ann", "reject", "", scorecard(outcome="FAIL")),
        ("sam", "reject", "", scorecard()),  # who started a run may stop it
    ],
)
def test_a_word_that_may_be_given(
    reviewer: str, decision: Any, reason: str, card: Scorecard
) -> None:
    check_reviewer(
        ApprovalSpec(reviewers=("ann", "sam")), reviewer, {"sam"}, decision, reason, card
    )


SAME = {"r1": "bytes", "r2": "bytes", "r3": "bytes", "r4": "bytes"}


def test_the_deployment_that_was_evaluated_may_be_promoted() -> None:
    check_same_deployment(scorecard(), 900_000.5, ["r2", "r1"], "bytes", SAME)
    check_same_deployment(
        scorecard(), 900_000.5, ["r1", "r3"], "bytes", SAME
    )  # autoscaling added and removed
    check_same_deployment(
        scorecard(), 900_000.5, ["r3"], "bytes", SAME, is_former=True
    )  # restarted since


@pytest.mark.parametrize(
    ("deployed_at", "replicas", "slot", "loaded", "said"),
    [
        (
            900_000.5,
            ["r1", "r2"],
            "bytes",
            SAME | {"r2": "bytez"},
            "replica r2 says that it has loaded bytez",
        ),
        (900_000.5, ["r1", "r5"], "bytes", SAME, "replica r5 says that it has loaded nothing"),
        (900_000.5, ["r1", "r2"], "bytez", SAME, "slot green serves bytez, not bytes"),
        (None, [], None, {}, "slot green serves nothing"),
        (900_001.0, ["r1", "r2"], "bytes", SAME, "slot green was deployed anew"),
        (
            900_000.5,
            ["r3", "r4"],
            "bytes",
            SAME,
            "replicas r1, r2 were evaluated, now there are r3, r4",
        ),
        (900_000.5, [], "bytes", SAME, "now there are none"),
    ],
)
def test_whatever_drifted_is_named(
    deployed_at: float | None,
    replicas: list[str],
    slot: str | None,
    loaded: dict[str, str],
    said: str,
) -> None:
    with pytest.raises(IntegrityError) as refused:
        check_same_deployment(scorecard(), deployed_at, replicas, slot, loaded)
    assert said in str(refused.value)
    assert "run `assay run SPEC` again to evaluate it anew" in str(refused.value)
    assert refused.value.exit_code == ExitCode.DRIFT


def test_a_weighing_by_nobody_cannot_be_promoted() -> None:
    with pytest.raises(IntegrityError, match="replicas none were evaluated, now there are none"):
        check_same_deployment(scorecard(replicas=()), 900_000.5, [], "bytes", {})


@pytest.mark.parametrize("starter", ["Sam", "sam", "\uff33\uff41\uff4d", "SAM "])
def test_s16_names_are_compared_without_case_and_width(starter: str) -> None:
    spec = ApprovalSpec(reviewers=("sam", "ann"))
    with pytest.raises(NotApproved, match="they started this run"):
        check_approval(Verdict("run-1", scorecard(), "card", {starter}), spec, [word("sam")], NOW)
    with pytest.raises(NotApproved, match="they started this run"):
        check_reviewer(spec, "sam", {starter}, "approve", "", scorecard())


def test_s16_one_person_in_two_spellings_is_one_person() -> None:
    with pytest.raises(NotApproved, match="has 1 of the 2 approvals needed"):
        check(word("ann"), word("Ann"), spec=TWO)
    with pytest.raises(ValueError, match="only 1 reviewers are named"):
        ApprovalSpec(reviewers=("ann", "Ann"), required=2)


def test_s12_the_ledgers_order_decides_and_no_clock() -> None:
    with pytest.raises(NotApproved, match="was rejected by ann"):
        check(
            word(given_at=NOW + 50, recorded_at=NOW - 10),
            word("ann", "reject", given_at=NOW, recorded_at=NOW),
        )


def test_s12_an_approval_that_was_dated_ahead_never_counts() -> None:
    ahead = word(given_at=NOW + 3600, recorded_at=NOW)
    for later in (NOW, NOW + 3600, NOW + 7200):
        with pytest.raises(NotApproved, match="dated ahead of the ledger's clock"):
            check(ahead, now=later)
    with pytest.raises(
        NotApproved, match="was rejected by ann"
    ):  # it does not undo a rejection either
        check(word("ann", "reject", recorded_at=NOW - 1), ahead, word("ben"))
