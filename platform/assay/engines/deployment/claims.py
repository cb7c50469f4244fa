"""What the applications in the slots claim of the cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.deployment import ray_serve
from assay.records.stages import Slot

SLOTS: tuple[Slot, ...] = ("blue", "green", "reference")


@dataclass(frozen=True)
class Claim:
    """One slot's application, with what its engine replicas take together."""

    slot: Slot
    deployed_at: float
    model_path: str
    cpus: float
    gpus: float
    weights: int
    """Bytes of the model's files, one copy a replica."""


def claims(api: ray_serve.ServeApi) -> list[Claim]:
    """The slots that are not empty. Those that still start count as their fewest replicas. Raises
    `Unreachable` where no cluster answers."""
    there = ray_serve.applications(api)
    return [_claim(slot, there[slot]) for slot in SLOTS if _is_held(there.get(slot))]


def _is_held(details: dict[str, Any] | None) -> bool:
    return bool(details and details.get("deployed_app_config"))


def _claim(slot: Slot, details: dict[str, Any]) -> Claim:
    config = details["deployed_app_config"]["args"]["llm_configs"][0]
    scaling = config.get("deployment_config", {}).get("autoscaling_config", {})
    replicas = max(ray_serve.num_replicas(details), int(scaling.get("min_replicas", 1)))
    bundles = config.get("placement_group_config", {}).get("bundles", [{"CPU": 1}])
    folder = Path(config["model_loading_config"]["model_source"])
    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    cpus = gpus = 0.0
    for bundle in bundles:
        cpus += float(bundle.get("CPU", 0))
        gpus += float(bundle.get("GPU", 0))
    return Claim(
        slot=slot,
        deployed_at=ray_serve.deployed_at(details),
        model_path=str(folder),
        cpus=replicas * cpus,
        gpus=replicas * gpus,
        weights=replicas * size,
    )
