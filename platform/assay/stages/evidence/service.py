"""`service`: the deployed candidate under load, where its limits on speed, errors and memory are
measured."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from assay.engines.cluster import tasks
from assay.engines.deployment import ray_serve
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.service import engine_memory, load_test
from assay.errors import PlaceError
from assay.records.gate import ServiceMeasurement, ServiceRecord
from assay.records.inputs import StageInputs
from assay.records.stages import DeploymentRecord
from assay.spec.suite.measured import LoadSpec
from assay.stages.context import Work

VERSION = 3  # engines that autoscaling adds during the load are counted
COUNT_S = 1.0
"""Between two looks at how many engines there are."""


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
    here, gpus = tasks.node_ip(), gpus_a_replica if work.on_gpu else 1
    engine = engine_memory.EngineProcess(
        pids=tuple(pid for node, pid in replicas if node == here),
        on_gpu=work.on_gpu,
        num_engines=max(1, len(replicas)) * gpus,
    )
    elsewhere = [(node, pid) for node, pid in replicas if node != here]
    endpoint = Endpoint(deployment.url, deployment.model_name)
    with (
        counting(lambda: len(ray_serve.engine_pids(api, deployment.slot))) as most,
        engine_memory.watching_elsewhere(elsewhere, on_gpu=work.on_gpu) as seen_elsewhere,
    ):
        measured = tasks.call(load_test.measure, endpoint, wanted, engine)
    if elsewhere:
        measured = _with_memory(measured, seen_elsewhere(), knows_all=not engine.pids)
    # What autoscaling has added in the middle of the load shares its throughput.
    num_engines = max(measured.num_engines, gpus * most())
    measured = measured.model_copy(update={"num_engines": num_engines})
    folder = work.fresh_folder("service")
    (folder / "service.json").write_text(measured.model_dump_json(indent=1))
    return ServiceRecord(
        evidence=work.store.put(folder, "evidence"),
        artifact_digest=deployment.artifact_digest,
        num_requests=measured.num_requests,
        seconds=measured.seconds,
    )


def _with_memory(
    measured: ServiceMeasurement, elsewhere: tuple[int, int] | None, *, knows_all: bool
) -> ServiceMeasurement:
    """With the memory of the fullest node. Where one could not be looked at nothing is known, for
    that may have been the fullest."""
    here = None
    if measured.peak_memory_bytes is not None and measured.memory_bytes is not None:
        here = (measured.peak_memory_bytes, measured.memory_bytes)
    fullest = engine_memory.fuller(here, elsewhere)
    if elsewhere is None or fullest is None or not (knows_all or here):
        return measured.model_copy(update={"peak_memory_bytes": None, "memory_bytes": None})
    return measured.model_copy(update={"peak_memory_bytes": fullest[0], "memory_bytes": fullest[1]})


@contextmanager
def counting(count: Callable[[], int]) -> Iterator[Callable[[], int]]:
    """Counts over and over until the block ends; yields what tells the most that was counted. A
    look that fails is left out: the next one comes in a second."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.is_set():
            with suppress(PlaceError):
                seen.append(count())
            ended.wait(COUNT_S)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: max(seen)
    finally:
        ended.set()
        thread.join(timeout=ray_serve.HTTP_TIMEOUT_S)
