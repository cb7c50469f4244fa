"""Folders of plain files: listed and read so that no link, device or pipe stands in for one; and
what a process that serves a model checks of its folder, and says that it has loaded.

Standard library alone: `make setup` copies this file into the engine's environment, as
`assay_files.py`.
"""

import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

CHUNK_BYTES = 1 << 20
CLOCK_TICK_NS = 20_000_000  # file systems note changes by the kernel's tick, 1 to 10 ms
TOLD = ("vllm", "torch", "transformers", "ray", "compressed_tensors")
NUM_THREADS = 4  # hashing lets go of Python's lock; with more, one disk does not read faster

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and times of change of a file, in nanoseconds: of its content, and of
anything about it. Whoever writes to it changes the last, which cannot be set back."""


class NotPlain(Exception):
    """A name that is no plain file, or no plain folder."""


def plain_files(folder: Path) -> dict[str, Identity]:
    """Every file under `folder`, by its POSIX path there. Raises `NotPlain` for anything that is
    neither a file nor a folder, and `OSError` when it cannot be read. Links are not followed: not
    the folder's own either."""
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise NotPlain(f"{folder} is {_kind(os.lstat(folder).st_mode)}, not a folder")
    return dict(_walk(folder, ""))


def digest_file(folder: Path, name: str) -> tuple[str, Identity]:
    """SHA-256, in hex, of a file's bytes, and the file that they were read from."""
    path = folder / name
    # Without O_NONBLOCK the open of a pipe waits for a writer, who may never come.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        mode = _mode(path)
        if mode is not None and not stat.S_ISREG(mode):
            raise NotPlain(f"{path} is {_kind(mode)}, not a file") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotPlain(f"{path} is {_kind(status.st_mode)}, not a file")
        sha256 = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
        return sha256.hexdigest(), _identity(os.fstat(descriptor))


def digest_files(folder: Path, names: list[str]) -> dict[str, tuple[str, Identity]]:
    """The same of several files, some at once."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return dict(
            zip(names, pool.map(lambda name: digest_file(folder, name), names), strict=True)
        )


def verify_artifact(folder: Path, artifact: str) -> dict[str, Identity]:
    """Raises `ValueError` unless the folder is, file by file and byte by byte, the artifact of this
    digest. Returns which files were read."""
    manifest = json.loads(folder.with_name(f"{artifact}.json").read_text())
    text = json.dumps(
        manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    if hashlib.sha256(text.encode()).hexdigest() != artifact:
        raise ValueError(f"the manifest of artifact {artifact[:12]} is not its own")
    there, wanted = plain_files(folder), manifest["files"]
    for name in sorted(there.keys() ^ wanted.keys()):
        raise ValueError(
            f"{folder / name} was {'added to' if name in there else 'taken from'} what was "
            "evaluated"
        )
    _let_the_clock_tick(there)
    digests = digest_files(folder, list(wanted))
    for name, (sha256, identity) in digests.items():
        if {"sha256": sha256, "size": identity[2]} != wanted[name]:
            raise ValueError(f"{folder / name} is not what was evaluated: its SHA-256 has changed")
    return {name: identity for name, (_, identity) in digests.items()}


def require_unchanged(folder: Path, files: dict[str, Identity]) -> None:
    """Raises `ValueError` when a file was replaced or written to since it was verified: the engine
    may have loaded something else."""
    there = plain_files(folder)
    for name in sorted(there.keys() | files.keys()):
        if there.get(name) != files.get(name):
            raise ValueError(f"{folder / name} was changed while the engine loaded it")


@contextmanager
def verified(folder: Path, wanted: dict[str, str], replica: str) -> Iterator[None]:
    """Within it a replica loads its model: the folder is verified before, looked at again after,
    for what was verified could have been replaced meanwhile, and then reported. `wanted` names the
    `artifact`, and `reports`, the folder to report to. Raises `ValueError` for other bytes."""
    began = time.monotonic()
    files = verify_artifact(folder, wanted["artifact"])
    seconds = time.monotonic() - began
    yield
    require_unchanged(folder, files)
    report(Path(wanted["reports"]), replica=replica, artifact=wanted["artifact"], seconds=seconds)


def report(reports: Path, *, replica: str, artifact: str, seconds: float) -> None:
    """Writes down what a replica has loaded, where the platform looks for it. Verifying took it so
    many `seconds`."""
    packages = []
    for found in distributions():
        if found.name.startswith(TOLD):
            packages.append(f"{found.name}-{found.version}")
    packages.sort()
    content = {
        "replica": replica,
        "artifact": artifact,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "packages": packages,
        "seconds_to_verify": seconds,
        "at": time.time(),
    }
    reports.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = reports / f"{replica}.{os.getpid()}"
    draft.write_text(json.dumps(content))
    draft.replace(reports / f"{replica}.json")


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Identity]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            status = entry.stat(follow_symlinks=False)
            name = prefix + entry.name
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(Path(entry.path), f"{name}/")
            elif stat.S_ISREG(status.st_mode):
                yield name, _identity(status)
            else:
                raise NotPlain(f"{entry.path} is {_kind(status.st_mode)}, not a file")


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _mode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISLNK: "a symbolic link",
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")


def _let_the_clock_tick(files: dict[str, Identity]) -> None:
    """Waits until a change from now on has another time than those before."""
    newest = max((identity[4] for identity in files.values()), default=0)
    while 0 <= time.time_ns() - newest < CLOCK_TICK_NS:
        time.sleep(CLOCK_TICK_NS / 1e9)
