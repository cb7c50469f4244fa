"""What the engine's replicas hold of memory while they are under load: on this machine, and by a
Ray actor on each other node."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# How often the engine's memory is looked at.
SAMPLE_S = 0.5
ANSWER_S = 60.0
"""How long a node's watcher has to start, and to tell what it saw."""


@dataclass(frozen=True)
class EngineProcess:
    """Where an engine runs, as far as this machine can look at it."""

    pids: tuple[int, ...]
    """Of the replicas on this machine; their children belong to them. Empty when they are
    elsewhere."""
    on_gpu: bool
    num_engines: int
    """GPUs, or replicas on CPU."""


class Watcher:
    """Looks at the engines of the node that it runs on; a Ray actor."""

    def __init__(self, engine: EngineProcess) -> None:
        self._watch = watching(lambda: memory_of(engine))
        self._seen = self._watch.__enter__()

    def ready(self) -> None:
        """Returns once it looks."""

    def end(self) -> tuple[int, int] | None:
        """What `memory_of` told at the highest."""
        self._watch.__exit__(None, None, None)
        if self._seen.peak is None or self._seen.total is None:
            return None
        return (self._seen.peak, self._seen.total)


@contextmanager
def watching_elsewhere(
    engines: Sequence[tuple[str, int]], *, on_gpu: bool
) -> Iterator[Callable[[], tuple[int, int] | None]]:
    """Looks at engines of other nodes, each given as (IP address of the node, process), until the
    block ends. Then what it yields tells of the node whose memory was fullest; None where one of
    them could not be looked at, for that may have been the fullest one."""
    import ray

    hosts = sorted({host for host, _ in engines})
    found: list[tuple[int, int] | None] = []
    actors = []
    for host in hosts:
        pids = tuple(pid for there, pid in engines if there == host)
        engine = EngineProcess(pids=pids, on_gpu=on_gpu, num_engines=len(pids))
        actors.append(_watcher_on(host, engine))
    started = [actor for actor in actors if actor is not None]
    ray.wait([one.ready.remote() for one in started] or [ray.put(0)], timeout=ANSWER_S)
    try:
        yield lambda: _fullest(found, len(hosts))
    finally:
        found += _ended(started)


def fuller(first: tuple[int, int] | None, second: tuple[int, int] | None) -> tuple[int, int] | None:
    """Whichever holds the larger share of its memory."""
    both = [one for one in (first, second) if one is not None]
    return max(both, key=lambda one: one[0] / one[1], default=None)


def _fullest(found: Sequence[tuple[int, int] | None], wanted: int) -> tuple[int, int] | None:
    fullest = None
    for one in found:
        fullest = fuller(fullest, one)
    if len(found) < wanted or None in found:
        return None
    return fullest


def _ended(watchers: Sequence[Any]) -> list[tuple[int, int] | None]:
    """What each has seen; the watchers are gone then."""
    import ray
    from ray.exceptions import RayError

    found: list[tuple[int, int] | None] = []
    for watcher in watchers:
        try:
            found.append(ray.get(watcher.end.remote(), timeout=ANSWER_S))
        except RayError:
            found.append(None)
        ray.kill(watcher)
    return found


def _watcher_on(host: str, engine: EngineProcess) -> Any:
    """The actor; None where no node that is up has this address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    ids = [node["NodeID"] for node in alive if node["NodeManagerAddress"] == host]
    if not ids:
        return None
    there = NodeAffinitySchedulingStrategy(ids[0], soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=there)(Watcher).remote(engine)


@dataclass
class Watch:
    """The highest use of memory seen so far, and all there is; None for what cannot be known."""

    peak: int | None = None
    total: int | None = None

    def see(self, now: tuple[int, int] | None) -> None:
        """Takes what was read now."""
        if now is not None:
            self.peak, self.total = max(self.peak or 0, now[0]), now[1]


@contextmanager
def watching(memory: Callable[[], tuple[int, int] | None]) -> Iterator[Watch]:
    """Looks at it until the block ends."""
    watch, ended = Watch(), threading.Event()

    def look() -> None:
        watch.see(memory())
        while not ended.wait(SAMPLE_S):
            watch.see(memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join(timeout=10)


def memory_of(engine: EngineProcess) -> tuple[int, int] | None:
    """(bytes held, bytes there are) where the engine runs; None where that is not known."""
    if not engine.pids:
        return None
    if engine.on_gpu:
        return _gpu_memory()
    return _resident_memory(engine.pids)


def _resident_memory(pids: Sequence[int]) -> tuple[int, int] | None:
    """(bytes that the processes and their children hold, bytes of the machine). Shared pages count
    in part."""
    import psutil

    family = set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue
    held = 0
    for process in family:
        try:
            held += process.memory_full_info().pss
        except psutil.Error:
            continue
    if held:
        return (held, psutil.virtual_memory().total)
    return None


def _gpu_memory() -> tuple[int, int] | None:
    """(bytes used, bytes there are) of the GPU that is fullest; None where NVIDIA's tool does not
    tell."""
    command = [
        "nvidia-smi",
        "--query-gpu=memory.used,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout
        rows = []
        for line in said.splitlines():
            if line.strip():
                rows.append([int(part) for part in line.split(",")])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    used, total = max(rows, key=lambda row: row[0] / row[1], default=(0, 0))
    if total:
        return (used << 20, total << 20)
    return None
