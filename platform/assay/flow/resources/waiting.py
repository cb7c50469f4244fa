"""Waiting until the cluster has room, and saying who holds what is waited for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from assay.engines.cluster import tasks
from assay.errors import StageFailed, Unreachable
from assay.flow.resources.giving_back import give_up_the_way_back
from assay.flow.resources.holdings import holdings, words
from assay.records.holding import Holding
from assay.settings import Settings
from assay.store.ledger import Ledger

POLL_S = 1.0
UNKNOWN = "what cannot be asked now: Ray's dashboard does not answer"


@dataclass(frozen=True)
class Room:
    """What one stage wants at once."""

    what: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.what} want {self.cpus:g} CPUs{gpus}"


def wait_for_room(
    room: Room,
    settings: Settings,
    *,
    say: Callable[[str], None],
    free: Callable[[], tasks.ClusterSize] | None = None,
    size: Callable[[], tasks.ClusterSize] | None = None,
) -> None:
    """Returns when the cluster has so much free, with what its autoscaler may add. Where the slots
    leave too little for it, the former champion's is given back. Raises `StageFailed` after
    `ASSAY_WAIT_LIMIT`, with who holds it and what to do; at once, when that is the champion, who
    gives nothing back."""
    end = time.monotonic() + settings.wait_limit_s
    said = ""
    while True:
        now = (free or tasks.free)()
        if now.cpus >= room.cpus and now.gpus >= room.gpus:
            return
        held = _held(settings)
        in_vain = _leaves_too_little(room, (size or tasks.size)(), held or [])
        if in_vain and give_up_the_way_back(settings, say=say):
            continue
        lacking = f"{room}; {now.cpus:g} CPUs and {now.gpus:g} GPUs are free. Held by "
        lacking += UNKNOWN if held is None else words(held)
        if in_vain and {one.role for one in held or []} == {"champion"}:
            raise StageFailed(
                f"{lacking}. The champion gives nothing back while it has the traffic: use a "
                "larger cluster, or fewer workers or replicas, then run the spec again"
            )
        if time.monotonic() > end:
            raise StageFailed(
                f"{lacking}. Nobody gave it back in {settings.wait_limit_s:.0f} s "
                "(ASSAY_WAIT_LIMIT): `assay free RUN` gives back a candidate, or use a larger "
                "cluster, then run the spec again"
            )
        if lacking != said:
            say(f"waiting: {lacking}")
            said = lacking
        time.sleep(POLL_S)


def _held(settings: Settings) -> list[Holding] | None:
    """What the slots hold; None where that cannot be asked now."""
    try:
        return holdings(settings, Ledger(settings.ledger_url))
    except Unreachable:
        return None


def _leaves_too_little(room: Room, size: tasks.ClusterSize, held: list[Holding]) -> bool:
    """Whether what the slots hold is what is lacking, and no other run's work, which ends."""
    if not held:
        return False
    cpus = size.cpus - sum(one.cpus for one in held)
    gpus = size.gpus - sum(one.gpus for one in held)
    return cpus < room.cpus or gpus < room.gpus
