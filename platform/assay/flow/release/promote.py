"""`promote`: traffic moves to a candidate's slot, step by step; nothing is loaded.

What is about to be done is in the ledger before any traffic moves, and every step looks again at
all that allows it. Whoever comes next after a crash takes back what was not finished.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from assay.engines.cluster.signals import asked_to_stop
from assay.engines.deployment import ray_serve
from assay.errors import AssayError, Superseded
from assay.flow.place.book import verified
from assay.flow.place.identity import act
from assay.flow.release.checks import Evaluated, check_bytes, check_may_serve, evaluated
from assay.flow.release.receipts import write_receipts
from assay.flow.release.writer import (
    Writer,
    controlling,
    digests_of,
    reconcile,
    settle,
    shared_weights,
    weights_of,
    writing,
)
from assay.records.releases.release import Champion, Release, ReleaseIntent, Traffic
from assay.rules.release.canary import verdict_on_step
from assay.serving import gateway
from assay.settings import Settings
from assay.store.artifacts import open_store
from assay.store.ledger import Ledger

# How often a step that is watched asks whether somebody has ended the release.
LOOK_S = 1.0
# A step whose errors prove nothing yet is watched this many times at most, then taken back.
MAX_HOLDS = 3


@dataclass
class _Promotion:
    """One promotion by this process."""

    it: Evaluated
    ledger: Ledger
    settings: Settings
    api: ray_serve.ServeApi
    say: Callable[[str], None]
    asked: threading.Event
    """Set when this process is asked to stop."""
    state: ray_serve.SlotState | None = None
    """What the candidate's slot was seen to hold last."""
    last_turn: int = 0
    """Number of the writer that it was last."""

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """A turn of the place's writer."""
        with writing(self.settings, self.ledger) as writer:
            self.last_turn = writer.number
            yield writer


def run(
    run: str, *, settings: Settings, api: ray_serve.ServeApi, say: Callable[[str], None]
) -> Traffic:
    """Moves traffic to a run's slot. Raises `NotApproved` without a passing verdict and a valid
    approval, and `IntegrityError` when the bytes, the slot or the champion are not those of its
    evaluation. The traffic goes back, and the returned record says `rollback`, when the candidate's
    answers are server errors too often."""
    ledger, store = Ledger(settings.ledger_url), open_store(settings)
    act(settings, ledger, "release")
    it = evaluated(run, ledger)
    with controlling(ledger), asked_to_stop() as asked:
        promotion = _Promotion(it, ledger, settings, api, say, asked)
        with promotion.writing() as writer:
            reconcile(writer, say=say, in_control=True)
        # Before the bytes are read: what is refused anyhow is refused at once.
        check_may_serve_now(promotion)
        check_bytes(it, store)  # not in the writer's turn: it may take minutes
        if asked.is_set():
            raise KeyboardInterrupt
        with promotion.writing() as writer:
            reconcile(writer, say=say, in_control=True)
            begun = _begin(promotion, writer)
        return begun if isinstance(begun, Traffic) else _go(promotion, begun)


def check_may_serve_now(promotion: _Promotion) -> ray_serve.SlotState:
    """Looks at everything that allows the next step, as it is now."""
    ledger = promotion.ledger
    release = ledger.releases.under_way()
    champion = release.intent.former if release else ledger.champion()
    settings = promotion.settings
    verified(settings, ledger)
    return check_may_serve(
        promotion.it, champion=champion, ledger=ledger, api=promotion.api, settings=settings
    )


def _begin(promotion: _Promotion, writer: Writer) -> Release | Traffic:
    """Writes down what is to be done; nothing moves yet."""
    it, ledger = promotion.it, promotion.ledger
    state = check_may_serve_now(promotion)
    former = ledger.champion()
    candidate = Champion(
        run=it.run,
        slot=state.slot,
        model_name=state.model_name,
        artifact_digest=it.scorecard.artifact_digest,
        since=time.time(),
    )
    if former and (former.slot, former.artifact_digest) == (
        candidate.slot,
        candidate.artifact_digest,
    ):
        settle(writer, say=promotion.say)
        by = writer.actor.name
        return Traffic(
            action="promote", champion=former, former=None, by=by, reason="had the traffic already"
        )
    intent = ReleaseIntent(
        action="promote",
        candidate=candidate,
        former=former,
        steps=it.spec.serve.canary.steps,
        scorecard_digest=it.scorecard_digest,
        deployed_at=state.deployed_at,
        by=writer.actor.name,
    )
    return ledger.releases.intend(intent, fence=writer.number, actor=writer.actor)


def _go(promotion: _Promotion, release: Release) -> Traffic:
    intent = release.intent
    with _taken_back_on_failure(promotion, release):
        for share in intent.steps:
            promotion.say(f"{share:.0%} of the traffic to {intent.candidate.slot}")
            before = _counts(promotion)
            with promotion.writing() as writer:
                release = _step(promotion, writer, release, share)
                if share == 1.0:
                    _keep_proof(promotion, release)
                    return finish(writer, release)
            if not _holds(promotion, release, before):
                return _take_back(promotion, release.id, f"server errors at {share:.0%}")
    raise AssertionError("the last step is 100%")


def _step(promotion: _Promotion, writer: Writer, release: Release, share: float) -> Release:
    """Looks again, writes down that the step begins, and moves the weights."""
    promotion.state = check_may_serve_now(promotion)
    _check_unchanged(promotion, release)
    release = promotion.ledger.releases.advance(release, fence=writer.number, actor=writer.actor)
    candidate, former = release.intent.candidate, release.intent.former
    standing = None if promotion.ledger.restorations.is_held(former) else former
    writer.give(shared_weights(candidate, standing, share), candidate, standing)
    return release


def _keep_proof(promotion: _Promotion, release: Release) -> None:
    """The receipts come before the end: what is done can be proved, and what cannot be proved is
    taken back."""
    assert promotion.state is not None
    it, ledger = promotion.it, promotion.ledger
    write_receipts(it, release, promotion.state, ledger=ledger, settings=promotion.settings)


def finish(writer: Writer, release: Release, reason: str = "") -> Traffic:
    """All of the traffic has moved: the candidate is the champion."""
    intent = release.intent
    traffic = Traffic(
        action=intent.action,
        champion=intent.candidate,
        former=intent.former,
        by=intent.by,
        reason=reason,
    )
    writer.ledger.releases.finish(release, traffic, fence=writer.number, actor=writer.actor)
    return traffic


def _check_unchanged(promotion: _Promotion, release: Release) -> None:
    """Raises `Superseded` unless the release rests on what it began with."""
    ledger, intent = promotion.ledger, release.intent
    if ledger.champion() != intent.former:
        raise Superseded("another champion has got the traffic since this promotion began")
    now = evaluated(intent.candidate.run, ledger)
    if now.scorecard_digest != intent.scorecard_digest:
        raise Superseded(
            f"run {intent.candidate.run} has been evaluated anew since its promotion began"
        )


def _holds(promotion: _Promotion, release: Release, before: tuple[int, int]) -> bool:
    """Watches one step; False when the candidate must give the traffic back."""
    canary = promotion.it.spec.serve.canary
    for _ in range(MAX_HOLDS):
        _wait(promotion, release, canary.hold)
        verdict = verdict_on_step(before, _counts(promotion), canary.max_error_rate)
        if verdict != "hold":
            return verdict == "advance"
    return False


def _wait(promotion: _Promotion, release: Release, seconds: float) -> None:
    """Waits, unless this process is asked to stop or somebody ends the release."""
    end = time.monotonic() + seconds
    while True:
        if promotion.asked.wait(min(LOOK_S, max(0.0, end - time.monotonic()))):
            raise KeyboardInterrupt
        _require_open(promotion.ledger.releases.get(release.id))
        if time.monotonic() >= end:
            return


def _require_open(release: Release) -> None:
    if not release.is_open:
        run = release.intent.candidate.run
        raise Superseded(
            f"the promotion of {run} was ended by somebody else: it is {release.state}, "
            f"{release.note}"
        )


def _counts(promotion: _Promotion) -> tuple[int, int]:
    counters = gateway.counters(promotion.settings)[promotion.it.scorecard.deployment_slot]
    return counters.requests, counters.responses_5xx


def _take_back(promotion: _Promotion, release: int, reason: str) -> Traffic:
    ledger = promotion.ledger
    with promotion.writing() as writer:
        now = ledger.releases.get(release)
        _require_open(now)
        return writer.take_back(now, reason)


@contextmanager
def _taken_back_on_failure(promotion: _Promotion, release: Release) -> Iterator[None]:
    """Whatever stops a promotion, a signal too, gives the traffic back first. Where even the ledger
    cannot be written, the weights alone go back, unless another writer has come; the next command
    finds the rest."""
    try:
        yield
    except BaseException as error:
        reason = str(error) or type(error).__name__
        try:
            _take_back(promotion, release.id, f"stopped: {reason}")
        except Superseded as superseded:
            if isinstance(error, AssayError):
                raise superseded from error
        except AssayError:
            with suppress(AssayError):
                former = release.intent.former
                gateway.settle(
                    promotion.settings,
                    weights_of(former),
                    digests_of(former),
                    writer=promotion.last_turn,
                )
        raise
