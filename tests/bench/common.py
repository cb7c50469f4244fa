"""What the benchmarks share: the demo's model and data, made once, and a Ray head of their own,
always stopped."""

import os
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from assay.engines.cluster import local_head, tasks
from assay.engines.data import tokenize
from assay.engines.data.reading.sources import read_examples
from assay.engines.models import folders
from assay.engines.training.batches import PackedSplit
from assay.loader.load import load_spec
from assay.records.record import digest_of
from assay.settings import Settings
from assay.spec.spec import Spec

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "specs" / "country-facts.yaml"


def demo_spec() -> Spec:
    return load_spec(SPEC, ROOT)


def base_model(spec: Spec) -> Path:
    """The demo's base model as a folder, converted on first use."""
    return made_once(
        f"model-{digest_of(spec.model.model_dump())[:12]}",
        lambda folder: _apart(folders.fetch, spec.model, folder, Path.cwd()),
    )


def train_file(spec: Spec, model: Path, *, most_turns: int = 1) -> Path:
    """The demo's training examples, tokenized: each alone, or put together at random to chats of 1
    to `most_turns`."""
    examples = read_examples(spec.data.train, spec.data.format, spec.data.system, ROOT)
    chats = [
        [{"role": m.role, "content": m.content} for m in example.messages] for example in examples
    ]
    if most_turns > 1:
        chats = list(_put_together(chats, most_turns))
    max_length = spec.train_steps[0].max_length
    name = f"data-{digest_of([chats, str(model), max_length, 2])[:12]}"

    def write(folder: Path) -> None:
        folder.mkdir()
        _apart(_write_split, model, chats, folder / "train.safetensors", max_length)

    return made_once(name, write) / "train.safetensors"


def text_lengths(split: Path) -> list[int]:
    """Tokens of each example of a tokenized split."""
    lengths: list[int] = _apart(_lengths, split)
    return lengths


@contextmanager
def own_place(kept: Path | None = None) -> Iterator[Settings]:
    """A place on free ports, which shares nothing with one that is up: in a temporary folder, or in
    one that is kept."""
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(
        prefix="assay-bench-", ignore_cleanup_errors=True
    ) as temporary:
        folder = str(kept or temporary)
        Path(folder).mkdir(parents=True, exist_ok=True)
        ray_port, dashboard_port, serve_port, gateway_port = free_ports(4)
        settings = Settings(
            home=Path(folder),
            ray_address="",
            ray_port=ray_port,
            dashboard_port=dashboard_port,
            serve_port=serve_port,
            gateway_host="127.0.0.1",
            gateway_port=gateway_port,
            num_cpus=8,
        )
        os.environ.update(
            {
                "RAY_ADDRESS": settings.cluster_address,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(settings.token_path),
                "RAY_TMPDIR": temporary,
            }
        )
        yield settings


@contextmanager
def running_head(settings: Settings) -> Iterator[None]:
    try:
        local_head.start(settings)
        yield
    finally:
        local_head.stop(settings)


def ray_workers(settings: Settings) -> list[psutil.Process]:
    """The training workers, by the name that Ray gives their processes."""
    return [
        process
        for process in local_head._marked(settings)
        if "RayTrainWorker" in " ".join(_cmdline(process))
    ]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def stop_on_sigterm() -> None:
    """SIGTERM ends this process by an exception, so that what was started is stopped. Ray takes the
    signal for itself when a process joins a cluster, so this is called again after that."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def met(value: float, bar: float, *, at_most: bool = False) -> str:
    sign, good = ("<=", value <= bar) if at_most else (">=", value >= bar)
    return f"bar {sign} {bar:g}: {'met' if good else 'MISSED'}"


def made_once(name: str, make: Callable[[Path], Any]) -> Path:
    """The cached folder `name`; a making that was broken off leaves none."""
    folder = Settings().home / "bench" / name
    if not folder.exists():
        draft = folder.with_name(f"{name}.{os.getpid()}")
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _put_together(chats: list[tokenize.Chat], most_turns: int) -> Iterator[tokenize.Chat]:
    """Chats that begin alike, with their system message."""
    draw = random.Random(0)
    draw.shuffle(chats)
    while chats:
        first, *others = [chats.pop() for _ in range(min(draw.randint(1, most_turns), len(chats)))]
        yield first + [message for chat in others for message in chat[1:]]


def _write_split(model: Path, chats: list[tokenize.Chat], file: Path, max_length: int) -> None:
    tokenize.write_split(model, chats, file, max_length=max_length)


def _lengths(split: Path) -> list[int]:
    lengths: list[int] = PackedSplit.load(str(split)).offsets.diff().tolist()
    return lengths


def _apart(function: Callable[..., Any], *args: Any) -> Any:
    """Calls in a process of its own, so that torch does not stay in this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quieten) as pool:
        return pool.submit(function, *args).result()


def _quieten() -> None:
    os.environ.update(tasks.WORKER_ENV)
