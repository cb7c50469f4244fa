"""The artifact store: folders of files, addressed by the digest of their manifest, never changed
once in."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from assay.errors import IntegrityError, PlaceError
from assay.files import NotPlain, digest_files, plain_files
from assay.records.artifact import Artifact, ArtifactKind, FileEntry, Manifest
from assay.records.record import canonical_json, digest_of
from assay.settings import Settings
from assay.store.objects import ObjectStore


def open_store(settings: Settings) -> "ArtifactStore":
    """The artifacts of a place."""
    remote = ObjectStore(settings.artifact_url) if settings.artifact_url else None
    return ArtifactStore(settings.home / "artifacts", remote)


class ArtifactStore:
    """Artifacts under one folder: `<digest>/` holds the files, `<digest>.json` their manifest. With
    an object store, that one keeps them, and what is asked for and not in the folder comes from
    there."""

    def __init__(self, folder: Path, remote: ObjectStore | None = None) -> None:
        self.folder = folder
        self.remote = remote

    def put(self, folder: Path, kind: ArtifactKind) -> Artifact:
        """Moves `folder` into the store and returns the artifact. Atomic: a crash leaves either the
        whole artifact or none. Raises `PlaceError` when the disk is full or may not be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            manifest = _manifest(folder, kind)
            digest = digest_of(manifest.model_dump())
            # On the disk before it has its name: after a power cut a name could stand for no bytes.
            _flush(folder)
            target = self.folder / digest
            # What is there and whole stays, for somebody may be reading it; what is damaged makes
            # room for the same bytes.
            if target.exists():
                shutil.rmtree(folder if _matches(target, manifest) else target)
            if not target.exists():
                os.replace(folder, target)
            # Last: a folder without a manifest is no artifact.
            _write_atomically(self._manifest_path(digest), canonical_json(manifest.model_dump()))
            self._remember_stats(digest)
            if self.remote is not None:
                self.remote.push(digest, target, manifest)
        except NotPlain as error:
            raise PlaceError(f"{error}; an artifact holds plain files and folders alone") from error
        except OSError as error:
            raise PlaceError(
                f"cannot write the artifact to {self.folder}: {error.strerror or error}"
            ) from error
        return self._artifact(digest, manifest)

    def is_intact(self, artifact: Artifact) -> bool:
        """Whether every byte is as it was put. Files whose size and time of change are as they were
        left are taken at their word; all others are read. `verify` reads all. What is not in the
        folder is fetched first."""
        self._bring(artifact.digest)
        return self._is_untouched(artifact.digest) or self._is_whole(artifact)

    def is_kept(self, digest: str) -> bool:
        """Whether the object store alone has it: nothing is fetched."""
        is_here = self._manifest_path(digest).exists()
        return not is_here and self.remote is not None and self.remote.has(digest)

    def delete(self, digest: str, *, everywhere: bool = True) -> None:
        """Removes an artifact from the folder, and from the object store unless that is to keep
        it."""
        if everywhere and self.remote is not None:
            self.remote.delete(digest)
        # The manifest last: what was begun is found again, and ended.
        shutil.rmtree(self.folder / digest, ignore_errors=True)
        for path in (self._stats_path(digest), self._manifest_path(digest)):
            path.unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Every artifact of the folder with its bytes, as its manifest says; 0 for a damaged
        one."""
        found = {}
        for digest in self.digests():
            try:
                files = self._manifest(digest).files.values()
            except (OSError, ValueError):
                files = {}.values()
            found[digest] = sum(entry.size for entry in files)
        return found

    def last_used(self, digest: str) -> float:
        """When it was last asked for, in seconds since the epoch."""
        stamps = [
            one for one in (self._stats_path(digest), self._manifest_path(digest)) if one.exists()
        ]
        return max((stamp.stat().st_mtime for stamp in stamps), default=0.0)

    def digests(self) -> list[str]:
        """Every artifact that is here."""
        return sorted(file.stem for file in self.folder.glob("*.json") if len(file.stem) == 64)

    def verify(self, artifact: Artifact) -> None:
        """Reads every byte; raises `IntegrityError` naming the first file that is not what was
        put."""
        self.check(artifact.digest)

    def check(self, digest: str, *, reads_all: bool = True) -> None:
        """The same of a digest; without `reads_all` files that nobody has touched are not read."""
        self._bring(digest)
        if reads_all or not self._is_untouched(digest):
            self._check_bytes(digest)

    def _bring(self, digest: str) -> None:
        """Fetches what is not in the folder from the object store, if that has it."""
        if self._manifest_path(digest).exists():
            with suppress(OSError):  # another process may remove it just now
                os.utime(self._stats_path(digest))
            return
        if self.remote is None or not self.remote.has(digest):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.remote.pull(digest, self.folder / digest)
        _write_atomically(self._manifest_path(digest), canonical_json(manifest.model_dump()))
        self._remember_stats(digest)

    def _is_untouched(self, digest: str) -> bool:
        """Whether files, sizes and times are as they were left."""
        try:
            manifest = self._manifest(digest)
            remembered = json.loads(self._stats_path(digest).read_text())
            there = _stats(self.folder / digest)
        except (OSError, ValueError, NotPlain):
            return False
        return there == remembered and set(remembered) == set(manifest.files)

    def _check_bytes(self, digest: str) -> None:
        try:
            manifest = self._manifest(digest)
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"the manifest of artifact {digest[:12]} is missing or damaged: {error}"
            ) from error
        folder = self.folder / digest
        try:
            there = plain_files(folder).keys()
        except FileNotFoundError:
            there = {}.keys()
        except (NotPlain, OSError) as error:
            raise IntegrityError(f"{error}; the artifact had none") from error
        for name in sorted(there ^ set(manifest.files)):
            raise IntegrityError(
                f"{folder / name} {'was added to' if name in there else 'is missing from'} the "
                "artifact"
            )
        for name, entry in _entries(folder, list(manifest.files)).items():
            if entry != manifest.files[name]:
                raise IntegrityError(
                    f"{folder / name} is not what was evaluated: its SHA-256 has changed"
                )

    def _is_whole(self, artifact: Artifact) -> bool:
        try:
            self.verify(artifact)
        except IntegrityError:
            return False
        self._remember_stats(artifact.digest)
        return True

    def _artifact(self, digest: str, manifest: Manifest) -> Artifact:
        size = sum(entry.size for entry in manifest.files.values())
        return Artifact(
            digest=digest, kind=manifest.kind, path=str(self.folder / digest), size=size
        )

    def _manifest(self, digest: str) -> Manifest:
        manifest = Manifest.model_validate_json(self._manifest_path(digest).read_text())
        if digest_of(manifest.model_dump()) != digest:
            raise ValueError("its digest does not match")
        return manifest

    def _manifest_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"

    def _stats_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.stat"

    def _remember_stats(self, digest: str) -> None:
        _write_atomically(self._stats_path(digest), json.dumps(_stats(self.folder / digest)))


def _manifest(folder: Path, kind: ArtifactKind) -> Manifest:
    return Manifest(kind=kind, files=_entries(folder, list(plain_files(folder))))


def _matches(folder: Path, manifest: Manifest) -> bool:
    try:
        return _manifest(folder, manifest.kind) == manifest
    except NotPlain:
        return False


def _entries(folder: Path, names: list[str]) -> dict[str, FileEntry]:
    """Every byte of these files, read. Raises `IntegrityError` for a file that was replaced
    meanwhile."""
    try:
        digests = digest_files(folder, names)
    except (NotPlain, OSError) as error:
        raise IntegrityError(f"{error}; it was replaced while it was read") from error
    return {
        name: FileEntry(sha256=sha256, size=identity[2])
        for name, (sha256, identity) in digests.items()
    }


def _stats(folder: Path) -> dict[str, list[int]]:
    return {name: list(identity) for name, identity in plain_files(folder).items()}


def _flush(folder: Path) -> None:
    """Asks the kernel to put the files on the disk before their record says that they exist."""
    for name in plain_files(folder):
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        os.fsync(descriptor)
        os.close(descriptor)


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)
