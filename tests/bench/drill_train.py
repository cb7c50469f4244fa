"""`make drill-train`: a training run is killed at random moments, and its checkpoints are damaged.

A tiny model is trained on a Ray head of its own, over and over, with the same seed. A kill strikes
a worker, all workers, the driver (which is then started again, as one would) or the whole head
(which is, too). Every run must end with the very bytes of an undisturbed one, and never lose more
than one checkpoint interval.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import met, own_place, ray_workers

from assay.engines.checkpoints import files
from assay.engines.cluster import local_head, tasks
from assay.engines.data import tokenize
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord, TrainingRecord
from assay.settings import Settings
from assay.spec.train import TrainSpec
from assay.stages import train
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore

KINDS = ("worker", "all workers", "driver", "head")
INTERVAL = 5
TRAIN = TrainSpec.model_validate(
    {
        "method": {"lora": {"r": 4, "dropout": 0.1}},
        "learning_rate": 1e-2,
        "global_batch_size": 8,
        "max_steps": 120,
        "precision": "fp32",
        "num_workers": 2,
        "checkpoint": {"every_steps": INTERVAL},
    }
)
STOP_BAR_S = 10.0
DATASET = "dataset.json"
START_WINDOW_S, STEPS_WINDOW_S = 12.0, 3.0
"""One kill in four comes within so many seconds of a start or restart, the others of its first
optimizer step."""


@dataclass
class Run:
    """One training run, from its first start to its end."""

    name: str
    kills: list[str] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)
    digest: str = ""


def main() -> None:
    options = _options()
    if options.drive:
        _drive(Path(options.drive))
        return
    draws = random.Random(options.seed)
    with own_place() as settings:
        _make_given(settings)
        local_head.start(settings)
        try:
            found, of = _corruptions(settings, draws, options.corruptions)
            runs = list(_kills(settings, draws, options.kills)) if options.kills else []
        finally:
            local_head.stop(settings)
    _report(runs, found, of)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how many (20)")
    parser.add_argument("--corruptions", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (0)")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    return parser.parse_args()


def _drive(folder: Path) -> None:
    """The driver's process: what `assay run` does at its stage `train`."""
    settings = Settings(home=folder.parents[1], ray_port=int(os.environ["ASSAY_RAY_PORT"]))
    given = json.loads((settings.home / DATASET).read_text())
    tasks.connect(settings.cluster_address)
    inputs = train.Inputs(
        train=TRAIN,
        model=ModelRecord.model_validate(given["model"]),
        data=DatasetRecord.model_validate(given["data"]),
    )
    record = train.run(inputs, Work(settings, folder, folder / "progress.jsonl", settings.home))
    (folder / "record.json").write_text(record.model_dump_json())


def _make_given(settings: Settings) -> None:
    """The model and the data, in the place's store."""
    code = "import sys, drill_train; drill_train.make_given(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(settings.home)],
        cwd=Path(__file__).parent,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def make_given(home: str) -> None:
    """Makes the model and the data, in a process of their own: it imports torch."""
    from tiny import KNOWN, THINGS, YES, make_model

    folder, store = Path(home) / "given", ArtifactStore(Path(home) / "artifacts")
    make_model(folder / "model")
    (folder / "data").mkdir()
    chats = [
        [{"role": "user", "content": KNOWN.format(thing)}, {"role": "assistant", "content": YES}]
        for thing in THINGS
    ]
    counts = tokenize.write_split(
        folder / "model", chats, folder / "data" / "train.safetensors", max_length=64
    )
    split = SplitRecord(
        file="train.safetensors",
        digest="train",
        num_examples=counts.num_examples,
        num_tokens=counts.num_tokens,
        num_completion_tokens=counts.num_completion_tokens,
    )
    none = split.model_copy(update={"file": "", "num_examples": 0})
    model = ModelRecord(
        artifact=store.put(folder / "model", "model"),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=2,
        context_length=256,
    )
    data = DatasetRecord(
        artifact=store.put(folder / "data", "dataset"),
        train=split,
        selection=none,
        gate=None,
        num_dropped_too_long=0,
        num_dropped_duplicates=0,
    )
    given = {"model": model.model_dump(), "data": data.model_dump()}
    (Path(home) / DATASET).write_text(json.dumps(given))


def _kills(settings: Settings, draws: random.Random, num_kills: int) -> Iterator[Run]:
    """An undisturbed run, then as many as it takes for all kills."""
    yield _run(settings, Run("undisturbed"), [], draws)
    kinds = [KINDS[number % len(KINDS)] for number in range(num_kills)]
    draws.shuffle(kinds)
    number = 0
    while kinds:
        number += 1
        yield _run(settings, Run(f"run {number}"), kinds, draws)


def _run(settings: Settings, run: Run, kinds: list[str], draws: random.Random) -> Run:
    """Trains to the end, and takes kills off `kinds` on the way."""
    folder = settings.home / "runs" / run.name.replace(" ", "-")
    folder.mkdir(parents=True)
    driver = _start_driver(settings, folder)
    while True:
        _wait_for_a_moment(folder, driver, draws if kinds else None)
        if driver.poll() is not None and (folder / "record.json").exists():
            break
        if driver.poll() is not None:
            sys.exit(
                f"{run.name} failed after "
                f"{run.kills}:\n{(folder / 'driver.log').read_text()[-3000:]}"
            )
        reached, victims = _steps(folder)[-1:], ray_workers(settings)
        if kinds[0] in ("worker", "all workers") and not victims:
            continue  # nobody there yet
        kind = kinds.pop(0)
        run.kills.append(kind)
        if kind in ("worker", "all workers"):
            for victim in (
                victims if kind == "all workers" else draws.sample(victims, min(1, len(victims)))
            ):
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
            _wait_until_it_goes_on(folder, driver, reached)
        else:
            driver.kill()
            driver.wait()
            if kind == "head":
                _kill_head(settings)
                local_head.start(settings)
            driver = _start_driver(settings, folder)
            _wait_until_it_goes_on(folder, driver, reached)
        print(f"{run.name}: killed {kind} at step {reached[0] if reached else 0}", flush=True)
    record = TrainingRecord.model_validate_json((folder / "record.json").read_text())
    run.digest = record.artifact.digest
    run.lost_steps = _lost(folder)
    print(
        f"{run.name}: ended after {len(run.kills)} kills, steps lost {run.lost_steps}", flush=True
    )
    return run


def _wait_for_a_moment(
    folder: Path, driver: "subprocess.Popen[bytes]", draws: random.Random | None
) -> None:
    """Until a random moment, or the driver's end; without `draws` until the end."""
    num_steps = len(_steps(folder))
    moment: float | None = None
    if draws and draws.random() < 0.25:
        moment = time.monotonic() + draws.uniform(0, START_WINDOW_S)
    while driver.poll() is None and (moment is None or time.monotonic() < moment):
        if draws and moment is None and len(_steps(folder)) > num_steps:
            moment = time.monotonic() + draws.uniform(0, STEPS_WINDOW_S)
        time.sleep(0.05)


def _start_driver(settings: Settings, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "ASSAY_RAY_PORT": str(settings.ray_port),
        "ASSAY_HOME": str(settings.home),
    }
    with (folder / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "--drive", str(folder)],
            stdout=log,
            stderr=log,
            env=environment,
        )


def _kill_head(settings: Settings) -> None:
    """SIGKILL for the head and everything on it, as when the machine goes down."""
    family = local_head._marked(settings)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=10)
    local_head.stop(settings)


def _wait_until_it_goes_on(
    folder: Path, driver: "subprocess.Popen[bytes]", reached: list[int]
) -> None:
    """Until the next attempt has begun: two kills at once would be one."""
    lines = len(_lines(folder))
    end = time.monotonic() + 60
    while driver.poll() is None and time.monotonic() < end and len(_lines(folder)) <= lines:
        time.sleep(0.1)


def _lines(folder: Path) -> list[dict[str, object]]:
    with suppress(OSError):
        return [
            json.loads(line)
            for line in (folder / "progress.jsonl").read_text().splitlines()
            if line.endswith("}")
        ]
    return []


def _steps(folder: Path) -> list[int]:
    return [int(str(line["step"])) for line in _lines(folder) if line["num_steps"]]


def _lost(folder: Path) -> list[int]:
    """For each time that steps were done again: how many."""
    steps = _steps(folder)
    return [before - after + 1 for before, after in pairwise(steps) if after <= before]


def _corruptions(settings: Settings, draws: random.Random, num: int) -> tuple[int, int]:
    """Damages the newest of two real checkpoints; counts how often that was found and the other one
    used."""
    folder = settings.home / "runs" / "corruptions"
    folder.mkdir(parents=True)
    driver = _start_driver(settings, folder)
    root = settings.home / "checkpoints"
    two: list[Path] = []
    while len(two) < 2 and driver.poll() is None:
        two = sorted(root.glob("*/step-*"))[-2:]
        time.sleep(0.01)
    asked_at = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    driver.wait(timeout=60)
    took_s = time.monotonic() - asked_at
    last = sorted(root.glob("*/step-*"))[-1]
    print(
        f"stopped by SIGTERM in {took_s:.1f} s, with {last.name}   "
        f"{met(took_s, STOP_BAR_S, at_most=True)}",
        flush=True,
    )
    job = files.verify(last).job
    found = 0
    for number in range(num):
        trial = settings.home / f"corruption-{number}"
        shutil.copytree(next(root.glob("*/")), trial)
        *_, older, newest = sorted(trial.glob("step-*"))
        what = _damage(newest, ("flip", "truncate", "remove")[number % 3], draws)
        told: list[str] = []
        used = files.newest_valid(trial, job, told.append)
        found += used is not None and used.folder == older and newest.name in " ".join(told)
        print(f"corruption {number + 1}: {what}: {told[0] if told else 'NOT FOUND'}", flush=True)
        shutil.rmtree(trial)
    shutil.rmtree(root)
    return found, num


def _damage(folder: Path, kind: str, draws: random.Random) -> str:
    victim = draws.choice(
        sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    )
    data = victim.read_bytes()
    if kind == "remove":
        victim.unlink()
    elif kind == "truncate":
        victim.write_bytes(data[: draws.randrange(len(data))])
    else:
        settings = draws.randrange(len(data))
        victim.write_bytes(
            data[:settings]
            + bytes([data[settings] ^ (1 << draws.randrange(8))])
            + data[settings + 1 :]
        )
    return f"{kind} {victim.relative_to(folder)}"


def _report(runs: list[Run], found: int, of: int) -> None:
    print(f"corruptions found and the one before used: {found} of {of}")
    if runs:
        undisturbed, *killed = runs
        same = sum(run.digest == undisturbed.digest for run in killed)
        lost = max((steps for run in killed for steps in run.lost_steps), default=0)
        kills = Counter(kind for run in killed for kind in run.kills)
        print(
            f"kills: {sum(kills.values())} "
            f"({', '.join(f'{kind} {n}' for kind, n in sorted(kills.items()))})"
        )
        print(
            f"runs that ended: {len(killed)} of {len(killed)}; with the undisturbed run's bytes: "
            f"{same}"
        )
        print(f"most steps lost: {lost}   {met(lost, INTERVAL, at_most=True)}")
        failed = same < len(killed) or lost > INTERVAL
    summary = {
        "drill": "train",
        "runs": [vars(run) for run in runs],
        "corruptions_found": found,
        "corruptions": of,
    }
    print(json.dumps(summary))
    if found < of or (runs and failed):
        sys.exit(1)


if __name__ == "__main__":
    main()
