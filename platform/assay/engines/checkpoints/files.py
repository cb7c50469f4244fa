"""Checkpoints on disk that can be trusted: written aside, flushed, listed with SHA-256 and size,
and renamed last.

A folder named `step-…` is therefore whole unless something changed it later, and then
`newest_valid` passes it by. Nothing here knows what the files mean.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from assay.errors import AssayError
from assay.records.artifact import FileEntry
from assay.records.record import Record, digest_of

MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 20
FINISHED, DRAFT = "step-", "draft-"


class Damaged(AssayError):
    """A checkpoint is not what was written; the message says in what."""


class CheckpointManifest(Record):
    """What a checkpoint is of, and every file of it."""

    job: str
    """Digest of the training run that it belongs to."""
    step: int
    num_workers: int
    selection_loss: float | None
    """The newest one known when it was written."""
    files: dict[str, FileEntry]
    """POSIX path inside the folder to its entry."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was compared with its manifest."""

    folder: Path
    manifest: CheckpointManifest


def draft(root: Path, step: int, token: str) -> Path:
    """Where the files of a new checkpoint are written; `token` keeps attempts that overlap
    apart."""
    return root / f"{DRAFT}{step:09d}-{token}"


def at(root: Path, step: int) -> Path:
    """Where the finished checkpoint of a step is."""
    return root / f"{FINISHED}{step:09d}"


def flush(folder: Path, *, share: int = 0, num_shares: int = 1) -> dict[str, FileEntry]:
    """Puts one share of the folder's files on the disk, and returns their entries; so many workers
    divide the reading among them."""
    # Sorted, so that all workers divide the same list.
    paths = sorted(path for path in folder.rglob("*") if path.is_file())[share::num_shares]
    return {path.relative_to(folder).as_posix(): _flushed(path) for path in paths}


def seal(folder: Path, manifest: CheckpointManifest) -> Path:
    """Makes a draft a checkpoint: until the rename no reader sees it, and after it a power cut
    leaves it whole."""
    data = manifest.model_dump()
    path = folder / MANIFEST
    path.write_text(json.dumps({"manifest": data, "digest": digest_of(data)}))
    _flush(path)
    # The names of files are in their folders, which have to be flushed apart from them.
    for inner in {folder, *(file.parent for file in folder.rglob("*"))}:
        _flush(inner)
    target = at(folder.parent, manifest.step)
    if target.exists():
        # Of an attempt that overlaps with this one, or damaged: the state is the same.
        shutil.rmtree(target)
    os.rename(folder, target)
    _flush(folder.parent)
    return target


def verify(folder: Path) -> CheckpointManifest:
    """Reads every byte of a checkpoint; raises `Damaged` saying what is wrong with it."""
    try:
        text = json.loads((folder / MANIFEST).read_text())
        manifest = CheckpointManifest.model_validate(text["manifest"])
        intact = digest_of(manifest.model_dump()) == text["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{folder.name}: its manifest cannot be read ({type(error).__name__})"
        ) from error
    if not intact:
        raise Damaged(f"{folder.name}: its manifest has changed")
    there = set()
    for path in folder.rglob("*"):
        if path.is_file():
            there.add(path.relative_to(folder).as_posix())
    there.discard(MANIFEST)
    # One is enough to say; all of them would fill the screen.
    for name in sorted(there ^ set(manifest.files)):
        raise Damaged(
            f"{folder.name}: {name} {'does not belong to it' if name in there else 'is missing'}"
        )
    for name, entry in manifest.files.items():
        path = folder / name
        # Before the digest: a file that was cut short is told without being read.
        if path.stat().st_size != entry.size:
            raise Damaged(
                f"{folder.name}: {name} has {path.stat().st_size} bytes, not {entry.size}"
            )
        if _sha256(path) != entry.sha256:
            raise Damaged(f"{folder.name}: {name} has changed")
    return manifest


def newest_valid(root: Path, job: str, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of `job` that is whole; None when there is none. What is passed by is
    told."""
    for folder in reversed(_finished(root)):
        try:
            manifest = verify(folder)
        except Damaged as error:
            tell(f"passed by a damaged checkpoint: {error}")
            continue
        if manifest.job == job:
            return Checkpoint(folder, manifest)
        tell(f"passed by {folder.name}, which is of another training run")
    return None


def take_in(folder: Path, root: Path, job: str) -> None:
    """Makes the checkpoint in `folder`, of a training that was the same up to there, the first one
    of `job`. Raises `Damaged` when it is not whole."""
    manifest = verify(folder)
    root.mkdir(parents=True, exist_ok=True)
    # Renamed and not copied: it lies on the same disk, and may have gigabytes.
    own = draft(root, manifest.step, "taken-over")
    os.rename(folder, own)
    seal(own, CheckpointManifest.model_validate({**manifest.model_dump(), "job": job}))


def prune(root: Path, *, keep_last: int, keep_best: int) -> None:
    """Removes all but the newest `keep_last` and the `keep_best` with the lowest selection loss."""
    finished = _finished(root)
    # By what manifests claim, unverified: a wrong one costs a checkpoint that was as good, no more.
    losses = {}
    for folder in finished:
        loss = _claimed_loss(folder)
        if loss is not None:
            losses[folder] = loss
    best = sorted(losses, key=lambda folder: losses[folder])[:keep_best]
    for folder in finished:
        if folder not in finished[-keep_last:] and folder not in best:
            shutil.rmtree(folder, ignore_errors=True)


def go_back_to(root: Path, checkpoint: Checkpoint | None) -> None:
    """Removes what is newer than `checkpoint`, which is damaged or foreign, and what was left half
    written."""
    for folder in [*root.glob(f"{DRAFT}*"), *_finished(root)]:
        is_draft = folder.name.startswith(DRAFT)
        # Steps have leading zeros, so that names sort as their numbers do.
        if checkpoint is None or is_draft or folder.name > checkpoint.folder.name:
            shutil.rmtree(folder, ignore_errors=True)


def _finished(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob(f"{FINISHED}*") if folder.is_dir())


def _claimed_loss(folder: Path) -> float | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        loss = json.loads((folder / MANIFEST).read_text())["manifest"]["selection_loss"]
        if loss is not None:
            return float(loss)
        return None
    return None


def _flushed(path: Path) -> FileEntry:
    _flush(path)
    return FileEntry(sha256=_sha256(path), size=path.stat().st_size)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()
