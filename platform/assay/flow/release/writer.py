"""The one writer of a place: whoever holds it may change who has traffic, and finds ledger and
gateway at one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from assay.errors import IntegrityError, PlaceError, UsageError
from assay.flow.place.attention import News, tell
from assay.flow.place.book import verified
from assay.flow.place.head import keep_head
from assay.flow.place.identity import whoever
from assay.records.releases.audit import Actor
from assay.records.releases.release import Champion, Release, Traffic
from assay.records.stages import Slot
from assay.rules.release.slots import former_champion, idle_slot
from assay.serving import gateway, supervisor
from assay.serving.haproxy import MAX_WEIGHT, SLOTS
from assay.settings import Settings
from assay.store.ledger import Ledger

WAIT_S = 40.0
"""Longer than one writer's turn takes: it moves weights and calls Serve, but loads and waits for
nothing."""

_WRITER, _CONTROLLER = "writer", "controller"


@dataclass(frozen=True)
class Writer:
    """A turn of the one writer. Its number is above all numbers before it, in the ledger and in the
    gateway's folder: what an earlier writer tries after a pause is refused by both."""

    settings: Settings
    ledger: Ledger
    number: int
    actor: Actor

    def verify(self) -> None:
        """Raises `IntegrityError` unless the ledger says what was done, and goes on from what this
        place has seen."""
        verified(self.settings, self.ledger)

    def give(self, weights: dict[str, int], *allowed: Champion | None) -> bool:
        """Makes sure of the weights, and that nobody's answers get through but those of `allowed`;
        returns whether the weights were others."""
        return gateway.settle(self.settings, weights, digests_of(*allowed), writer=self.number)

    def weights_of(self, champion: Champion | None) -> dict[str, int]:
        """All traffic to the champion's slot; none while it is lost, and what stands there now has
        not been proved to be what was approved."""
        return weights_of(None if self.ledger.restorations.is_held(champion) else champion)

    def take_back(self, release: Release, reason: str, *, is_rejected: bool = False) -> Traffic:
        """Gives the traffic back to who had it before the release, and ends it. What the candidate
        is still answering gets through until the next command, unless it was rejected."""
        former = release.intent.former
        late = None if is_rejected else release.intent.candidate
        self.give(self.weights_of(former), former, late)
        traffic = Traffic(
            action="rollback", champion=former, former=None, by=self.actor.name, reason=reason
        )
        self.ledger.releases.take_back(release, traffic, fence=self.number, actor=self.actor)
        tell(News("rolled_back", release.intent.candidate.run, reason), self.settings)
        return traffic

    def idle_slot(self) -> Slot:
        """A slot that nobody's requests can reach. Raises `StageFailed` when there is none."""
        return idle_slot(
            self.ledger.champion(), self.ledger.releases.under_way(), self._all_weights()
        )

    def slots_with_weight(self) -> list[Slot]:
        """Slots that requests can reach, now or when the gateway next starts."""
        slots: tuple[Slot, ...] = ("blue", "green")
        given = self._all_weights()
        return [slot for slot in slots if any(weights[slot] for weights in given)]

    def _all_weights(self) -> list[dict[str, int]]:
        return [gateway.get_weights(self.settings), supervisor.read_weights(self.settings)]


@contextmanager
def writing(settings: Settings, ledger: Ledger) -> Iterator[Writer]:
    """One turn of the writer. Raises `PlaceError` when another's takes too long."""
    actor = ledger.actor or whoever(settings, ledger)
    with ledger.lock(_WRITER, wait_s=WAIT_S, taken=_busy(ledger)):
        # Above both: a claim that broke off between the two has left one of them behind.
        number = max(ledger.releases.newest_writer(), gateway.newest_writer(settings)) + 1
        ledger.releases.claim(number, actor)
        gateway.claim(settings, number)
        yield Writer(settings, ledger, number, actor)
        keep_head(settings, ledger.audit.events())


def controlling(ledger: Ledger) -> AbstractContextManager[None]:
    """Held by the process that takes a release through its steps, for as long as it lives. Raises
    `UsageError` when another process has it."""
    release = ledger.releases.under_way()
    run = f"run {release.intent.candidate.run}" if release else "a run"
    taken = UsageError(
        f"{run} is being promoted by another process; wait for its end, or end it by `assay "
        "rollback`"
    )
    return ledger.lock(_CONTROLLER, wait_s=0.0, taken=taken)


def controls(ledger: Ledger) -> bool:
    """Whether a process is taking a release through its steps."""
    return ledger.is_locked(_CONTROLLER)


def reconcile(
    writer: Writer, *, say: Callable[[str], None], in_control: bool = False
) -> Release | None:
    """Brings ledger and gateway together: a release that its controller has left is taken back, and
    the weights are those of the champion. Returns the release whose controller still lives, if
    there is one.

    Raises `IntegrityError` when the ledger is not the one of this gateway, or says what nobody has
    done.
    """
    ledger = writer.ledger
    writer.verify()
    release = ledger.releases.under_way()
    if release is not None:
        if not in_control and controls(ledger):
            return release
        writer.take_back(release, "its controller ended before it did")
        say(
            f"the promotion of {release.intent.candidate.run} was left unfinished, and has been "
            "taken back"
        )
    settle(writer, say=say)
    return None


def settle(writer: Writer, *, say: Callable[[str], None]) -> None:
    """Makes the gateway's weights those of the champion, while no release is under way."""
    ledger, settings = writer.ledger, writer.settings
    champion = ledger.champion()
    # An empty ledger beside a gateway with traffic is more likely the wrong one than a new one.
    if champion is None and not ledger.traffic() and any(gateway.get_weights(settings).values()):
        raise IntegrityError(
            "the gateway sends traffic, but this ledger has never given any: is ASSAY_LEDGER_URL "
            "the right one? To start anew, stop the gateway and remove "
            f"{supervisor.weights_file(settings)}"
        )
    weights = writer.weights_of(champion)
    # Who had the traffic before may still be answering what was asked then.
    if writer.give(weights, champion, former_champion(ledger.traffic())):
        who = champion.run if champion and any(weights.values()) else "nobody"
        say(f"the gateway's weights were not the ledger's; {who} has the traffic")


def digests_of(*champions: Champion | None) -> set[str]:
    """The artifacts of those that there are."""
    return {one.artifact_digest for one in champions if one is not None}


def weights_of(champion: Champion | None) -> dict[str, int]:
    """All traffic to the champion's slot; none where there is no champion."""
    return {slot: MAX_WEIGHT if champion and champion.slot == slot else 0 for slot in SLOTS}


def shared_weights(candidate: Champion, former: Champion | None, share: float) -> dict[str, int]:
    """A candidate's share of the traffic, and the former champion's rest; where there is none, all
    is the candidate's."""
    # HAProxy takes whole weights, and 0 would be no traffic at all.
    weight = max(1, round(share * MAX_WEIGHT))
    weights = weights_of(candidate)
    if share < 1.0 and former is not None and former.slot != candidate.slot:
        weights = {**weights, candidate.slot: weight, former.slot: MAX_WEIGHT - weight}
    return weights


def _busy(ledger: Ledger) -> PlaceError:
    holder = ledger.releases.last_holder()
    who = ""
    if holder:
        who = f"; process {holder.process} of {holder.os_user} on {holder.host} was the last"
    return PlaceError(
        f"another process has been changing releases for {WAIT_S:.0f} s{who}; end it, or try again"
    )
