"""Data that lie elsewhere: URLs by fsspec, data sets of the Hugging Face hub by datasets, versions
and feedback that the place keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay import secrets_file
from assay.engines.cluster.passed_on import hub_named
from assay.engines.data import feedback, registry
from assay.errors import MissingExtra, PlaceError, UsageError
from assay.settings import Settings
from assay.spec.data import FEEDBACK, HUB_DATA, REGISTERED, is_remote

TAGS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "Digest",
    "mtime",
    "LastModified",
    "Last-Modified",
    "created",
)
"""What the file systems of fsspec call a content's tag, or the time of its last change; the first
that is there."""


@secrets_file.lent(secrets_file.DATA)
def mark(pattern: str) -> list[list[str]]:
    """What tells whether the data behind `pattern` have changed: the pattern itself for the hub,
    whose revision it names; for a URL each file with its size and the store's own tag of its
    content. Nothing is downloaded."""
    if HUB_DATA.fullmatch(pattern):
        return [[pattern, ""]]
    if found := REGISTERED.fullmatch(pattern):
        return [
            [pattern, registry.manifest(Settings().home, found["name"], found["version"]).digest]
        ]
    if found := FEEDBACK.fullmatch(pattern):
        return [[pattern, feedback.digest(Settings().home, found["name"])]]
    system, files = _listed(pattern)
    return [[file, _tag(system, file)] for file in files]


def fetch_all(patterns: Sequence[str], folder: Path) -> dict[str, list[Path]]:
    """Copies of all of `patterns` that lie elsewhere, by their entry, in folders under `folder`."""
    fetched: dict[str, list[Path]] = {}
    for pattern in patterns:
        if is_remote(pattern) and pattern not in fetched:
            fetched[pattern] = fetch(pattern, folder / f"fetched-{len(fetched)}")
    return fetched


@secrets_file.lent(secrets_file.DATA)
def fetch(pattern: str, folder: Path) -> list[Path]:
    """Copies the data behind `pattern` into `folder`, and returns the files, sorted as they are
    there."""
    folder.mkdir(parents=True, exist_ok=True)
    if found := HUB_DATA.fullmatch(pattern):
        return [
            _from_hub(
                found["name"],
                found["revision"],
                found["split"] or "train",
                folder / "split.parquet",
            )
        ]
    if found := REGISTERED.fullmatch(pattern):
        return registry.shards(Settings().home, found["name"], found["version"])
    if found := FEEDBACK.fullmatch(pattern):
        return [feedback.write_examples(Settings().home, found["name"], folder / "feedback.jsonl")]
    system, files = _listed(pattern)
    copies = [folder / f"{number:05d}-{Path(file).name}" for number, file in enumerate(files)]
    try:
        for file, copy in zip(files, copies, strict=True):
            system.get_file(file, str(copy))
    except OSError as error:
        raise PlaceError(f"{pattern} cannot be read: {error}") from error
    return copies


def _listed(pattern: str) -> tuple[Any, list[str]]:
    """The file system of a URL, and the paths in it that match."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(pattern)
        files = sorted(system.glob(path)) if any(sign in path for sign in "*?[") else [path]
        there = [file for file in files if system.isfile(file)]
    except ImportError as error:
        raise MissingExtra(f"{pattern} cannot be read: {error}") from error
    except ValueError as error:
        raise UsageError(f"{pattern} cannot be read: {error}") from error
    except OSError as error:
        raise PlaceError(f"{pattern} cannot be read: {error}") from error
    if not there:
        raise UsageError(f"{pattern}: there is no such file")
    return system, there


def _tag(system: Any, file: str) -> str:
    about = system.info(file)
    # File systems call what changes with a file by different names; some have none.
    tag = next((about[key] for key in TAGS if about.get(key)), "")
    return f"{about.get('size')} {tag}"


def _from_hub(name: str, revision: str | None, split: str, file: Path) -> Path:
    """A split of a data set as one Parquet file. Data sets hold no code that would run."""
    import datasets

    try:
        found = datasets.load_dataset(name, revision=revision, split=split)
    except ValueError as error:  # an unknown split or configuration
        raise UsageError(
            f"hf:{name}@{revision}:{split} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise PlaceError(
            f"hf:{name}@{revision} could not be fetched from {hub_named()}: "
            f"{str(error).splitlines()[0]}. "
            "Check the name, the network and HF_TOKEN"
        ) from error
    found.to_parquet(str(file))
    return file
