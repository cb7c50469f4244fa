"""Whether a cluster can hold what a stage needs, and the nearest shape that it could hold."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from assay.records.holding import Holding
from assay.records.plan import Cluster, DataPlan, Device, MemoryEstimate, ModelShape, Need, Node
from assay.rules.planning.memory import GIB, PAIRED, serving_memory, worker_memory
from assay.rules.planning.weights import Precision
from assay.rules.planning.workload import training_plan
from assay.spec.compress import GgufType, Scheme
from assay.spec.serve import ServeSpec
from assay.spec.train import TrainSpec

Estimate = Callable[[TrainSpec], MemoryEstimate | None]


class TrainedModel(NamedTuple):
    """What is known of the model that is trained."""

    shape: ModelShape | None
    precision: Callable[[Device], Precision]
    """In which it is trained on a device of this kind."""


def training_need(
    stage: str,
    train: TrainSpec,
    model: TrainedModel,
    *,
    data: DataPlan | None,
    cluster: Cluster | None,
    driver_cpus: float,
) -> Need:
    """What a training run wants; `driver_cpus` is for the process that a sweep's trial runs beside
    its workers."""
    gpus, shape = gpus_of(train, cluster), model.shape
    device: Device = "GPU" if gpus else "CPU"

    def with_tokens(wanted: TrainSpec, tokens: int, loss_tokens: int) -> MemoryEstimate | None:
        if shape is None:
            return None
        return worker_memory(
            wanted,
            shape,
            tokens=tokens,
            loss_tokens=loss_tokens,
            device=device,
            precision=model.precision(device),
        )

    def estimate(wanted: TrainSpec) -> MemoryEstimate | None:
        if data is None:
            return None
        work = training_plan(wanted, data)
        return with_tokens(wanted, work.tokens_per_pass, work.loss_tokens_per_pass)

    cpus, memory = train.worker.cpus, estimate(train)
    longest = train.examples_per_worker * (
        min(data.longest, train.max_length) if data else train.max_length
    )
    # Of a pair both texts are in one pass.
    longest *= 2 if train.objective.name in PAIRED else 1
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
    room = _room(cluster, cpus, gpus, train.num_workers)
    if slots < train.num_workers:
        return _with(
            need, room.device, False, _fewer_workers(train, slots, cluster, gpus, estimate)
        )
    fits = None if memory is None else room.holds(memory)
    return _with(need, room.device, fits, _smaller(train, estimate, room) if fits is False else "")


def serving_need(
    stage: str,
    serve: ServeSpec,
    *,
    shape: ModelShape | None,
    scheme: Scheme | GgufType,
    num_replicas: int,
    cluster: Cluster | None,
) -> Need:
    """What the engine's replicas want: a GPU each for every shard, or a CPU."""
    device: Device = "GPU" if cluster is not None and cluster.gpus > 0 else "CPU"
    gpus, count = float(device == "GPU"), num_replicas * serve.engine.gpus_per_replica
    if shape:
        memory = serving_memory(serve.engine, shape, scheme=scheme, device=device)
    else:
        memory = None
    need = Need(stage=stage, num_workers=count, cpus=1, gpus=gpus, memory=memory)
    if cluster is None:
        return need
    available = _room(cluster, 1, gpus, count).device
    if available is not None and device == "GPU":
        available = int(available * serve.engine.gpu_memory_utilization)
    slots = _slots(cluster, 1, gpus, 0)
    if slots < count:
        return _with(
            need,
            available,
            False,
            f"{count} {device}s are wanted at once, and the cluster has {slots:g}",
        )
    if memory is None or available is None:
        return _with(need, available, None, "")
    if memory.total <= available:
        return _with(need, available, True, "")
    advice = f"a replica needs {_gib(memory.total)} of {_gib(available)}"
    return _with(
        need,
        available,
        False,
        f"{advice}; raise serve.engine.tensor_parallel_size, or quantize further",
    )


def loading_need(stage: str, memory: MemoryEstimate | None, cluster: Cluster | None) -> Need:
    """What merging or quantizing wants: the memory of one node, most of which one process takes."""
    need = Need(stage=stage, num_workers=1, cpus=1, gpus=0, memory=memory)
    if cluster is not None:
        sizes = [node.memory for node in cluster.nodes if node.memory is not None]
    else:
        sizes = []
    available = max(sizes, default=None)
    if memory is None or available is None:
        return _with(need, available, None, "")
    if memory.total <= available:
        return _with(need, available, True, "")
    advice = (
        f"{stage} holds the whole model in a node's memory: {_gib(memory.total)} of "
        f"{_gib(available)}"
    )
    return _with(
        need, available, False, f"{advice}; a node with more memory, or a smaller model, is wanted"
    )


def waiting(need: Need, cluster: Cluster | None, held: Sequence[Holding]) -> Need:
    """The need, with who holds what it would wait for now. What is given back by itself does not
    count, nor the former champion, whose room is given back when it is wanted, nor what its own
    stage takes the place of."""
    if cluster is None or need.fits is False:
        return need
    replaced = {"deploy": "candidate", "baseline": "reference"}.get(need.stage)
    yields = (replaced, "former champion")
    staying = [one for one in held if not one.returns and one.role not in yields]
    cpus = cluster.cpus - sum(one.cpus for one in staying)
    gpus = cluster.gpus - sum(one.gpus for one in staying)
    lacks_cpus = need.num_workers * need.cpus > cpus
    lacks_gpus = need.num_workers * need.gpus > gpus
    if not staying or not (lacks_cpus or lacks_gpus):
        return need
    words = "; ".join(str(one) for one in staying)
    return need.model_copy(
        update={"waits_for": f"{cpus:g} CPUs and {gpus:g} GPUs are free; held by {words}"}
    )


def gpus_of(train: TrainSpec, cluster: Cluster | None) -> float:
    """GPUs of one worker: as the spec says, else one where the cluster has any."""
    if train.worker.gpus is not None:
        return train.worker.gpus
    return float(cluster is not None and cluster.gpus > 0)


class _Room(NamedTuple):
    """Bytes for one process where it would run; None when no node says, or none could hold one."""

    device: int | None
    """Of its GPU, or on a CPU its part of the node's memory, which it shares with as many as the
    node can hold."""
    host: int | None
    """Its part of the node's memory beside a GPU."""

    def holds(self, memory: MemoryEstimate) -> bool | None:
        """Whether there is room; None when that is unknown."""
        if self.device is None:
            return None
        return memory.total <= self.device and (self.host is None or memory.host_total <= self.host)


def _room(cluster: Cluster, cpus: float, gpus: float, num_workers: int) -> _Room:
    """The largest room that a node has."""
    device, host = [], []
    for node in cluster.nodes:
        count = min(num_workers, _on_node(node, cpus, gpus))
        if count < 1:
            continue
        share = None if node.memory is None else node.memory // count
        if not gpus:
            on_device = share
        elif node.gpu_memory is None:
            on_device = None
        else:
            on_device = int(node.gpu_memory * min(1.0, gpus))
        if on_device is not None:
            device.append(on_device)
        if gpus and share is not None:
            host.append(share)
    return _Room(max(device, default=None), max(host, default=None))


def _on_node(node: Node, cpus: float, gpus: float) -> int:
    by_gpu = math.floor(node.gpus / gpus) if gpus else math.inf
    return int(min(math.floor(node.cpus / cpus), by_gpu))


def _slots(cluster: Cluster, cpus: float, gpus: float, driver_cpus: float) -> int:
    """Processes that the cluster holds at once, beside one driver."""
    slots = sum(node.count * _on_node(node, cpus, gpus) for node in cluster.nodes)
    left = math.floor((cluster.cpus - driver_cpus) / cpus)
    return max(0, min(slots, left))


def _with(need: Need, available: int | None, fits: bool | None, advice: str) -> Need:
    return Need.model_validate(
        {**need.model_dump(), "available": available, "fits": fits, "advice": advice}
    )


def _fewer_workers(
    train: TrainSpec, slots: int, cluster: Cluster, gpus: float, estimate: Estimate
) -> str:
    """The most workers that fit and divide the batch, with the memory that each would take."""
    has = f"{cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs"
    wanted = (
        f"{train.num_workers} workers of {train.worker.cpus:g} CPUs and {gpus:g} GPUs are wanted; "
        f"there are {has}"
    )
    for count in range(min(slots, train.num_workers), 0, -1):
        smaller = _changed(train, {"num_workers": count})
        if smaller is None:
            continue
        memory, room = estimate(smaller), _room(cluster, train.worker.cpus, gpus, count)
        fits = None if memory is None else room.holds(memory)
        if memory is None or fits is None or room.device is None:
            return f"{wanted}. num_workers: {count} fits, if the memory does"
        if fits:
            return (
                f"{wanted}. num_workers: {count} fits: {_gib(memory.total)} of {_gib(room.device)} "
                "each"
            )
        return (
            f"{wanted}. There is place for num_workers: {count}, but "
            f"{_smaller(smaller, estimate, room)}"
        )
    return f"{wanted}. Not one worker fits"


def _smaller(train: TrainSpec, estimate: Estimate, room: _Room) -> str:
    """What is short, and the first of the usual changes, alone or together, with which a worker
    fits."""
    now = estimate(train)
    assert now is not None
    assert room.device is not None
    needs = f"a worker needs {_gib(now.total)} of {_gib(room.device)}"
    if room.host is not None and now.host_total > room.host:
        needs += f", and {_gib(now.host_total)} of the node's {_gib(room.host)}"
    for changes in _savings(train):
        smaller = _changed(train, changes)
        memory = estimate(smaller) if smaller else None
        if memory is not None and room.holds(memory):
            now_said = {**train.model_dump(), **train.deepspeed.model_dump()}
            new = ((name, value) for name, value in _flat(changes) if now_said.get(name) != value)
            said = ", ".join(f"{name}: {_yaml(value)}" for name, value in new)
            if memory.host_total:
                host = f", and {_gib(memory.host_total)} of the node's memory"
            else:
                host = ""
            return f"{needs}; with {said} it needs {_gib(memory.total)}{host}"
    return f"{needs}. Larger GPUs, more workers under zero_stage: 3, or a smaller model are wanted"


def _savings(train: TrainSpec) -> Iterator[dict[str, Any]]:
    """Changes that save memory, those that cost the least time first: one alone, then one beside
    the other."""
    single: list[dict[str, Any]] = []
    size = train.examples_per_worker
    while size > 1:
        # The next that divides a worker's share: another one the spec would refuse.
        size //= 2
        while train.examples_per_worker % size:
            size -= 1
        single.append({"micro_batch_size": size})
    single.append({"gradient_checkpointing": True})
    if train.num_workers > 1:
        single.append({"deepspeed": {"zero_stage": 3}})
    single.append(
        {"deepspeed": {"zero_stage": max(1, train.deepspeed.zero_stage), "offload_optimizer": True}}
    )
    single.append(
        {"deepspeed": {"zero_stage": 3, "offload_optimizer": True, "offload_param": True}}
    )
    yield from single
    together: dict[str, Any] = {}
    for change in single:
        deepspeed = {**together.get("deepspeed", {}), **change.get("deepspeed", {})}
        together = {**together, **change, **({"deepspeed": deepspeed} if deepspeed else {})}
        yield together
    gentle = {key: value for key, value in together.items() if key != "deepspeed"}
    for method in ("lora", "qlora"):
        if method != train.method.name and not (method == "lora" and train.method.is_adapter):
            yield {**gentle, "method": method}


def _changed(train: TrainSpec, changes: dict[str, Any]) -> TrainSpec | None:
    """The run with some of its settings changed; None when they do not go together."""
    said = train.model_dump()
    merged = {}
    for name, value in changes.items():
        merged[name] = (
            {**said[name], **value} if name == "deepspeed" and isinstance(value, dict) else value
        )
    try:
        return TrainSpec.model_validate({**said, **merged})
    except ValidationError:
        return None


def _flat(changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a person would change, blocks opened."""
    for name, value in changes.items():
        yield from _flat(value) if isinstance(value, dict) else ((name, value),)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
