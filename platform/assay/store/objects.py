"""Artifacts in an object store: S3 and what speaks like it, Google Cloud Storage, Azure. One
library, pyarrow's file systems, speaks to all three.

An artifact lies there as it lies in the folder: `<digest>/<file>`, and `<digest>.json`, its
manifest, which comes last: what has no manifest is not there yet. A store that does not answer is
asked again for `PATIENCE_S`.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from assay import secrets_file
from assay.errors import IntegrityError, PlaceError, UsageError
from assay.records.artifact import FileEntry, Manifest
from assay.records.record import canonical_json

T = TypeVar("T")
logger = logging.getLogger("assay")

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
PATIENCE_S = 180.0
"""How long a store that does not answer is asked again; a minute's outage is nothing to fail
for."""
LONGEST_PAUSE_S = 15.0
PIECE_BYTES = 16 << 20


class ObjectStore:
    """Artifacts under one URL, such as `s3://bucket/assay` or
    `s3://bucket/assay?endpoint_override=minio:9000&scheme=http`. Keys come from the place's
    secrets. Raises `UsageError` for a URL of another kind."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        scheme, sign, _ = url.partition("://")
        if not sign or scheme not in SCHEMES:
            known = ", ".join(f"{one}://" for one in SCHEMES)
            raise UsageError(f"ASSAY_ARTIFACT_URL is {url!r}; it begins with one of {known}")
        self.url = url
        self.patience_s = patience_s

    def has(self, digest: str) -> bool:
        """Whether the whole artifact is there."""
        return self._size_of(f"{digest}.json") is not None

    def push(self, digest: str, folder: Path, manifest: Manifest) -> None:
        """Copies an artifact there. What an attempt before has copied is not copied again; a file
        comes whole or not at all, large ones in parts."""
        if self.has(digest):
            return
        for name, entry in manifest.files.items():
            key = f"{digest}/{name}"
            if self._size_of(key) != entry.size:
                self._asked(_upload, key, folder / name)
        text = canonical_json(manifest.model_dump()).encode()
        self._asked(_write, f"{digest}.json", text)

    def pull(self, digest: str, target: Path) -> Manifest:
        """Copies an artifact to the folder `target`, by way of a folder beside it, from which
        another attempt goes on. Raises `IntegrityError` when a byte is not what was put, and
        `PlaceError` when the store does not have it."""
        if not self.has(digest):
            raise PlaceError(f"{self.url} has no artifact {digest[:12]}")
        manifest = self._manifest(digest)
        part = target.with_name(f"{digest}.part")
        for name, entry in manifest.files.items():
            file = part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            self._asked(_download, f"{digest}/{name}", file)
            _require(file, entry, self.url)
        shutil.rmtree(target, ignore_errors=True)
        part.mkdir(parents=True, exist_ok=True)  # of an artifact without files
        part.replace(target)
        return manifest

    def sizes(self) -> dict[str, int]:
        """Every whole artifact that is there, with its bytes."""
        found: dict[str, int] = {}
        for path, size in self._listed().items():
            digest, _, rest = path.partition("/")
            if not rest and digest.endswith(".json"):
                found.setdefault(digest.removesuffix(".json"), 0)
            elif rest:
                found[digest] = found.get(digest, 0) + size
        return {digest: size for digest, size in found.items() if self.has(digest)}

    def delete(self, digest: str) -> None:
        """Removes an artifact, the manifest first: what has none is not there."""
        files = [path for path in self._listed() if path.startswith(f"{digest}/")]
        for path in (f"{digest}.json", *files):
            if self._size_of(path) is not None:
                self._asked(_delete, path)

    def _manifest(self, digest: str) -> Manifest:
        text = self._asked(_read, f"{digest}.json")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValueError as error:
            raise IntegrityError(
                f"the manifest of {digest[:12]} in {self.url} is damaged"
            ) from error
        if hashlib.sha256(canonical_json(manifest.model_dump()).encode()).hexdigest() != digest:
            raise IntegrityError(f"the manifest of {digest[:12]} in {self.url} is another's")
        return manifest

    def _size_of(self, path: str) -> int | None:
        """Bytes of a file there; None when there is none."""
        return self._asked(_size, path)

    def _listed(self) -> Mapping[str, int]:
        return self._asked(_list, "")

    def _asked(self, call: Callable[..., T], path: str, *more: Any) -> T:
        """What a call to the store returns, which is asked again while it does not answer. It is
        given the file system and a path there."""
        end, pause_s = time.monotonic() + self.patience_s, 0.5
        while True:
            try:
                with secrets_file.lent(secrets_file.STORES):
                    system, at = _opened(self.url)
                    return call(system, f"{at}/{path}".rstrip("/"), *more)
            except FileNotFoundError as error:
                raise PlaceError(f"{self.url}: {_first_line(error)}") from error
            except OSError as error:
                # Refused is refused, however often one asks.
                is_refused = "ACCESS_DENIED" in str(error) or "INVALID_ACCESS_KEY" in str(error)
                if is_refused or time.monotonic() + pause_s > end:
                    raise PlaceError(
                        f"the object store {self.url} does not do what it is asked: "
                        f"{_first_line(error)}; look at ASSAY_ARTIFACT_URL and the keys in the "
                        "place's secrets"
                    ) from error
                logger.info("the object store does not answer (%s)", _first_line(error))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Made anew each time: its keys may have been
    changed."""
    from pyarrow.fs import FileSystem

    try:
        system, at = FileSystem.from_uri(url)
    except ValueError as error:
        raise UsageError(f"ASSAY_ARTIFACT_URL is {url!r}: {_first_line(error)}") from error
    return system, at.rstrip("/")


def _upload(system: Any, path: str, source: Path) -> None:
    with source.open("rb") as file, system.open_output_stream(path) as target:
        while piece := file.read(PIECE_BYTES):
            target.write(piece)


def _size(system: Any, path: str) -> int | None:
    info = system.get_file_info(path)
    return int(info.size) if info.is_file else None


def _list(system: Any, path: str) -> dict[str, int]:
    """Bytes of each file under a path, by the rest of its own."""
    from pyarrow.fs import FileSelector

    found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return {one.path[len(path) + 1 :]: int(one.size) for one in found if one.is_file}


def _read(system: Any, path: str) -> bytes:
    with system.open_input_stream(path) as source:
        return bytes(source.read())


def _delete(system: Any, path: str) -> None:
    system.delete_file(path)


def _write(system: Any, path: str, text: bytes) -> None:
    with system.open_output_stream(path) as target:
        target.write(text)


def _download(system: Any, path: str, file: Path) -> None:
    """From where an attempt before has stopped."""
    with file.open("ab") as target, system.open_input_file(path) as source:
        source.seek(min(target.tell(), source.size()))
        while piece := source.read(PIECE_BYTES):
            target.write(piece)


def _require(file: Path, entry: FileEntry, url: str) -> None:
    """Raises `IntegrityError` unless the file is what was put; it is removed then, so that another
    attempt fetches it anew."""
    sha256 = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            sha256.update(piece)
    if FileEntry(sha256=sha256.hexdigest(), size=file.stat().st_size) != entry:
        file.unlink()
        raise IntegrityError(f"{file.name} in {url} is not what was put: its SHA-256 has changed")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
