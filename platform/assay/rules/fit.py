"""Whether a cluster can hold what a stage needs, and the nearest shape that it could hold."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from assay.records.plan import Cluster, DataPlan, Device, MemoryEstimate, ModelShape, Need, Node
from assay.rules.memory import GIB, Precision, serving_memory, worker_memory
from assay.rules.workload import training_plan
from assay.spec.compress import Scheme
from assay.spec.serve import ServeSpec
from assay.spec.train import TrainSpec

Estimate = Callable[[TrainSpec], MemoryEstimate | None]


def training_need(
    stage: str,
    train: TrainSpec,
    *,
    shape: ModelShape | None,
    data: DataPlan | None,
    cluster: Cluster | None,
    driver_cpus: float,
    precision: Callable[[Device], Precision],
) -> Need:
    """What a training run wants; `driver_cpus` is for the process that a sweep's trial runs beside its workers."""
    gpus = gpus_of(train, cluster)
    device: Device = "GPU" if gpus else "CPU"

    def with_tokens(wanted: TrainSpec, tokens: int, loss_tokens: int) -> MemoryEstimate | None:
        if shape is None:
            return None
        return worker_memory(
            wanted, shape, tokens=tokens, loss_tokens=loss_tokens, device=device, precision=precision(device)
        )

    def estimate(wanted: TrainSpec) -> MemoryEstimate | None:
        if data is None:
            return None
        work = training_plan(wanted, data)
        return with_tokens(wanted, work.tokens_per_pass, work.loss_tokens_per_pass)

    cpus, memory, longest = train.worker.cpus, estimate(train), train.examples_per_worker * train.max_length
    at_longest = with_tokens(train, longest, longest)
    need = Need(
        stage=stage,
        num_workers=train.num_workers,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        at_longest=at_longest.total if at_longest else None,
    )
    if cluster is None:
        return need
    slots = _slots(cluster, cpus, gpus, driver_cpus)
    available = available_memory(cluster, cpus, gpus, train.num_workers)
    if slots < train.num_workers:
        return _with(need, available, False, _fewer_workers(train, slots, cluster, gpus, estimate))
    short = _is_short(memory, available)
    advice = _smaller(train, estimate, available) if short and memory and available else ""
    return _with(need, available, None if short is None else not short, advice)


def serving_need(
    stage: str,
    serve: ServeSpec,
    *,
    shape: ModelShape | None,
    scheme: Scheme,
    num_replicas: int,
    cluster: Cluster | None,
) -> Need:
    """What the engine's replicas want: a GPU each for every shard, or a CPU."""
    device: Device = "GPU" if cluster is not None and cluster.gpus > 0 else "CPU"
    gpus, count = float(device == "GPU"), num_replicas * serve.engine.tensor_parallel_size
    memory = serving_memory(serve.engine, shape, scheme=scheme, device=device) if shape else None
    need = Need(stage=stage, num_workers=count, cpus=1, gpus=gpus, memory=memory)
    if cluster is None:
        return need
    available = available_memory(cluster, 1, gpus, count)
    if available is not None and device == "GPU":
        available = int(available * serve.engine.gpu_memory_utilization)
    slots = _slots(cluster, 1, gpus, 0)
    if slots < count:
        return _with(need, available, False, f"{count} {device}s are wanted at once, and the cluster has {slots:g}")
    short = _is_short(memory, available)
    if not short or memory is None or available is None:
        return _with(need, available, None if short is None else not short, "")
    advice = f"a replica needs {_gib(memory.total)} of {_gib(available)}"
    return _with(need, available, False, f"{advice}; raise serve.engine.tensor_parallel_size, or quantize further")


def gpus_of(train: TrainSpec, cluster: Cluster | None) -> float:
    """GPUs of one worker: as the spec says, else one where the cluster has any."""
    if train.worker.gpus is not None:
        return train.worker.gpus
    return float(cluster is not None and cluster.gpus > 0)


def available_memory(cluster: Cluster, cpus: float, gpus: float, num_workers: int) -> int | None:
    """Bytes for one process where it would run: of its GPU, or its part of the node's memory when as many processes
    share the node as can. None when no node could hold one, or does not say."""
    nodes = [node for node in cluster.nodes if _on_node(node, cpus, gpus) >= 1]
    found = [_share(node, cpus, gpus, num_workers) for node in nodes]
    known = [size for size in found if size is not None]
    return max(known) if known else None


def _share(node: Node, cpus: float, gpus: float, num_workers: int) -> int | None:
    if gpus:
        return None if node.gpu_memory is None else int(node.gpu_memory * min(1.0, gpus))
    return None if node.memory is None else node.memory // min(num_workers, _on_node(node, cpus, gpus))


def _on_node(node: Node, cpus: float, gpus: float) -> int:
    by_gpu = math.floor(node.gpus / gpus) if gpus else math.inf
    return int(min(math.floor(node.cpus / cpus), by_gpu))


def _slots(cluster: Cluster, cpus: float, gpus: float, driver_cpus: float) -> int:
    """Processes that the cluster holds at once, beside one driver."""
    slots = sum(node.count * _on_node(node, cpus, gpus) for node in cluster.nodes)
    left = math.floor((cluster.cpus - driver_cpus) / cpus)
    return max(0, min(slots, left))


def _is_short(memory: MemoryEstimate | None, available: int | None) -> bool | None:
    return None if memory is None or available is None else memory.total > available


def _with(need: Need, available: int | None, fits: bool | None, advice: str) -> Need:
    return Need.model_validate({**need.model_dump(), "available": available, "fits": fits, "advice": advice})


def _fewer_workers(train: TrainSpec, slots: int, cluster: Cluster, gpus: float, estimate: Estimate) -> str:
    """The most workers that fit and divide the batch, with the memory that each would take."""
    has = f"{cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs"
    wanted = f"{train.num_workers} workers of {train.worker.cpus:g} CPUs and {gpus:g} GPUs are wanted; there are {has}"
    for count in range(min(slots, train.num_workers), 0, -1):
        smaller = _changed(train, {"num_workers": count})
        if smaller is None:
            continue
        memory, available = estimate(smaller), available_memory(cluster, train.worker.cpus, gpus, count)
        if memory is None or available is None:
            return f"{wanted}. num_workers: {count} fits"
        if memory.total <= available:
            return f"{wanted}. num_workers: {count} fits: {_gib(memory.total)} of {_gib(available)} each"
        return f"{wanted}. num_workers: {count} fits; {_smaller(smaller, estimate, available)}"
    return f"{wanted}. Not one worker fits"


def _smaller(train: TrainSpec, estimate: Estimate, available: int) -> str:
    """The first of the usual changes, one after another, with which a worker fits."""
    now = estimate(train)
    needs = f"a worker needs {_gib(now.total)} of {_gib(available)}" if now else ""
    smallest: int | None = now.total if now else None
    for changes in _ladder(train):
        smaller = _changed(train, changes)
        memory = estimate(smaller) if smaller else None
        if memory is None:
            continue
        if memory.total <= available:
            said = ", ".join(f"{name}: {_yaml(value)}" for name, value in _flat(changes))
            return f"{needs}; with {said} it needs {_gib(memory.total)}"
        smallest = min(smallest or memory.total, memory.total)
    return (
        f"{needs}; at its smallest {_gib(smallest)}: take larger GPUs, more workers or a smaller model"
        if smallest
        else needs
    )


def _ladder(train: TrainSpec) -> Iterator[dict[str, Any]]:
    """Changes that save memory, the cheapest in time first, each beside those before it."""
    changes: dict[str, Any] = {}
    size = train.examples_per_worker
    while size > 1:
        size = next(count for count in range(size // 2, 0, -1) if train.examples_per_worker % count == 0)
        changes = {**changes, "micro_batch_size": size}
        yield changes
    if not train.gradient_checkpointing:
        changes = {**changes, "gradient_checkpointing": True}
        yield changes
    zero = train.deepspeed.model_dump()
    for more in ({"zero_stage": 3}, {"offload_optimizer": True}, {"offload_param": True}):
        if more == {"zero_stage": 3} and train.num_workers == 1:
            continue
        if more == {"offload_param": True}:
            more = {"zero_stage": 3, **more}
        zero = {**zero, **more}
        if zero != train.deepspeed.model_dump():
            changes = {**changes, "deepspeed": {**changes.get("deepspeed", {}), **more}}
            yield changes
    for method in ("lora", "qlora"):
        if method != train.method.name and not (method == "lora" and train.method.is_adapter):
            yield {**changes, "method": method}


def _changed(train: TrainSpec, changes: dict[str, Any]) -> TrainSpec | None:
    """The run with some of its settings changed; None when they do not go together."""
    said = train.model_dump()
    merged = {
        name: {**said[name], **value} if name == "deepspeed" and isinstance(value, dict) else value
        for name, value in changes.items()
    }
    try:
        return TrainSpec.model_validate({**said, **merged})
    except ValidationError:
        return None


def _flat(changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in changes.items():
        yield from _flat(value) if isinstance(value, dict) else ((name, value),)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
