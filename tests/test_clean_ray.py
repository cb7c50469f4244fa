"""The stage `clean` on a real Ray, killed on the way, and `prepare` with what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay.records.artifact import Artifact
from assay.records.cleaning import CleaningRecord
from assay.records.stages import ModelRecord
from assay.settings import Settings
from assay.spec.data import DataSpec
from assay.spec.train import TrainSpec
from assay.stages import clean, prepare
from assay.stages.context import Work
from tiny import make_model

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore:subprocess .* is still running:ResourceWarning"
    ),  # the head, on purpose
]

DATA = DataSpec.model_validate(
    {
        "train": "train.jsonl",
        "selection": 0.1,
        "steps": ["repair", {"mask": {"by": "pseudonym"}}, "deduplicate"],
    }
)
NUM_ROWS = 400
CHILD = """
import sys
from pathlib import Path
from assay.engines.cluster import tasks
from assay.settings import Settings
from assay.engines.data import learned_rows
import test_clean_ray
learned_rows.BLOCK_ROWS = 20
settings = Settings()
tasks.connect(settings.cluster_address)
test_clean_ray.cleaned(settings, Path(sys.argv[1]))
"""


def cleaned(settings: Settings, folder: Path) -> CleaningRecord:
    work = Work(settings, folder / "work", folder / "progress.jsonl", folder)
    inputs = clean.inputs_of(DATA, {}, TrainSpec.model_validate({"max_length": 64}), settings)
    return clean.run(inputs, work)


def write_rows(folder: Path) -> None:
    rows = [
        {"prompt": f"row {i % 300}? mail a{i % 300}@b.test\u200b", "completion": "yes"}
        for i in range(NUM_ROWS)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_driver_that_is_killed_goes_on_to_the_same_bytes(
    on_ray: Settings, tmp_path: Path
) -> None:
    write_rows(tmp_path)
    whole = cleaned(on_ray, tmp_path)
    killed = tmp_path / "killed"
    killed.mkdir()
    write_rows(killed)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "ASSAY_HOME": str(on_ray.home)}
    env["ASSAY_RAY_PORT"] = str(on_ray.ray_port)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(killed)], env=env)
    try:
        while not (done := set(killed.rglob("counts-*.json"))):
            assert child.poll() is None
            time.sleep(0.01)  # until a shard is finished
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    times = {file: file.stat().st_mtime_ns for file in done}
    seen: list[Path] = []
    original = clean.shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assay.engines.data.learned_rows.BLOCK_ROWS", 20)
        patch.setattr(
            clean.shutil,
            "rmtree",
            lambda folder, **kwargs: (
                seen.extend(
                    file
                    for file in done
                    if file.exists() and file.stat().st_mtime_ns == times[file]
                ),
                original(folder, **kwargs),
            ),
        )
        found = cleaned(on_ray, killed)
    assert found == whole
    assert set(seen) == done  # the finished shards were not made again


def test_what_is_left_is_prepared(on_ray: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path)
    make_model(tmp_path / "model")
    record = cleaned(on_ray, tmp_path)
    assert record.before.num_rows == NUM_ROWS
    assert record.after.sources == {"train.jsonl": 300}
    names = {step.name: (step.num_changed, step.num_dropped) for step in record.steps}
    assert names == {"repair": (400, 0), "mask": (400, 0), "deduplicate": (0, 100)}
    model = ModelRecord(
        artifact=Artifact(digest="m", kind="model", path=str(tmp_path / "model"), size=1),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=2,
        context_length=256,
    )
    (tmp_path / "train.jsonl").unlink()  # the cleaned data alone are read
    inputs = prepare.Inputs(
        model=model, data=DATA, train=TrainSpec.model_validate({"max_length": 64}), cleaned=record
    )
    work = Work(on_ray, tmp_path / "work2", tmp_path / "progress.jsonl", tmp_path)
    found = prepare.run(inputs, work)
    assert found.train.num_examples + found.selection.num_examples == 300
    assert "cleaned" in inputs.as_data()
    assert "cleaned" not in prepare.Inputs(model=model, data=DATA, train=inputs.train).as_data()
