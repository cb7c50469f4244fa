"""The steps in real processes, which are killed with their workers again and again: what comes of
it is what an undisturbed one writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_cleaning import messy

CHILD = """
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from assay.engines.data import learned_rows
from cleaned import cleaned
from test_cleaning import STEPS

def in_order(function, calls):
    for arguments in calls:
        yield pool.submit(function, *arguments).result()

learned_rows.BLOCK_ROWS = 20
with ProcessPoolExecutor(2) as pool:
    cleaned(Path(sys.argv[1]), STEPS, each=in_order)
"""
NUM_KILLS = 4


def start(folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.Popen(command, env=env, start_new_session=True)


def finished(folder: Path) -> set[Path]:
    return {file for pattern in ("counts-*", "made-*") for file in folder.rglob(pattern)}


def content(folder: Path) -> dict[str, bytes]:
    out = folder / "scratch-out"
    files = [file for file in out.rglob("*") if file.is_file()]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_kills_of_the_driver_and_its_workers_do_not_bear_on_the_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        messy(folder, 240)
    assert start(whole).wait() == 0
    for _ in range(NUM_KILLS):
        before = finished(killed)
        child = start(killed)
        while finished(killed) == before:
            assert child.poll() is None, "it came to its end before it was killed"
            time.sleep(0.002)  # until another shard is finished
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    times = {file: file.stat().st_mtime_ns for file in finished(killed) if "counts" in file.name}
    assert start(killed).wait() == 0
    assert times == {file: file.stat().st_mtime_ns for file in times}  # none was made again
    assert content(killed) == content(whole)
