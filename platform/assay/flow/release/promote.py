"""`promote` and `rollback`: traffic moves between slots; nothing is loaded."""

import time
from collections.abc import Callable

from assay.engines.deployment import ray_serve
from assay.errors import IntegrityError
from assay.records.gate import Scorecard
from assay.records.release import Champion, Traffic
from assay.records.stages import ModelRecord, Slot
from assay.rules.release.approval import check_same_deployment
from assay.rules.release.canary import verdict_on_step
from assay.serving import gateway
from assay.serving.haproxy import MAX_WEIGHT
from assay.settings import Settings
from assay.spec.serve import CanarySpec
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger

MAX_HOLDS = 3  # a step whose errors prove nothing yet is watched this many times at most, then taken back


def run(
    canary: CanarySpec,
    *,
    run_id: str,
    scorecard: Scorecard,
    model: ModelRecord,
    api: ray_serve.ServeApi,
    settings: Settings,
    by: str,
    ledger: Ledger,
    store: ArtifactStore,
    say: Callable[[str], None],
) -> Traffic:
    """Moves traffic to the evaluated slot step by step; the approval was checked by the caller. Raises `IntegrityError`
    when the slot, its replicas or the bytes are not those that were evaluated. The traffic goes back, and the
    returned record says `rollback`, when the candidate's answers are server errors too often."""
    check_deployed(scorecard, model, api, store)
    former = ledger.champion()
    slot = scorecard.deployment_slot
    state = ray_serve.state(api, model_slot(slot))
    champion = Champion(
        run=run_id,
        slot=model_slot(slot),
        model_name=state.model_name if state else "",
        artifact_digest=scorecard.artifact_digest,
        since=time.time(),
    )
    if former and former.slot == champion.slot and former.artifact_digest == champion.artifact_digest:
        _move(settings, champion, 1.0)
        return Traffic(action="promote", champion=former, former=None, by=by, reason="had the traffic already")
    for share in canary.steps:
        say(f"{share:.0%} of the traffic to {slot}")
        before = _counts(settings, slot)
        _move(settings, champion, share)
        if share < 1.0 and not _holds(canary, settings, slot, before):
            _restore(settings, former)
            traffic = Traffic(
                action="rollback", champion=former, former=None, by=by, reason=f"server errors at {share:.0%}"
            )
            ledger.add_traffic(traffic)
            return traffic
    traffic = Traffic(action="promote", champion=champion, former=former, by=by)
    ledger.add_traffic(traffic)
    return traffic


def roll_back(*, api: ray_serve.ServeApi, settings: Settings, by: str, reason: str, ledger: Ledger) -> Traffic:
    """Gives traffic back to the former champion. Raises `IntegrityError` when there is none, or its slot no longer
    holds what it held."""
    changes = ledger.traffic()
    former = changes[-1].former if changes else None
    if former is None:
        raise IntegrityError("there is no former champion to go back to")
    state = ray_serve.state(api, former.slot)
    if state is None or not state.is_running or former.artifact_digest not in state.model_path:
        raise IntegrityError(
            f"slot {former.slot} no longer holds {former.run}; run its spec again to deploy and evaluate it anew"
        )
    _restore(settings, former)
    traffic = Traffic(action="rollback", champion=former, former=changes[-1].champion, by=by, reason=reason)
    ledger.add_traffic(traffic)
    return traffic


def check_deployed(scorecard: Scorecard, model: ModelRecord, api: ray_serve.ServeApi, store: ArtifactStore) -> None:
    """Raises `IntegrityError` unless the slot holds the very deployment that was evaluated and every byte on disk is as
    it was then."""
    state = ray_serve.state(api, model_slot(scorecard.deployment_slot))
    running = state if state and state.is_running else None
    slot_digest = model.artifact.digest if running and running.model_path == model.artifact.path else None
    check_same_deployment(
        scorecard,
        running.deployed_at if running else None,
        running.replicas if running else (),
        slot_digest,
        model.artifact.digest,
    )
    store.verify(model.artifact)


def model_slot(name: str) -> Slot:
    """The slot of a name. Raises `IntegrityError` for one that never has traffic."""
    if name == "blue":
        return "blue"
    if name == "green":
        return "green"
    raise IntegrityError(f"slot {name} never has traffic")


def _holds(canary: CanarySpec, settings: Settings, slot: str, before: tuple[int, int]) -> bool:
    """Watches one step; False when the candidate must give the traffic back."""
    for _ in range(MAX_HOLDS):
        time.sleep(canary.hold)
        verdict = verdict_on_step(before, _counts(settings, slot), canary.max_error_rate)
        if verdict != "hold":
            return verdict == "advance"
    return False


def _counts(settings: Settings, slot: str) -> tuple[int, int]:
    counters = gateway.counters(settings)[slot]
    return counters.requests, counters.responses_5xx


def _move(settings: Settings, champion: Champion, share: float) -> None:
    weight = round(share * MAX_WEIGHT)
    other = "green" if champion.slot == "blue" else "blue"
    gateway.set_weights(settings, {champion.slot: weight, other: MAX_WEIGHT - weight if share < 1.0 else 0})


def _restore(settings: Settings, former: Champion | None) -> None:
    gateway.set_weights(
        settings, {slot: MAX_WEIGHT if former and former.slot == slot else 0 for slot in ("blue", "green")}
    )
