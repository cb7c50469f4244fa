"""How production came back after what served it was lost."""

from typing import Any, Literal

from assay.records.record import Record
from assay.records.releases.release import Champion

RestorationState = Literal["begun", "done", "failed"]


class EngineIdentity(Record):
    """What a model was evaluated on, besides its bytes: an engine that is started again must be the
    same in all of it."""

    settings: dict[str, Any]
    """The spec's `serve.engine`."""
    build: tuple[str, ...]
    """Name and version of the engine and of what it stands on."""
    on_gpu: bool


class Restoration(Record):
    """One deployment of a champion anew. Until it is done, the champion has no traffic."""

    state: RestorationState
    champion: Champion
    release: str = ""
    """Digest of the receipt that allows it; empty where none was found."""
    deployed_at: float | None = None
    """When Serve deployed it, in seconds since the epoch; None before it is done."""
    replicas: tuple[str, ...] = ()
    """Ids of the engine replicas that said which bytes they have loaded."""
    note: str = ""
    """Why it failed."""
