"""`baseline`: the base model answers the same questions, through the same engine, in a slot of its own."""

from collections.abc import Callable

from assay.engines import ray_serve
from assay.records.gate import WeighingRecord
from assay.records.stages import DeploymentRecord

VERSION = 2


def run(
    *,
    deploy: Callable[[], DeploymentRecord],
    weigh: Callable[[DeploymentRecord], WeighingRecord],
    api: ray_serve.ServeApi,
) -> WeighingRecord:
    """Weighs the base model, which `deploy` puts into the slot `reference`, and frees the slot, whatever happens."""
    try:
        return weigh(deploy())
    finally:
        ray_serve.remove(api, "reference")
