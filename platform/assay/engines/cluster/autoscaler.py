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
    workers, at_once = _workers(config_file)
    return {kind: _most(kind, workers, at_once) for kind in KINDS}


def largest_memory(config_file: Path) -> float:
    """Bytes that Ray's largest worker has on offer, as the provider has found out; 0 where that is
    not known."""
    if not config_file.exists():
        return 0.0
    workers = _workers(config_file)[0]
    return max((float(said.get("memory", 0)) for said, _ in workers), default=0.0)


def _workers(config_file: Path) -> tuple[list[tuple[dict[str, Any], int]], int]:
    """(what each type of worker brings, how many of it there may be), and how many of all."""
    try:
        config = yaml.safe_load(config_file.read_text())
        types = dict(config["available_node_types"])
        types.pop(str(config["head_node_type"]))
        at_once = int(config.get("max_workers", 2))  # Ray's default
        workers = []
        for one in types.values():
            said = dict(one.get("resources") or {})
            workers.append((said, int(one.get("max_workers", at_once))))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlaceError(
            f"{config_file} is no configuration of a Ray cluster ({type(error).__name__}: "
            f"{error}); "
            "ASSAY_AUTOSCALER_CONFIG names the file that `ray up` was given, or its copy on the "
            "head"
        ) from error
    return workers, at_once


def _most(kind: str, workers: Sequence[tuple[dict[str, Any], int]], at_once: int) -> float:
    """Of one kind, when the nodes that bring most of it are taken first."""
    brought = [(float(resources.get(kind, 0)), count) for resources, count in workers]
    total, left = 0.0, at_once
    for amount, count in sorted(brought, reverse=True):
        taken = min(count, left)
        total, left = total + taken * amount, left - taken
    return total
