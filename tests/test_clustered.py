"""What asks for memory is placed on a node that has it, and what is measured on other nodes: Ray
nodes that are processes on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.engines.cluster.autoscaler import largest_memory
from assay.engines.evaluation.service.engine_memory import fuller
from assay.records.gate import ServiceMeasurement
from assay.stages.evidence.service import _with_memory

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_task_goes_where_its_memory_is_and_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "clustered.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["placed"], told["all_of_it"], told["given_back"]) == (True, True, True)
    assert "node_of_this wants 1 CPU, 3.0 GiB of memory on one node" in told["refused"]
    assert "none gave that back in 1 s (ASSAY_WAIT_LIMIT)" in told["refused"]
    assert told["pending"] == 0  # nothing is left that would take it later
    held, there = told["memory"]
    assert 10 << 20 < held < there
    assert told["unknown"] is None
    assert told["lost"].startswith("work_for_ever failed: ")
    assert told["again"]  # a node that comes in its place is used


def test_the_largest_worker_that_may_come_counts(tmp_path: Path) -> None:
    types = {
        "head": {"resources": {"CPU": 2, "memory": 999}},
        "small": {"resources": {"CPU": 16, "memory": 50}},
        "large": {"resources": {"CPU": 96, "memory": 700}},
    }
    file = tmp_path / "cluster.yaml"
    file.write_text(json.dumps({"head_node_type": "head", "available_node_types": types}))
    assert largest_memory(file) == 700
    assert largest_memory(ROOT / "cluster.yaml") == largest_memory(tmp_path / "none.yaml") == 0


def measured(peak: int | None, there: int | None) -> ServiceMeasurement:
    return ServiceMeasurement(
        num_requests=1,
        num_concurrent=1,
        num_failed=0,
        num_completed=1,
        prompt_tokens=1,
        output_tokens=1,
        seconds=1,
        ttft_s=(),
        inter_token_s=(),
        window_tokens_per_s=(),
        num_engines=1,
        peak_memory_bytes=peak,
        memory_bytes=there,
    )


@pytest.mark.parametrize(
    ("here", "elsewhere", "runs_here", "wanted"),
    [
        ((5, 10), (8, 10), True, (8, 10)),
        ((9, 10), (80, 100), True, (9, 10)),
        ((None, None), (8, 10), False, (8, 10)),
        ((None, None), (8, 10), True, (None, None)),  # one of them was not seen
        ((5, 10), None, True, (None, None)),
    ],
)
def test_the_fullest_node_counts_and_one_that_is_not_seen_leaves_all_unknown(
    here: tuple[int | None, int | None],
    elsewhere: tuple[int, int] | None,
    runs_here: bool,
    wanted: tuple[int | None, int | None],
) -> None:
    found = _with_memory(measured(*here), elsewhere, knows_all=not runs_here)
    assert (found.peak_memory_bytes, found.memory_bytes) == wanted
    assert fuller(None, None) is None
