"""A Ray cluster: connecting, what it has, and running one function in a fresh worker."""

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from assay.engines.cluster.autoscaler import KINDS, largest_memory, may_add
from assay.engines.cluster.passed_on import passed_on
from assay.errors import AssayError, PlaceError, StageFailed
from assay.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DS_LOG_LEVEL": "error",
    # Trials are stopped without leaving their workers' placement groups behind.
    "RAY_TRAIN_V2_ENABLED": "1",
}

HEAD = "node:__internal_head__"
"""A resource that the head alone has."""

# Another worker, with its imports, is worth while once there is so much more to do.
CALLS_PER_WORKER = 4


@dataclass(frozen=True)
class ClusterSize:
    """Processors, accelerators and machines."""

    cpus: float
    gpus: float
    nodes: int


@dataclass(frozen=True)
class Room:
    """What a task asks of the one node that it is placed on, besides a processor."""

    memory_bytes: int
    num_gpus: float = 0.0


def connect(address: str) -> None:
    """Connects this process to the cluster at `address`; once is enough.
    Raises `PlaceError` when nobody answers there or the token is refused."""
    # Else Ray hides all GPUs from tasks that ask for none, and says on standard error that this
    # will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(
            address=address or "auto",
            # Named actors of one run are found by the next; without a namespace Ray makes one for
            # each driver.
            namespace="assay",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKER_ENV | passed_on() | _where_secrets_are()},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PlaceError(
            f"no Ray cluster answers at {address or 'this machine'}: {str(error).splitlines()[0]}. "
            "`assay up` starts a local one; ASSAY_RAY_ADDRESS names another"
        ) from error


def _where_secrets_are() -> dict[str, str]:
    """Where a worker finds the place's secrets on its own node; not what they are."""
    return {"ASSAY_SECRETS": str(Settings().secrets)}


def disconnect() -> None:
    """Ends this process's tasks and actors; deployments stay."""
    import ray

    ray.shutdown()


def size() -> ClusterSize:
    """What the cluster has in all, busy or not, with what its autoscaler may add."""
    import ray

    now = ray.cluster_resources()
    alive = [node for node in ray.nodes() if node["Alive"]]
    # Nodes that an autoscaler has started are in what is there now already; the head alone is not
    # its own.
    head: dict[str, float] = {}
    for node in alive:
        if HEAD in node["Resources"]:
            head = node["Resources"]
            break
    added = may_add(Settings().autoscaler_config)
    cpus, gpus = (max(now.get(kind, 0.0), head.get(kind, 0.0) + added[kind]) for kind in KINDS)
    return ClusterSize(cpus, gpus, len(alive))


def free() -> ClusterSize:
    """What of it nobody holds now, such as the engines of a serving model."""
    import ray

    whole, now, unused = size(), ray.cluster_resources(), ray.available_resources()
    cpus, gpus = (now.get(kind, 0.0) - unused.get(kind, 0.0) for kind in ("CPU", "GPU"))
    return ClusterSize(whole.cpus - cpus, whole.gpus - gpus, whole.nodes)


def node_ip() -> str:
    """Address of this process's node."""
    import ray

    return str(ray.util.get_node_ip_address())


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `function` in a Ray worker of its own, on this process's node, and returns what it
    returns; the worker's memory is given back afterwards. An `AssayError` comes back as itself;
    anything else becomes `StageFailed`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The files that it is given may be on this node alone; soft, for the node may be full.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote = _once(function, num_cpus=1, scheduling_strategy=here)
    return _awaited(remote.remote(*args, **kwargs), function)


def call_in(room: Room, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same on whatever node has this room and keeps it for the call; files are found there as
    `ASSAY_HOME` is. A node that an autoscaler could add is waited for, and what others hold is, for
    `ASSAY_WAIT_LIMIT` seconds; then `StageFailed` is raised. Who asks for more memory than any node
    has gets all of the largest one's: what Ray has on offer is less than what a node has."""
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    wanted = {"CPU": 1.0, "memory": min(float(room.memory_bytes), _largest_memory())}
    if room.num_gpus:
        wanted["GPU"] = room.num_gpus
    wanted = {kind: amount for kind, amount in wanted.items() if amount}
    wait_s = Settings().wait_limit_s
    # A task that waits for its node looks like one that runs; a placement group says which it is.
    group = placement_group([wanted])
    try:
        if not group.wait(timeout_seconds=wait_s):
            raise StageFailed(_no_room(function.__name__, wanted, wait_s))
        there = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        asked = {"num_cpus": 1, "num_gpus": room.num_gpus, "memory": wanted.get("memory", 0)}
        remote = _once(function, scheduling_strategy=there, **asked)
        return _awaited(remote.remote(*args, **kwargs), function)
    finally:
        remove_placement_group(group)


def _largest_memory() -> float:
    """The most memory that Ray has on offer on one node, up or not, in bytes; 0 where none says."""
    import ray

    offered = [node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return max([largest_memory(Settings().autoscaler_config), *map(float, offered)])


def _no_room(name: str, wanted: dict[str, float], wait_s: float) -> str:
    import ray

    said = (
        f"{name} wants {wanted['CPU']:g} CPU, {wanted.get('memory', 0) / 2**30:.1f} GiB of memory"
    )
    if "GPU" in wanted:
        said += f" and {wanted['GPU']:g} GPU"
    free = ray.available_resources()
    return (
        f"{said} on one node, and none gave that back in {wait_s:.0f} s (ASSAY_WAIT_LIMIT). "
        f"Free on all nodes together: {free.get('CPU', 0):g} CPUs, "
        f"{free.get('memory', 0) / 2**30:.1f} GiB and {free.get('GPU', 0):g} GPUs. "
        "`assay status` says what is served, `assay free RUN` "
        "gives back a candidate"
    )


def _once(function: Callable[..., Any], **options: Any) -> Any:
    """A remote function whose worker ends after one call and gives its memory back; it is never
    retried, for what it does may leave files."""
    import ray

    return ray.remote(max_retries=0, max_calls=1, **options)(function)


def _awaited(task: Any, function: Callable[..., T]) -> T:
    import ray

    try:
        return _returned(task, function)
    except KeyboardInterrupt:
        # Without force Ray raises KeyboardInterrupt inside, which libraries in C++ do not see.
        ray.cancel(task, force=True)
        raise


def call_here(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same without a cluster: in a process of its own on this machine, which ends with the
    call."""
    # A fork would inherit threads and locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_set_environment) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except (AssayError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise StageFailed(
                f"{function.__name__} failed: {type(error).__name__}: {error}"
            ) from error


def _set_environment() -> None:
    os.environ.update(WORKER_ENV)


def map_in_order(function: Callable[P, T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """What `function` returns for each tuple of arguments, in their order, from Ray workers: one
    for a few calls, and more as more come, as long as the cluster has free processors. No more of
    `calls` is taken than is worked on. Errors come as those of `call`; the workers end with the
    iteration."""
    import ray

    # ray.util.ActorPool starts all of its actors at once, and takes all of `calls` before it waits.
    starter = ray.remote(num_cpus=1, max_restarts=0)(_Caller)
    workers: list[Any] = []
    waiting: deque[Any] = deque()
    try:
        for number, arguments in enumerate(calls):
            wanted = min(1 + number // CALLS_PER_WORKER, os.cpu_count() or 1)
            if not workers or (
                len(workers) < wanted and ray.available_resources().get("CPU", 0) >= 1
            ):
                workers.append(starter.remote(function))
            if len(waiting) >= 2 * len(workers):
                yield _returned(waiting.popleft(), function)
            waiting.append(workers[number % len(workers)].call.remote(*arguments))
        while waiting:
            yield _returned(waiting.popleft(), function)
    finally:
        for worker in workers:
            ray.kill(worker)


class _Caller:
    """A Ray worker that calls one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def call(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _returned(task: Any, function: Callable[..., T]) -> T:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)  # type: ignore[no-any-return]
    except RayTaskError as error:
        # Ray wraps an error of a worker in one of its own.
        if isinstance(error.cause, AssayError):
            raise error.cause from error
        raise StageFailed(
            f"{function.__name__} failed: {type(error.cause).__name__}: {error.cause}"
        ) from error
    except RayError as error:
        raise StageFailed(f"{function.__name__} failed: {error}") from error
