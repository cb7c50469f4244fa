"""How quick the console is: seconds of a page with 1,000 runs in the ledger, each with eleven stages
and a verdict; the whole of it, from the request to the last byte, from the real server.

The first request of each page, which reads its template, is told apart from the median of the rest.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sql

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from assay.console import server
from assay.records.gate import GateRecord
from assay.records.stages import ModelRecord
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from assay.store.schema import tables
from evaluations import decide, evaluation, items
from servers import free_ports

REPEATS = 15
BAR_S = 0.2
MEMORY = "/dev/shm"
STAGES = ("fetch", "clean", "prepare", "contamination", "sweep", "train", "merge", "baseline")
SUITE = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}})


def main() -> None:
    """Prints a line for each page; exits 1 when the first page is over its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    num_runs = parser.parse_args().runs
    # In memory: it is the pages that are measured, and not how quick this disk is when it is filled.
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
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
    """All rows in one transaction, as a ledger of an older version has them: without an audit."""
    ledger = Ledger(settings.ledger_url)
    rows = _rows(settings, num_runs)
    with ledger._database.writing() as connection:
        for table, values in rows.items():
            connection.execute(table.insert(), values)
    ledger.close()


def _rows(settings: Settings, num_runs: int) -> dict[sql.Table, list[dict[str, Any]]]:
    model = _model(settings).model_dump_json()
    records = {"compress": model, "deploy": model, "gate": _verdict(settings).model_dump_json()}
    rows: dict[sql.Table, list[dict[str, Any]]] = {
        table: [] for table in (tables.runs, tables.starts, tables.stages, tables.records)
    }
    spec, now = _spec(), time.time()
    for number in range(num_runs):
        run, at = f"support-bot-{number:032x}", now - 3600.0 * (num_runs - number)
        rows[tables.runs].append({"id": run, "name": "bot", "spec": spec, "created_at": at})
        start = {"run": run, "started_by": "ben", "host": "here", "process": 1, "at": at}
        rows[tables.starts].append(start)
        for stage in (*STAGES, *records):
            done = {"run": run, "stage": stage, "key": f"{run} {stage}"}
            times = {"started_at": at, "ended_at": at + 60.0}
            rows[tables.stages].append({**done, **times, "state": "done", "error": None})
            if stage in records:
                own = records[stage].replace('"seconds":2.0', f'"seconds":{2 + number}.5')
                kept = {"record": own, "seconds": 60.0, "at": at}  # no two verdicts are one text
                rows[tables.records].append({**done, **kept})
    return rows


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
        process = psutil.Process(int((settings.home / "console" / "pid").read_text()))
        medians = {name: _page(client, process, name, path) for name, path in paths.items()}
    print(f"memory of the server: {process.memory_info().rss / 1e6:.0f} MB")
    return medians["first page"] > BAR_S


def _page(client: httpx.Client, server: psutil.Process, name: str, path: str) -> float:
    """Median seconds of a page; the processor's own, of the server, are printed beside them, for
    machines that do something else as well."""
    seconds, size, used_s = [], 0, 0.0
    for number in range(REPEATS + 1):
        if number == 1:
            used_s = _used_s(server)
        began = time.perf_counter()
        answer = client.get(path)
        seconds.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
        size = len(answer.content)
    used_s = (_used_s(server) - used_s) / REPEATS
    first, rest = seconds[0], sorted(seconds[1:])
    median = statistics.median(rest)
    bar = f" (at most {1000 * BAR_S:.0f})" if name == "first page" else ""
    print(
        f"{name:<11} {1000 * median:5.0f} ms{bar}, {1000 * used_s:.0f} ms of CPU; first "
        f"{1000 * first:.0f} ms, longest {1000 * rest[-1]:.0f} ms; {size / 1000:.0f} kB",
        flush=True,
    )
    return median


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
