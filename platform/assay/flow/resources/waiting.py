"""Waiting until the cluster has room, and saying who holds what is waited for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from assay.engines.cluster import tasks
from assay.errors import StageFailed, Unreachable
from assay.flow.resources.holdings import holdings, words
from assay.settings import Settings
from assay.store.ledger import Ledger

POLL_S = 1.0


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
) -> None:
    """Returns when the cluster has so much free, with what its autoscaler may add. Raises
    `StageFailed` after `ASSAY_WAIT_LIMIT`, with who holds it and what to do."""
    end = time.monotonic() + settings.wait_limit_s
    said = ""
    while True:
        now = (free or tasks.free)()
        if now.cpus >= room.cpus and now.gpus >= room.gpus:
            return
        lacking = f"{room}; {now.cpus:g} CPUs and {now.gpus:g} GPUs are free. Held by "
        lacking += _holders(settings)
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


def _holders(settings: Settings) -> str:
    try:
        return words(holdings(settings, Ledger(settings.ledger_url)))
    except Unreachable:
        return "what cannot be asked now: Ray's dashboard does not answer"
