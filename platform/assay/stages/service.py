"""`service`: the deployed candidate under load, where its limits on speed, errors and memory are measured."""

from assay.engines.cluster import tasks
from assay.engines.deployment import ray_serve
from assay.engines.evaluation import load_test
from assay.engines.evaluation.client import Endpoint
from assay.records.gate import ServiceRecord
from assay.records.stages import DeploymentRecord
from assay.spec.gate import LoadSpec
from assay.stages.context import Work

VERSION = 2


def run(
    wanted: LoadSpec, *, deployment: DeploymentRecord, gpus_a_replica: int, api: ray_serve.ServeApi, work: Work
) -> ServiceRecord:
    """Loads the candidate in its slot, from a process of its own, and keeps what was measured as evidence."""
    work.say(f"{wanted.num_requests} requests, {wanted.num_concurrent} at a time, to slot {deployment.slot}")
    replicas = ray_serve.engine_pids(api, deployment.slot)
    here = tasks.node_ip()
    engine = load_test.EngineProcess(
        pids=tuple(pid for node, pid in replicas if node == here),
        on_gpu=work.on_gpu,
        num_engines=max(1, len(replicas)) * (gpus_a_replica if work.on_gpu else 1),
    )
    endpoint = Endpoint(deployment.url, deployment.model_name)
    measured = tasks.call(load_test.measure, endpoint, wanted, engine)
    folder = work.fresh_folder("service")
    (folder / "service.json").write_text(measured.model_dump_json(indent=1))
    return ServiceRecord(
        evidence=work.store.put(folder, "evidence"),
        artifact_digest=deployment.artifact_digest,
        num_requests=measured.num_requests,
        seconds=measured.seconds,
    )
