"""`baseline`: the base model answers the same questions, through the same engine, in a slot of its own."""

from collections.abc import Callable
from typing import TypeVar

from assay.engines.deployment import ray_serve
from assay.records.stages import DeploymentRecord

VERSION = 2

T = TypeVar("T")


def run(
    *,
    deploy: Callable[[], DeploymentRecord],
    evaluate: Callable[[DeploymentRecord], T],
    api: ray_serve.ServeApi,
) -> T:
    """Evaluates the base model, which `deploy` puts into the slot `reference`, and frees the slot, whatever happens."""
    try:
        return evaluate(deploy())
    finally:
        ray_serve.remove(api, "reference")
