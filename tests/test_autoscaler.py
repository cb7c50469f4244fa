"""A cluster that grows by GPU nodes when they are wanted and shrinks when they are idle: Ray's own
autoscaler, with nodes that are processes on this machine and GPUs that are numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.engines.cluster.autoscaler import may_add
from assay.errors import PlaceError

ROOT = Path(__file__).resolve().parents[1]
TYPES = {
    "head": {"resources": {"CPU": 2}},
    "small": {"resources": {"CPU": 16, "GPU": 1}, "max_workers": 3},
    "large": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 2},
    "processors": {"resources": {"CPU": 192}},
}


def config(folder: Path, **changes: object) -> Path:
    """A cluster's configuration in a file."""
    said = {"head_node_type": "head", "max_workers": 4, "available_node_types": TYPES, **changes}
    file = folder / "cluster.yaml"
    file.write_text(json.dumps(said))
    return file


def test_most_of_a_kind_comes_from_the_nodes_that_bring_most(tmp_path: Path) -> None:
    assert may_add(config(tmp_path)) == {"CPU": 4 * 192, "GPU": 2 * 8 + 2 * 1}
    assert may_add(config(tmp_path, max_workers=1)) == {"CPU": 192, "GPU": 8}
    assert may_add(config(tmp_path, max_workers=9)) == {"CPU": 9 * 192, "GPU": 2 * 8 + 3 * 1}
    assert may_add(tmp_path / "none.yaml") == {"CPU": 0, "GPU": 0}


def test_another_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        PlaceError, match=r"cluster.yaml is no configuration of a Ray cluster \(KeyError"
    ):
        may_add(config(tmp_path, head_node_type="other"))
    file = tmp_path / "cluster.yaml"
    file.write_text("- a list")
    with pytest.raises(PlaceError, match="ASSAY_AUTOSCALER_CONFIG"):
        may_add(file)


def test_the_file_of_this_repository_is_one() -> None:
    assert may_add(ROOT / "cluster.yaml") == {
        "CPU": 0,
        "GPU": 0,
    }  # `ray up` fills in what the instances bring


@pytest.mark.ray
@pytest.mark.long
def test_gpu_nodes_come_for_work_and_go(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("autoscaled.py")), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests")]),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["before"] == {"cpus": 2, "gpus": 0}  # nothing is there but the head
    assert told["foreseen"] == {"cpus": 4, "gpus": 2}
    assert told["fits"] == 2  # workers of a training with a GPU each
    assert told["worked_on"] == 2  # GPU nodes that came
    assert told["after"] == {"cpus": 2, "gpus": 0}
