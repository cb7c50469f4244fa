"""What Ray's autoscaler may still add to a cluster.

Ray itself does not tell: its state has a field for it that only hosted Ray fills (2.60). On the
head of `ray up` lies the file that the autoscaler works by, with what each node type brings filled
in.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from assay.errors import PlaceError

KINDS = ("CPU", "GPU")


def may_add(config_file: Path) -> dict[str, float]:
    """The most CPUs and GPUs that workers can bring, by the cluster configuration in the file; none
    where there is no file. Raises `PlaceError` when it is not such a configuration."""
    if not config_file.exists():
        return dict.fromkeys(KINDS, 0.0)
    try:
        config = yaml.safe_load(config_file.read_text())
        types = dict(config["available_node_types"])
        types.pop(str(config["head_node_type"]))
        at_once = int(config.get("max_workers", 2))  # Ray's default
        workers = []
        for one in types.values():
            workers.append((_resources(one), int(one.get("max_workers", at_once))))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlaceError(
            f"{config_file} is no configuration of a Ray cluster ({type(error).__name__}: "
            f"{error}); "
            "ASSAY_AUTOSCALER_CONFIG names the file that `ray up` was given, or its copy on the "
            "head"
        ) from error
    return {kind: _most(kind, workers, at_once) for kind in KINDS}


def _resources(node_type: dict[str, Any]) -> dict[str, float]:
    said = node_type.get("resources") or {}
    return {kind: float(said.get(kind, 0)) for kind in KINDS}


def _most(kind: str, workers: Sequence[tuple[dict[str, float], int]], at_once: int) -> float:
    """Of one kind, when the nodes that bring most of it are taken first."""
    total, left = 0.0, at_once
    for resources, count in sorted(workers, key=lambda worker: -worker[0][kind]):
        taken = min(count, left)
        total, left = total + taken * resources[kind], left - taken
    return total
