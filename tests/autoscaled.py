"""`python autoscaled.py FOLDER`: a Ray head of two CPUs whose autoscaler may add two nodes of a CPU and a GPU each;
what is foreseen of it, what comes for work, and what is left; one line of JSON. In a process of its own, because Ray
reads its token once in a process."""

import json
import os
import sys
import time
from pathlib import Path

from assay.engines.cluster import local_head, tasks
from assay.engines.workers import ray_train
from assay.settings import Settings
from assay.spec.train import TrainSpec
from servers import free_ports

WAIT_S = 120.0
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # Ray's fake provider calls the head so


def main() -> None:
    folder = Path(sys.argv[1])
    ports = free_ports(4)
    settings = Settings(
        home=folder / "home",
        ray_address="",
        ray_port=ports[0],
        dashboard_port=ports[1],
        serve_port=ports[2],
        gateway_port=ports[3],
        num_cpus=2,
    )
    file = folder / "cluster.yaml"
    file.write_text(json.dumps(config(ports[0])))
    os.environ |= {
        "ASSAY_AUTOSCALER_CONFIG": str(file),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.token_path),
    }
    command = local_head._command
    local_head._command = lambda one: [*command(one), f"--autoscaling-config={file}"]
    try:
        local_head.start(settings)
        tasks.connect(settings.cluster_address)
        print(json.dumps(watched()))
    finally:
        tasks.disconnect()
        local_head.stop(settings)


def config(port: int) -> dict[str, object]:
    """A cluster whose nodes are processes on this machine."""
    from ray.util import get_node_ip_address

    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 100,
        "idle_timeout_minutes": 0.1,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{get_node_ip_address()}:{port}",  # Ray's head is there, whatever it is told
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
            "worker_liveness_check": False,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": 2},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 0,
            },
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
    }


def watched() -> dict[str, object]:
    """What is foreseen, comes and goes."""
    import ray

    told: dict[str, object] = {"before": now()}
    size = tasks.size()
    told["foreseen"] = {"cpus": size.cpus, "gpus": size.gpus}
    told["fits"] = ray_train.workers_that_fit(TrainSpec(num_workers=2), num_gpus_per_worker=1)
    actors = [ray.remote(num_cpus=0, num_gpus=1)(Holder).remote() for _ in range(2)]
    told["worked_on"] = len(set(ray.get([actor.node.remote() for actor in actors], timeout=WAIT_S)))
    for actor in actors:
        ray.kill(actor)
    end = time.monotonic() + WAIT_S
    while now()["gpus"] and time.monotonic() < end:
        time.sleep(0.5)
    told["after"] = now()
    return told


class Holder:
    """Work that holds a GPU."""

    def node(self) -> str:
        return node_of_this()


def node_of_this() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def now() -> dict[str, float]:
    """What is there."""
    import ray

    resources = ray.cluster_resources()
    return {"cpus": resources.get("CPU", 0), "gpus": resources.get("GPU", 0)}


if __name__ == "__main__":
    main()
