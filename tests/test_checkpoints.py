"""Checkpoints on disk: whole or not there; what was damaged later is found, and the one before it
is used."""

import json
import random
import shutil
from pathlib import Path

import pytest

from assay.engines.checkpoints import files as checkpoints
from assay.engines.checkpoints.files import CheckpointManifest, Damaged

FILES = {
    "weights.pt": 40_000,
    "rng_state_0.pth": 3_000,
    "global_step1/zero_0.pt": 9_000,
    "trainer_state.json": 500,
}


def write(root: Path, step: int, *, job: str = "job", loss: float | None = None) -> Path:
    """A checkpoint of random bytes."""
    draw = random.Random(step)
    folder = checkpoints.draft(root, step, "token")
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw.randbytes(size))
    entries = {
        **checkpoints.flush(folder, share=0, num_shares=2),
        **checkpoints.flush(folder, share=1, num_shares=2),
    }
    manifest = CheckpointManifest(
        job=job, step=step, num_workers=2, selection_loss=loss, files=entries
    )
    return checkpoints.seal(folder, manifest)


def newest(root: Path, told: list[str] | None = None) -> int | None:
    found = checkpoints.newest_valid(root, "job", (told if told is not None else []).append)
    return found.manifest.step if found else None


def test_the_newest_is_used(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for step in (10, 20, 9):
        write(tmp_path, step)
    assert newest(tmp_path) == 20


def test_twenty_corruptions_are_all_found(tmp_path: Path) -> None:
    """Bit flips, truncations and missing files, in whatever file they strike; the one before is
    used."""
    write(tmp_path, 10)
    draw = random.Random(0)
    for number in range(20):
        damaged = write(tmp_path, 20)
        victim = draw.choice(sorted(path for path in damaged.rglob("*") if path.is_file()))
        data = victim.read_bytes()
        kind = ("flip", "truncate", "remove", "grow")[number % 4]
        if kind == "flip":
            place, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
            victim.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        elif kind == "truncate":
            victim.write_bytes(data[: draw.randrange(len(data))])
        elif kind == "remove":
            victim.unlink()
        else:
            (damaged / "stray.pt").write_bytes(b"x")
        told: list[str] = []
        assert newest(tmp_path, told) == 10, f"{kind} of {victim.name} went unnoticed"
        assert len(told) == 1
        assert "step-000000020" in told[0]
        shutil.rmtree(damaged)


def test_a_half_written_one_does_not_exist(tmp_path: Path) -> None:
    write(tmp_path, 10)
    half = checkpoints.draft(tmp_path, 20, "killed")
    half.mkdir()
    (half / "weights.pt").write_bytes(b"half")
    assert newest(tmp_path) == 10
    checkpoints.go_back_to(tmp_path, checkpoints.newest_valid(tmp_path, "job", lambda _: None))
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000000010"]


def test_going_back_removes_what_was_passed_by(tmp_path: Path) -> None:
    write(tmp_path, 10)
    (write(tmp_path, 20) / "weights.pt").write_bytes(b"")
    found = checkpoints.newest_valid(tmp_path, "job", lambda _: None)
    checkpoints.go_back_to(tmp_path, found)
    checkpoints.prune(tmp_path, keep_last=1, keep_best=0)
    assert newest(tmp_path) == 10


def test_another_runs_checkpoint_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, 10)
    write(tmp_path, 20, job="other")
    told: list[str] = []
    assert newest(tmp_path, told) == 10
    assert "another training run" in told[0]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, loss in ((1, 0.9), (2, 0.2), (3, 0.5), (4, 0.6), (5, None)):
        write(tmp_path, step, loss=loss)
    checkpoints.prune(tmp_path, keep_last=2, keep_best=1)
    assert sorted(int(folder.name[5:]) for folder in tmp_path.iterdir()) == [2, 4, 5]


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 10)
    manifest = folder / checkpoints.MANIFEST
    text = json.loads(manifest.read_text())
    text["manifest"]["step"] = 11
    manifest.write_text(json.dumps(text))
    with pytest.raises(Damaged, match="manifest has changed"):
        checkpoints.verify(folder)


def test_a_checkpoint_of_another_training_is_taken_in_when_it_is_whole(tmp_path: Path) -> None:
    other = write(tmp_path / "other", 10, job="other")
    for name in ("whole", "damaged"):
        shutil.copytree(other, tmp_path / name)
    (tmp_path / "damaged" / "weights.pt").write_bytes(b"")
    with pytest.raises(Damaged, match=r"weights\.pt has 0 bytes"):
        checkpoints.take_in(tmp_path / "damaged", tmp_path / "own", "job")
    assert newest(tmp_path / "own") is None
    checkpoints.take_in(tmp_path / "whole", tmp_path / "own", "job")
    assert newest(tmp_path / "own") == 10
