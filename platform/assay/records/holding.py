"""What a slot's engine holds of the cluster."""

from typing import Literal

from assay.records.record import Record
from assay.records.stages import Slot

Role = Literal["champion", "former champion", "being promoted", "candidate", "reference", "unknown"]


class Holding(Record):
    """One slot that is not empty."""

    slot: Slot
    run: str
    """Whose deployment it is; empty where the ledger does not know it."""
    role: Role
    cpus: float
    """Of all its replicas, as the other figures."""
    gpus: float
    memory: int
    """Bytes of its weights, one copy a replica."""
    returns: bool = False
    """Whether the next run, or the controller, gives it back: nobody needs it any more."""

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        who = f"{self.run or 'an unknown deployment'} ({self.role}, slot {self.slot})"
        return f"{who}: {self.cpus:g} CPUs{gpus}, {self.memory / 2**30:.1f} GiB of weights"
