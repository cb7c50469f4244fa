"""Content-addressed folders of files: models, adapters, data sets."""

from typing import Literal

from assay.records.record import Record

ArtifactKind = Literal["model", "adapter", "dataset", "evidence"]


class FileEntry(Record):
    """One file of an artifact."""

    sha256: str
    size: int
    """Bytes."""


class Manifest(Record):
    """Every file of an artifact. The artifact's digest is the SHA-256 of this manifest's canonical
    JSON."""

    kind: ArtifactKind
    files: dict[str, FileEntry]
    """POSIX path inside the artifact to its entry."""


class Artifact(Record):
    """A finished artifact in the store."""

    digest: str
    kind: ArtifactKind
    path: str
    """Folder that holds the files."""
    size: int
    """Bytes of all files."""
