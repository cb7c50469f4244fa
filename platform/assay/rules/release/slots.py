"""Which slot a candidate may be deployed into, and who traffic can go back to."""

from collections.abc import Mapping, Sequence

from assay.errors import StageFailed
from assay.records.releases.release import Champion, Release, Traffic
from assay.records.stages import Slot

TRAFFIC_SLOTS: tuple[Slot, ...] = ("blue", "green")


def idle_slot(
    champion: Champion | None, release: Release | None, weights: Sequence[Mapping[str, int]]
) -> Slot:
    """The first slot that nobody's requests can reach: not the champion's, not of a release under
    way, and without weight in any of `weights` (those in effect, and those that the gateway would
    come up with). Raises `StageFailed` when there is none."""
    taken = {slot for given in weights for slot, weight in given.items() if weight > 0}
    if champion is not None:
        taken.add(champion.slot)
    if release is not None:
        taken.add(release.intent.candidate.slot)
        if release.intent.former is not None:
            taken.add(release.intent.former.slot)
    for slot in TRAFFIC_SLOTS:
        if slot not in taken:
            return slot
    if release is not None:
        raise StageFailed(
            f"both slots are in use: run {release.intent.candidate.run} is being promoted (step "
            f"{release.step} of "
            f"{len(release.intent.steps)}); run the spec again when that has ended, or end it with "
            "`assay rollback`"
        )
    raise StageFailed(
        "both slots have traffic, and the ledger does not say why; `assay up` sets that right"
    )


def former_champion(changes: Sequence[Traffic]) -> Champion | None:
    """Who had the traffic when the champion got it by promotion. What was rolled back since is not
    among them: it was given up."""
    champion = changes[-1].champion if changes else None
    if champion is None:
        return None
    for change in reversed(changes):
        if change.action == "promote" and change.champion == champion:
            return change.former
    return None
