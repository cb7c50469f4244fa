"""`service`: the deployed candidate under load, where its limits on speed, errors and memory are
measured."""

from dataclasses import dataclass

from assay.engines.cluster import tasks
from assay.engines.deployment import ray_serve
from assay.engines.evaluation import load_test
from assay.engines.evaluation.client import Endpoint
from assay.records.gate import ServiceRecord
from assay.records.inputs import StageInputs
from assay.records.stages import DeploymentRecord
from assay.spec.suite.measured import LoadSpec
from assay.stages.context import Work

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a measurement under load depends on."""

    deployment: DeploymentRecord
    load: LoadSpec
    gpus_a_replica: int = 1


Output = ServiceRecord


def run(inputs: Inputs, work: Work, *, api: ray_serve.ServeApi) -> ServiceRecord:
    """Loads the candidate in its slot, from a process of its own, and keeps what was measured as
    evidence."""
    wanted, deployment, gpus_a_replica = inputs.load, inputs.deployment, inputs.gpus_a_replica
    work.say(
        f"{wanted.num_requests} requests, {wanted.num_concurrent} at a time, to slot "
        f"{deployment.slot}"
    )
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
