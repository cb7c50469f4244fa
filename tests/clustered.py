"""`python clustered.py FOLDER`: a Ray head and a worker node with more memory, both processes on this
machine; where a task that asks for memory is placed, what is said when nobody gives it back and when its node is
killed, and
what another node tells of an engine's memory; one line of JSON. In a process of its own, because
Ray reads its token once in a process."""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from assay.engines.cluster import tasks
from assay.engines.evaluation.service import engine_memory
from assay.errors import StageFailed

GIB = 2**30


def main() -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "ASSAY_HOME": sys.argv[1], "ASSAY_WAIT_LIMIT": "60"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "memory": GIB, "include_dashboard": False},
    )
    large = cluster.add_node(num_cpus=2, memory=4 * GIB)
    try:
        tasks.connect(cluster.address)
        told = watched(large.node_id) | lost(cluster, large)
        print(json.dumps(told))
    finally:
        tasks.disconnect()
        cluster.shutdown()


def watched(large: str) -> dict[str, object]:
    """What is seen."""
    import ray

    told: dict[str, object] = {}
    told["placed"] = tasks.call_in(tasks.Room(3 * GIB), node_of_this) == large
    # More than any node has: all of the largest one's.
    told["all_of_it"] = tasks.call_in(tasks.Room(900 * GIB), node_of_this) == large
    end = time.monotonic() + 60
    while ray.available_resources()["memory"] < 5 * GIB and time.monotonic() < end:
        time.sleep(0.1)  # Ray tells of it a moment later
    told["given_back"] = ray.available_resources()["memory"] == 5 * GIB
    holder = ray.remote(num_cpus=0, memory=2 * GIB)(Holder).remote()
    ray.get(holder.node.remote())
    os.environ["ASSAY_WAIT_LIMIT"] = "1"
    try:
        tasks.call_in(tasks.Room(3 * GIB), node_of_this)
    except StageFailed as error:
        told["refused"] = str(error)
    ray.kill(holder)
    told["pending"] = len(
        [one for one in ray.util.placement_group_table().values() if one["state"] != "REMOVED"]
    )
    with engine_memory.watching_elsewhere([(tasks.node_ip(), os.getpid())], on_gpu=False) as seen:
        pass
    told["memory"] = seen()
    with engine_memory.watching_elsewhere([("10.255.255.1", 1)], on_gpu=False) as seen:
        pass
    told["unknown"] = seen()
    return told


def lost(cluster: Any, large: Any) -> dict[str, object]:
    """What a task says whose node is killed in the middle, and whether another node takes its place."""
    begun, told = Path(sys.argv[1]) / "begun", {}
    os.environ["ASSAY_WAIT_LIMIT"] = "60"

    def kill() -> None:
        while not begun.exists():
            time.sleep(0.1)
        cluster.remove_node(large, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        tasks.call_in(tasks.Room(2 * GIB), work_for_ever, begun)
    except StageFailed as error:
        told["lost"] = str(error)
    killer.join()
    another = cluster.add_node(num_cpus=2, memory=4 * GIB)
    told["again"] = tasks.call_in(tasks.Room(2 * GIB), node_of_this) == another.node_id
    return told


def work_for_ever(begun: Path) -> None:
    begun.touch()
    while True:
        time.sleep(1.0)


class Holder:
    """Work that holds memory."""

    def node(self) -> str:
        return node_of_this()


def node_of_this() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


if __name__ == "__main__":
    main()
