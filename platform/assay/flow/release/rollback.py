"""`rollback`: the traffic goes back to who had it before, if they may still have it."""

from collections.abc import Callable

from assay.engines.deployment import ray_serve
from assay.errors import IntegrityError, NotApproved
from assay.flow.place.attention import News, tell
from assay.flow.place.identity import act
from assay.flow.release.checks import Evaluated, check_bytes, check_may_serve, evaluated
from assay.flow.release.promote import finish
from assay.flow.release.receipts import write_receipts
from assay.flow.release.writer import Writer, reconcile, weights_of, writing
from assay.records.releases.release import Champion, ReleaseIntent, Traffic
from assay.rules.release.slots import former_champion
from assay.settings import Settings
from assay.store.artifacts import open_store
from assay.store.ledger import Ledger


def run(
    *, settings: Settings, api: ray_serve.ServeApi, reason: str, say: Callable[[str], None]
) -> Traffic:
    """Ends a promotion that is under way, or gives the traffic back to the former champion. Raises
    `NotApproved` when that one was rejected since, and `IntegrityError` when there is none, or when
    its bytes or its slot are not what they were."""
    ledger, store = Ledger(settings.ledger_url), open_store(settings)
    act(settings, ledger, "release")
    target = former_champion(ledger.traffic())
    if target is not None and ledger.releases.under_way() is None:
        # Before the writer's turn: it may take minutes.
        check_bytes(evaluated(target.run, ledger), store)
    with writing(settings, ledger) as writer:
        release = ledger.releases.under_way()
        if release is not None:
            writer.verify()
            return writer.take_back(release, reason or f"ended by {writer.actor.name}")
        reconcile(writer, say=say)
        champion, target_now = ledger.champion(), former_champion(ledger.traffic())
        if target_now is None:
            raise IntegrityError("there is no former champion to go back to")
        # The bytes of that one were not read.
        if target_now != target:
            raise IntegrityError(
                "another champion has got the traffic meanwhile; look at `assay status`, and try "
                "again"
            )
        try:
            it = evaluated(target_now.run, ledger)
            state = _check_target(it, target_now, champion, writer, api)
        except (IntegrityError, NotApproved) as error:
            raise type(error)(f"there is no way back to {target_now.run}: {error}") from error
        intent = ReleaseIntent(
            action="rollback",
            candidate=target_now,
            former=champion,
            steps=(1.0,),
            scorecard_digest=it.scorecard_digest,
            deployed_at=state.deployed_at,
            by=writer.actor.name,
        )
        release = ledger.releases.intend(intent, fence=writer.number, actor=writer.actor)
        release = ledger.releases.advance(release, fence=writer.number, actor=writer.actor)
        writer.give(weights_of(target_now), target_now, champion)
        write_receipts(it, release, state, ledger=ledger, settings=settings)
        traffic = finish(writer, release, reason)
    if champion is not None:
        tell(News("rolled_back", champion.run, reason), settings)
    return traffic


def _check_target(
    it: Evaluated,
    target: Champion,
    champion: Champion | None,
    writer: Writer,
    api: ray_serve.ServeApi,
) -> ray_serve.SlotState:
    """What the former champion's slot holds. Raises unless it may have the traffic again."""
    if (
        it.scorecard.artifact_digest != target.artifact_digest
        or it.scorecard.deployment_slot != target.slot
    ):
        raise IntegrityError(
            f"slot {target.slot} no longer holds what it was promoted with: it was evaluated anew "
            f"since; `assay promote {target.run}` is the way"
        )
    return check_may_serve(
        it,
        champion=champion,
        ledger=writer.ledger,
        api=api,
        settings=writer.settings,
        held_at=target.since,
    )
