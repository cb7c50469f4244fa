"""`train.worker`: what one training worker has."""

from pydantic import Field

from assay.spec.block import Block


class WorkerResources(Block):
    """What Ray reserves for one training worker."""

    cpus: float = Field(1, gt=0)
    """Logical CPUs of a worker."""

    gpus: float | None = Field(None, ge=0)
    """GPUs of a worker; when not said, 1 where the cluster has GPUs and 0 elsewhere."""

    threads: int | None = Field(None, ge=1)
    """Threads that torch may use in a worker on CPU; when not said, the machine's cores are shared
    by the workers that train at once, those of other trials included."""
