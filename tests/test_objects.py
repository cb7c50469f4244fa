"""Artifacts in an object store: what is put there comes back whole, goes on where it was broken
off, and is refused when a byte is not what was put."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from assay.errors import IntegrityError, PlaceError, UsageError
from assay.records.artifact import Artifact
from assay.settings import Settings
from assay.store import objects
from assay.store.artifacts import ArtifactStore, open_store
from assay.store.objects import ObjectStore
from objects import keys, s3_port, s3_server, url_of  # noqa: F401
from servers import free_port
from test_store import FILES, folder_with

LARGE = {**FILES, "weights/b.safetensors": os.urandom(23 << 20)}  # more than one part


@pytest.fixture
def url(s3_port: int, keys: Path, tmp_path: Path) -> str:
    return url_of(s3_port, f"{tmp_path.name}/place")


@pytest.fixture
def store(url: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts", ObjectStore(url, patience_s=20))


@pytest.fixture
def artifact(store: ArtifactStore, tmp_path: Path) -> Artifact:
    return store.put(folder_with(tmp_path / "made", LARGE), "model")


def elsewhere(store: ArtifactStore, tmp_path: Path) -> ArtifactStore:
    """Another machine of the place, whose folder is empty."""
    return ArtifactStore(tmp_path / "other" / "artifacts", store.remote)


def remote_of(store: ArtifactStore) -> ObjectStore:
    assert store.remote is not None
    return store.remote


def test_what_was_put_here_is_found_on_another_machine(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    other = elsewhere(store, tmp_path)
    assert other.is_kept(artifact.digest)
    assert not other.folder.exists()  # asking fetches nothing
    assert other.is_intact(artifact)
    other.verify(artifact)
    inside = other.folder / artifact.digest
    assert {name: (inside / name).read_bytes() for name in LARGE} == LARGE
    assert sorted(one.name for one in other.folder.iterdir()) == sorted(
        artifact.digest + end for end in ("", ".json", ".stat")
    )
    assert remote_of(store).sizes() == {artifact.digest: artifact.size}
    assert "AWS_ACCESS_KEY_ID" not in os.environ


def test_a_changed_byte_is_refused_and_fetched_anew_next_time(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    remote = remote_of(store)
    name = f"{artifact.digest}/weights/b.safetensors"
    good = LARGE["weights/b.safetensors"]
    remote._asked(objects._write, name, good[:-1] + bytes([good[-1] ^ 1]))
    other = elsewhere(store, tmp_path)
    with pytest.raises(IntegrityError, match=r"b\.safetensors in s3://.* its SHA-256 has changed"):
        other.is_intact(artifact)
    assert not (other.folder / artifact.digest).exists()
    remote._asked(objects._write, name, good)
    assert other.is_intact(artifact)


def test_a_manifest_of_another_artifact_is_refused(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    remote = remote_of(store)
    second = store.put(folder_with(tmp_path / "second", FILES), "model")
    text = (store.folder / f"{second.digest}.json").read_bytes()
    remote._asked(objects._write, f"{artifact.digest}.json", text)
    with pytest.raises(IntegrityError, match="is another's"):
        elsewhere(store, tmp_path).is_intact(artifact)


def broken_off(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], list[str]]:
    """Makes one of the steps on files end the second time that it is taken, as a process would;
    returns what tells of the files that were begun from then on."""
    step = getattr(objects, name)
    begun: list[str] = []

    def once_more(system: object, path: str, file: Path) -> None:
        begun.append(file.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        step(system, path, file)

    monkeypatch.setattr(objects, name, once_more)

    def from_now() -> list[str]:
        seen = list(begun)
        begun[:] = ["", ""]
        return seen

    return from_now


def test_an_upload_goes_on_where_it_was_broken_off(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = broken_off(monkeypatch, "_upload")
    with pytest.raises(KeyboardInterrupt):
        store.put(folder_with(tmp_path / "made", LARGE), "model")
    first, second = begun()
    assert remote_of(store).sizes() == {}  # without its manifest it is not there
    again = store.put(folder_with(tmp_path / "again", LARGE), "model")
    assert remote_of(store).sizes() == {again.digest: again.size}
    assert set(begun()[2:]) == {Path(name).name for name in LARGE} - {first}
    assert second != first


def test_a_download_goes_on_in_the_middle_of_a_file(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = elsewhere(store, tmp_path)
    part = other.folder / f"{artifact.digest}.part" / "weights" / "b.safetensors"
    part.parent.mkdir(parents=True)
    part.write_bytes(LARGE["weights/b.safetensors"][: 20 << 20])
    written: list[int] = []
    download = objects._download

    def counted(system: object, path: str, file: Path) -> None:
        before = file.stat().st_size if file.exists() else 0
        download(system, path, file)
        written.append(file.stat().st_size - before)

    monkeypatch.setattr(objects, "_download", counted)
    assert other.is_intact(artifact)
    assert sum(written) == artifact.size - (20 << 20)


@pytest.mark.timeout(240)
def test_a_store_that_is_away_for_a_while_is_waited_for(
    keys: Path,
    tmp_path: Path,
) -> None:
    port = free_port()
    store = ArtifactStore(tmp_path / "artifacts", ObjectStore(url_of(port, "a"), patience_s=200))
    put: list[Artifact] = []
    made = folder_with(tmp_path / "made", FILES)
    putting = threading.Thread(target=lambda: put.append(store.put(made, "model")))
    putting.start()
    with s3_server(port, tmp_path / "log"):
        putting.join()
        assert remote_of(store).has(put[0].digest)


def test_a_store_that_stays_away_is_told(keys: Path, tmp_path: Path) -> None:
    remote = ObjectStore(url_of(free_port(), "a"), patience_s=0)
    with pytest.raises(PlaceError, match=r"does not do what it is asked: .*ASSAY_ARTIFACT_URL"):
        ArtifactStore(tmp_path / "artifacts", remote).put(
            folder_with(tmp_path / "made", FILES), "model"
        )


@pytest.mark.parametrize("said", ["/mnt/artifacts", "file:///mnt", "ftp://host/artifacts"])
def test_a_url_of_another_kind_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match=r"ASSAY_ARTIFACT_URL is .* begins with one of s3://"):
        open_store(Settings(artifact_url=said))


def test_what_is_deleted_is_gone_here_and_there(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    store.delete(artifact.digest, everywhere=False)
    assert (store.digests(), store.is_kept(artifact.digest)) == ([], True)
    assert store.is_intact(artifact)  # it is brought back
    store.delete(artifact.digest)
    assert (store.digests(), remote_of(store).sizes()) == ([], {})
    assert not store.is_intact(artifact)
