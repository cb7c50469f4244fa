"""How quick the console is: seconds of a page with 1,000 runs in the ledger, each with twelve stages
and a verdict; the whole of it, from the request to the last byte, from the real server.

The first request of each page, which reads its template, is told apart from the median of the rest.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from assay.console import server
from assay.records.gate import GateRecord
from assay.records.stages import ModelRecord
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from evaluations import decide, evaluation, items
from servers import free_ports

REPEATS = 15
BAR_S = 0.2
STAGES = ("fetch", "clean", "prepare", "contamination", "sweep", "train", "merge", "baseline")
SUITE = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}})


def main() -> None:
    """Prints a line for each page; exits 1 when the first page is over its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    num_runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        settings = _place(Path(folder))
        began = time.perf_counter()
        _fill(settings, num_runs)
        print(f"{num_runs} runs written in {time.perf_counter() - began:.0f} s", flush=True)
        server.start(settings)
        try:
            is_over = _measure(settings)
        finally:
            server.stop(settings)
    sys.exit(1 if is_over else 0)


def _place(folder: Path) -> Settings:
    ports = free_ports(3)
    url = f"sqlite:///{folder / 'ledger.db'}"
    return Settings(
        home=folder,
        ledger_url=url,
        console_port=ports[0],
        gateway_port=ports[1],
        serve_port=ports[2],
    )


def _fill(settings: Settings, num_runs: int) -> None:
    ledger, gate, model = Ledger(settings.ledger_url), _verdict(settings), _model(settings)
    for number in range(num_runs):
        run = f"support-bot-{number:032x}"
        ledger.open_run(run, name="support-bot", spec=_spec(), started_by="ben")
        for stage in STAGES:
            ledger.fail_stage(ledger.begin_stage(run, stage, f"{run} {stage}"), "as it were")
            ledger.reuse_stage(run, stage, f"{run} {stage} again")
        records = (("compress", model), ("deploy", model), ("gate", gate))
        for stage, record in records:
            ledger.finish_stage(ledger.begin_stage(run, stage, f"{run} {stage}"), record)
    ledger.close()


def _verdict(settings: Settings) -> GateRecord:
    ours = evaluation("candidate", {"facts": items([1.0] * 270 + [0.0] * 30)})
    base = evaluation("base", {"facts": items([1.0] * 100 + [0.0] * 200)})
    return decide(SUITE, ours, base, settings)


def _model(settings: Settings) -> ModelRecord:
    folder = settings.home / "made"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    return ModelRecord(
        artifact=ArtifactStore(settings.home / "artifacts").put(folder, "model"),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=1,
        context_length=8,
    )


def _spec() -> str:
    said = {
        "version": 1,
        "name": "support-bot",
        "model": "hf:some/model",
        "data": {"train": "train.jsonl"},
        "gate": {"suite": "evals/suite.yaml"},
        "approval": {"reviewers": ["anna"]},
    }
    return Spec.model_validate(said).model_dump_json()


def _measure(settings: Settings) -> bool:
    url, _, key = server.way_in(settings).partition("/login#")
    with httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60) as client:
        answer = client.post("/login", data={"secret": key}, headers={"Origin": url})
        assert answer.status_code == 303, answer.text
        newest = Ledger(settings.ledger_url).overview.runs(limit=1)[0].id
        paths = {
            "first page": "/",
            "last page": "/?at=20",
            "one run": f"/runs/{newest}",
            "traffic": "/traffic",
            "audit": "/audit",
        }
        medians = {name: _page(client, name, path) for name, path in paths.items()}
    pid = int((settings.home / "console" / "pid").read_text())
    print(f"memory of the server: {psutil.Process(pid).memory_info().rss / 1e6:.0f} MB")
    return medians["first page"] > BAR_S


def _page(client: httpx.Client, name: str, path: str) -> float:
    seconds, size = [], 0
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        answer = client.get(path)
        seconds.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
        size = len(answer.content)
    first, rest = seconds[0], sorted(seconds[1:])
    median = statistics.median(rest)
    bar = f"  (at most {1000 * BAR_S:.0f})" if name == "first page" else ""
    print(
        f"{name:<11} {1000 * median:5.0f} ms{bar}, first {1000 * first:5.0f}, longest "
        f"{1000 * rest[-1]:5.0f}, {size / 1000:.0f} kB",
        flush=True,
    )
    return median


if __name__ == "__main__":
    main()
