"""What a running Ray cluster has, asked over its dashboard's HTTP API: Ray itself is not
imported."""

import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from assay.errors import PlaceError
from assay.records.plan import Cluster, Node

TIMEOUT_S = 2.0
MIB = 2**20


def running_cluster(dashboard_url: str, token: str) -> Cluster | None:
    """The nodes that are alive, equal ones together; None when nobody answers, or not in a form
    that we know. Raises `PlaceError` when the token is refused."""
    request = urllib.request.Request(
        f"{dashboard_url}/nodes?view=summary",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            summaries = json.loads(answer.read())["data"]["summary"]
        nodes = []
        for summary in summaries:
            if summary["raylet"]["state"] == "ALIVE":
                nodes.append(_node(summary))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise PlaceError(f"the cluster at {dashboard_url} refuses the token") from error
        return None
    # The dashboard's API is not promised: an answer of another form is like none.
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not nodes:
        return None
    counted = Counter(nodes)
    kinds = []
    for node, count in counted.items():
        kinds.append(Node(**{**node.model_dump(), "count": count}))
    return Cluster(source=f"the cluster at {dashboard_url}", nodes=tuple(kinds))


def _node(summary: dict[str, Any]) -> Node:
    """One node; its memory and its GPUs' are None until the node has told of them."""
    resources = summary["raylet"].get("resourcesTotal", {})
    gpu_mib = []
    for gpu in summary.get("gpus") or []:
        if gpu.get("memoryTotal"):
            gpu_mib.append(gpu["memoryTotal"])
    memory = summary.get("mem") or [0]
    return Node(
        count=1,
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        # The smallest: a worker may get any of the node's GPUs.
        gpu_memory=min(gpu_mib) * MIB if gpu_mib else None,
        memory=int(memory[0]) or None,
    )


def num_local_gpus() -> int:
    """NVIDIA GPUs of this machine, as their driver lists them."""
    # Not by NVML or torch: `plan` is to stay quick, and neither is installed with the command line.
    folder = Path("/proc/driver/nvidia/gpus")
    if folder.is_dir():
        return len(list(folder.iterdir()))
    return 0
