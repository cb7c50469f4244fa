"""A cluster described in a file, so that `assay plan` can say what fits on machines that do not run
yet."""

from typing import Annotated

from pydantic import Field

from assay.spec.block import Block


class NodesSpec(Block):
    """Equal nodes. A gigabyte is 2^30 bytes here, as makers of GPUs count."""

    count: int = Field(1, ge=1)
    """How many there are."""

    cpus: float = Field(gt=0)
    """Logical CPUs of each."""

    memory_gb: float = Field(gt=0)
    """Memory of each."""

    gpus: int = Field(0, ge=0)
    """GPUs of each."""

    gpu_memory_gb: float | None = Field(None, gt=0)
    """Memory of each GPU."""


class ClusterSpec(Block):
    """Every node that a run could be given."""

    nodes: Annotated[tuple[NodesSpec, ...], Field(min_length=1)]
    """Groups of equal nodes."""
