"""From a verdict to traffic: approving, rejecting, promoting and rolling back one run."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, NamedTuple

from assay.engines.deployment.ray_serve import ServeApi
from assay.errors import PlaceError
from assay.flow.place.book import read_place
from assay.flow.place.head import keep_head
from assay.flow.place.identity import act
from assay.flow.release import approve, promote, rollback
from assay.flow.release.checks import Seen, check_policy, check_seen, evaluated
from assay.flow.release.writer import reconcile, writing
from assay.flow.resources.giving_back import free_needless
from assay.records.releases.release import Approval, Traffic
from assay.rules.release.policy import check_reviewer_of_place
from assay.settings import Settings
from assay.stages import gate
from assay.store.artifacts import open_store
from assay.store.ledger import Ledger


class ReviewerWord(NamedTuple):
    """A reviewer's word, as it is given."""

    kind: Literal["approve", "reject"]
    reviewer: str
    """The name that they give; empty for who works here."""
    reason: str


def record_decision(
    run: str,
    decision: ReviewerWord,
    *,
    settings: Settings,
    seen: Seen | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Approval:
    """Writes down a reviewer's word on a run's newest verdict. A rejection ends a promotion that is
    under way. With `seen`, what they had before them, the word is refused when that has changed
    since."""
    ledger = Ledger(settings.ledger_url)
    store = open_store(settings)
    actor = act(settings, ledger, "review", claimed=decision.reviewer)
    reconcile_releases(settings, say=say)
    it = evaluated(run, ledger)
    if seen is not None:
        check_seen(seen, it, ledger.champion())
    if decision.kind == "approve" and it.gate.scorecard.outcome == "PASS":
        policy = read_place(settings, ledger).policy
        check_policy(it, policy)
        check_reviewer_of_place(policy, actor.name, ledger.starters(it.run))
        gate.verify(it.gate, store)
    word = approve.run(
        it,
        decision=decision.kind,
        reviewer=actor.name,
        reason=decision.reason,
        ledger=ledger,
        store=store,
    )
    if decision.kind == "reject":
        _withdraw(word, ledger, settings)
        with suppress(PlaceError):  # the word counts, whether a cluster answers or not
            free_needless(settings, say=say)
    # A word that is removed again, event and all, is noticed.
    keep_head(settings, ledger.audit.events())
    return word


def promote_run(run: str, *, settings: Settings, say: Callable[[str], None]) -> Traffic:
    """Promotes a run. Raises `NotApproved` without a passing verdict and a valid approval, and
    `IntegrityError` when the bytes or the slot are not those that were evaluated, or the scorecard
    is not what its evidence says."""
    return promote.run(run, settings=settings, api=_api(settings), say=say)


def rollback_run(
    *, settings: Settings, reason: str, say: Callable[[str], None] = lambda _: None
) -> Traffic:
    """Ends a promotion that is under way, or gives traffic back to the former champion."""
    return rollback.run(settings=settings, api=_api(settings), reason=reason, say=say)


def reconcile_releases(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Brings ledger and gateway together, after whatever has happened."""
    with writing(settings, Ledger(settings.ledger_url)) as writer:
        reconcile(writer, say=say)


def _withdraw(word: Approval, ledger: Ledger, settings: Settings) -> None:
    """Takes the traffic back from a run that was rejected in the middle of its promotion."""
    release = ledger.releases.under_way()
    if release is None or release.intent.candidate.run != word.run:
        return
    with writing(settings, ledger) as writer:
        release = ledger.releases.under_way()
        if release is not None and release.intent.candidate.run == word.run:
            reason = f"rejected by {word.reviewer}: {word.reason}"
            writer.take_back(release, reason, is_rejected=True)


def _api(settings: Settings) -> ServeApi:
    if not settings.engine_python:
        raise PlaceError(
            "the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON"
        )
    return ServeApi(
        settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python
    )
