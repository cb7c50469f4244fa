"""`make bench-prepare`: memory and time of preparing data, by the number of rows. Memory must not
grow with them."""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import met, own_place, running_head

from assay.engines.cluster import local_head, tasks
from assay.records.artifact import Artifact
from assay.records.stages import ModelRecord
from assay.settings import Settings
from assay.spec.data import DataSpec
from assay.spec.train import TrainSpec
from assay.stages import prepare
from assay.stages.context import Work

GROWTH_BAR = 1.25
"""The largest data may take so many times the memory of the smallest."""


def main() -> None:
    options = _options()
    if options.one:
        home, address, num_rows = options.one
        _prepare(Path(home), address, int(num_rows))
        return
    with own_place() as settings, running_head(settings):
        _make_model(settings.home / "model")
        found = [_measured(settings, num_rows) for num_rows in options.rows]
    for one in found:
        print(
            f"{one['rows']:>9,.0f} rows  {one['file_mb']:6.0f} MB  {one['seconds']:6.1f} s   "
            f"peak memory: here {one['here_mb']:.0f} MB, a worker {one['worker_mb']:.0f} MB"
        )
    growth = max(found[-1][name] / found[0][name] for name in ("here_mb", "worker_mb"))
    print(f"growth of memory: {growth:.2f}   {met(growth, GROWTH_BAR, at_most=True)}")
    print(json.dumps({"bench": "prepare", "runs": found, "growth": growth}))
    if growth > GROWTH_BAR:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="100,000 and 1,000,000"
    )
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_model(folder: Path) -> None:
    """In a process of its own: it imports torch."""
    code = "import sys, pathlib, tiny; tiny.make_model(pathlib.Path(sys.argv[1]))"
    tests = Path(__file__).resolve().parents[1]
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=tests, check=True, capture_output=True
    )


def _measured(settings: Settings, num_rows: int) -> dict[str, float]:
    """Prepares so many rows in a process of its own, and watches the workers meanwhile."""
    file = settings.home / "train.jsonl"
    with file.open("w") as lines:
        for number in range(num_rows):
            lines.write(
                json.dumps(
                    {"text": f"Row {number} of a text that nobody wrote. " + "Words, words. " * 3}
                )
                + "\n"
            )
    peak, over = [0.0], threading.Event()
    watch = threading.Thread(target=_watch, args=(settings, peak, over))
    watch.start()
    arguments = ["--one", str(settings.home), settings.cluster_address, str(num_rows)]
    told = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    over.set()
    watch.join()
    file_mb = file.stat().st_size / 1e6
    return {
        "rows": float(num_rows),
        "file_mb": file_mb,
        "worker_mb": peak[0],
        **json.loads(told.splitlines()[-1]),
    }


def _watch(settings: Settings, peak: list[float], over: threading.Event) -> None:
    """The most memory that any tokenizing worker has had."""
    while not over.wait(0.5):
        for process in local_head._marked(settings):
            try:
                if "_Caller" in " ".join(process.cmdline()):
                    peak[0] = max(peak[0], process.memory_info().rss / 1e6)
            except psutil.Error:
                continue


def _prepare(home: Path, address: str, num_rows: int) -> None:
    settings = Settings(home=home)
    folder = home / "runs" / str(num_rows)
    work = Work(settings, folder, folder / "progress.jsonl", home)
    tasks.connect(address)
    model = ModelRecord(
        artifact=Artifact(digest="model", kind="model", path=str(home / "model"), size=1),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=2,
        context_length=256,
    )
    started = time.monotonic()
    inputs = prepare.Inputs(
        data=DataSpec.model_validate({"train": "train.jsonl", "selection": "1%", "gate": None}),
        train=TrainSpec.model_validate({"objective": "pretrain", "max_length": 256}),
        model=model,
    )
    record = prepare.run(inputs, work)
    assert record.train.num_examples + record.selection.num_examples == num_rows
    here_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"seconds": time.monotonic() - started, "here_mb": here_mb}))


if __name__ == "__main__":
    main()
