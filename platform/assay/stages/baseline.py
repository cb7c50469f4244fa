"""`baseline`: the base model answers the same questions, through the same engine, in a slot of its own."""

from collections.abc import Callable

from assay.engines import ray_serve
from assay.records.gate import WeighingRecord
from assay.records.stages import DeploymentRecord, ModelRecord
from assay.spec.serve import ServeSpec
from assay.stages.work import Work

VERSION = 1


def run(
    serve: ServeSpec,
    *,
    model_name: str,
    model: ModelRecord,
    deploy: Callable[..., DeploymentRecord],
    weigh: Callable[[DeploymentRecord], WeighingRecord],
    api: ray_serve.ServeApi,
    work: Work,
) -> WeighingRecord:
    """Deploys the base model into the slot `reference`, weighs it and frees the slot, whatever happens."""
    try:
        deployment = deploy("reference", serve, model_name=model_name, model=model, work=work)
        return weigh(deployment)
    finally:
        ray_serve.remove(api, "reference")
