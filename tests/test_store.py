"""The artifact store and the ledger, on real files and a real SQLite database."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assay.errors import IntegrityError, PlaceError, UsageError
from assay.records.artifact import Artifact
from assay.records.progress import Progress
from assay.records.releases.release import Champion, Traffic
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from assay.store.objects import ObjectStore
from objects import keys, s3_port, url_of  # noqa: F401

FILES = {"config.json": b'{"layers": 2}', "weights/a.safetensors": b"\x00" * 4096, "empty": b""}


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def flip_a_byte(file: Path) -> None:
    """Changes one byte and hides it: same size, same times."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(params=["folder", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(tmp_path / "artifacts")
    request.getfixturevalue("keys")
    url = url_of(request.getfixturevalue("s3_port"), tmp_path.name)
    return ArtifactStore(tmp_path / "artifacts", ObjectStore(url))


@pytest.fixture
def artifact(store: ArtifactStore, tmp_path: Path) -> Artifact:
    return store.put(folder_with(tmp_path / "made", FILES), "model")


def test_what_is_put_is_moved_in_whole(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    inside = Path(artifact.path)
    assert {name: (inside / name).read_bytes() for name in FILES} == FILES
    assert artifact.size == sum(map(len, FILES.values()))
    assert not (tmp_path / "made").exists()
    store.verify(artifact)
    assert store.is_intact(artifact)


def test_the_same_files_are_the_same_artifact(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    assert store.put(folder_with(tmp_path / "again", FILES), "model") == artifact
    assert not (tmp_path / "again").exists()
    other = store.put(folder_with(tmp_path / "other", FILES | {"empty": b"!"}), "model")
    assert other.digest != artifact.digest
    assert store.put(folder_with(tmp_path / "adapter", FILES), "adapter").digest != artifact.digest


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda folder: (folder / "config.json").write_bytes(b'{"layers": 3}'),
            "config.json .*SHA-256 has changed",
        ),
        (lambda folder: (folder / "weights/a.safetensors").unlink(), "a.safetensors is missing"),
        (lambda folder: (folder / "weights/extra.py").write_text(""), "extra.py was added"),
        (lambda folder: shutil.rmtree(folder), "config.json is missing"),
        (
            lambda folder: folder.with_suffix(".json").unlink(),
            "the manifest .* is missing or damaged",
        ),
        (
            lambda folder: folder.with_suffix(".json").write_text("{}"),
            "the manifest .* is missing or damaged",
        ),
    ],
    ids=["changed", "missing", "added", "gone", "no manifest", "damaged manifest"],
)
def test_every_change_is_found_and_named(
    store: ArtifactStore, artifact: Artifact, harm: Callable[[Path], object], said: str
) -> None:
    harm(Path(artifact.path))
    store.remote = None  # which would bring a lost one back
    assert not store.is_intact(artifact)
    with pytest.raises(IntegrityError, match=said):
        store.verify(artifact)


def test_verify_finds_one_byte_that_was_changed_in_secret(
    store: ArtifactStore, artifact: Artifact
) -> None:
    flip_a_byte(Path(artifact.path) / "weights/a.safetensors")
    with pytest.raises(IntegrityError, match="SHA-256 has changed"):
        store.verify(artifact)


def test_files_that_were_only_touched_are_still_intact(
    store: ArtifactStore, artifact: Artifact
) -> None:
    os.utime(Path(artifact.path) / "config.json", (1, 1))
    assert store.is_intact(artifact)


def test_a_manifest_that_another_wrote_does_not_pass(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    """Changing the files and the manifest together is found, since the digest is the manifest's."""
    other = store.put(folder_with(tmp_path / "other", FILES | {"empty": b"!"}), "model")
    shutil.copy(Path(other.path).with_suffix(".json"), Path(artifact.path).with_suffix(".json"))
    shutil.copy(Path(other.path) / "empty", Path(artifact.path) / "empty")
    with pytest.raises(IntegrityError, match="manifest"):
        store.verify(artifact)


def test_a_damaged_artifact_is_put_anew(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    flip_a_byte(Path(artifact.path) / "config.json")
    assert store.put(folder_with(tmp_path / "again", FILES), "model") == artifact
    store.verify(artifact)


def test_a_crash_between_folder_and_manifest_leaves_nothing_that_looks_finished(
    store: ArtifactStore, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "made", FILES)
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; from pathlib import Path; from assay.store import artifacts\n"
            "artifacts._write_atomically = lambda *_: os._exit(9)\n"  # the process ends just there
            "artifacts.ArtifactStore(Path(sys.argv[1])).put(Path(sys.argv[2]), 'model')",
            str(store.folder),
            str(folder),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == 9
    (half,) = store.folder.iterdir()
    unfinished = Artifact(digest=half.name, kind="model", path=str(half), size=0)
    assert not store.is_intact(unfinished)
    with pytest.raises(IntegrityError, match="manifest"):
        store.verify(unfinished)
    artifact = store.put(folder_with(tmp_path / "again", FILES), "model")
    assert artifact.digest == half.name
    store.verify(artifact)


def test_a_store_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(PlaceError, match=r"cannot write the artifact to .*artifacts"):
        ArtifactStore(tmp_path / "artifacts").put(folder_with(tmp_path / "made", FILES), "model")
    assert (tmp_path / "made/config.json").exists()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'home' / 'ledger.db'}")


def started(ledger: Ledger, *runs: str, by: str = "ben") -> None:
    for run in runs:
        ledger.open_run(run, name=run.split("-")[0], spec="{}", started_by=by)


def test_one_record_stands_under_one_key(ledger: Ledger, tmp_path: Path) -> None:
    started(ledger, "bot-1", "bot-2")
    for run, text in (("bot-1", "first"), ("bot-2", "second")):
        attempt = ledger.begin_stage(run, "train", "key")
        ledger.finish_stage(attempt, Progress(step=1, num_steps=1, text=text))
    again = Ledger(
        f"sqlite:///{tmp_path / 'home' / 'ledger.db'}"
    )  # as another process would see it
    row = again.record("key")
    assert row is not None
    assert (row.run, Progress.model_validate_json(row.record).text) == ("bot-2", "second")
    assert again.record("another key") is None


def test_a_stage_shows_its_newest_attempt(ledger: Ledger) -> None:
    started(ledger, "bot-1")
    ledger.fail_stage(ledger.begin_stage("bot-1", "train", "key"), "the disk is full")
    (failed,) = ledger.stages("bot-1")
    assert (failed.state, failed.error) == ("failed", "the disk is full")
    assert ledger.record("key") is None
    ledger.finish_stage(ledger.begin_stage("bot-1", "train", "key"), Progress(step=1, num_steps=1))
    ledger.begin_stage("bot-1", "merge", "key 2")
    ledger.reuse_stage("bot-1", "train", "key")
    assert [(stage.stage, stage.state) for stage in ledger.stages("bot-1")] == [
        ("train", "done"),
        ("merge", "running"),
    ]


def test_a_run_is_found_by_the_start_of_its_id(ledger: Ledger) -> None:
    started(ledger, "bot-1a2b3c", "bot-1affff", "bot")
    assert ledger.find_run("bot-1a2").id == "bot-1a2b3c"
    assert ledger.find_run("bot").id == "bot"  # all of an id is never ambiguous
    assert ledger.find_run("").id == "bot"
    started(ledger, "bot-1a2b3c")
    assert ledger.find_run("").id == "bot-1a2b3c"  # the one that was started last
    with pytest.raises(UsageError, match="could be any of bot-1a2b3c, bot-1affff"):
        ledger.find_run("bot-1a")
    with pytest.raises(UsageError, match="no run starts with 'cat'; `assay status`"):
        ledger.find_run("cat")


def test_everybody_who_started_a_run_is_known(ledger: Ledger) -> None:
    started(ledger, "bot-1", "bot-2")
    started(ledger, "bot-1", by="anna")
    assert ledger.starters("bot-1") == {"anna", "ben"}
    assert ledger.starters("bot-2") == {"ben"}


def test_the_champion_is_who_the_last_change_of_traffic_says(ledger: Ledger) -> None:
    assert ledger.champion() is None
    first, second = (
        Champion(run=run, slot=slot, model_name="bot", artifact_digest=run, since=1.0)  # type: ignore[arg-type]
        for run, slot in (("bot-1", "blue"), ("bot-2", "green"))
    )
    for champion, former in ((first, None), (second, first)):
        ledger.add_traffic(Traffic(action="promote", champion=champion, former=former, by="anna"))
    assert ledger.champion() == second
    assert [change.former for change in ledger.traffic()] == [None, first]
    ledger.add_traffic(Traffic(action="rollback", champion=None, former=second, by="anna"))
    assert ledger.champion() is None


def test_a_ledger_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(PlaceError, match="Set ASSAY_HOME to a folder you may write"):
        Ledger(f"sqlite:///{tmp_path / 'home' / 'ledger.db'}")


def test_a_ledger_that_may_be_read_only_refuses_to_write(ledger: Ledger, tmp_path: Path) -> None:
    url = f"sqlite:///file:{tmp_path / 'home' / 'ledger.db'}?mode=ro&uri=true"
    with pytest.raises(
        PlaceError, match=r"cannot be used: .*readonly.* set ASSAY_HOME or ASSAY_LEDGER_URL"
    ):
        started(Ledger(url), "bot-1")


def test_a_file_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is no database, however long it may be" * 40)
    with pytest.raises(PlaceError, match="cannot be used: file is not a database"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_two_processes_may_write_at_once(ledger: Ledger, tmp_path: Path) -> None:
    """A writer waits for the other one rather than fail."""
    file = tmp_path / "home" / "ledger.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from assay.store.ledger import Ledger\n"
            "ledger = Ledger(sys.argv[1]); print('open', flush=True)\n"
            "ledger.open_run('bot-1', name='bot', spec='{}', started_by='ben')",
            f"sqlite:///{file}",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(timeout=0.3)
    other.execute("COMMIT")
    other.close()
    assert writer.wait(timeout=20) == 0
    writer.stdout.close()
    assert ledger.find_run("").id == "bot-1"


def test_attempts_are_counted_once_for_each_candidate_and_split(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.open_run("bot-1", name="bot", spec="{}", started_by="ben")

    def attempt(subject: str, *splits: str, budget: int | None = None) -> int | None:
        return ledger.add_attempt(splits, subject, run="bot-1", budget=budget)

    assert [attempt(subject, "facts", "elements") for subject in ("a", "b", "a", "c")] == [
        1,
        2,
        1,
        3,
    ]
    assert attempt("d", "facts", "new items") == 4  # one split renewed does not renew the other
    assert attempt("e", "new items") == 2
    assert attempt("f", "facts", budget=4) is None
    assert ledger.num_attempts("facts") == 4  # what was refused was not counted
    assert attempt("a", "facts", budget=4) == 1
    assert attempt("f", "facts", budget=5) == 5


def test_attempts_at_the_same_time_never_exceed_the_budget(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.open_run("bot-1", name="bot", spec="{}", started_by="ben")
    with ThreadPoolExecutor(8) as pool:
        numbers = list(
            pool.map(
                lambda i: ledger.add_attempt(["facts"], f"{i}", run="bot-1", budget=5), range(16)
            )
        )
    assert sorted(number for number in numbers if number) == [1, 2, 3, 4, 5]
    assert ledger.num_attempts("facts") == 5


def link(folder: Path) -> None:
    """What a folder of templates beside the model would be: a link to somebody's own."""
    planted = folder.parent / "planted"
    planted.mkdir()
    (planted / "default.jinja").write_text("{{ 'say yes' }}")
    (folder / "additional_chat_templates").symlink_to(planted)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (link, "additional_chat_templates is a symbolic link"),
        (lambda folder: os.mkfifo(folder / "extra"), "extra is a pipe"),
        (lambda folder: replaced(folder / "config.json", os.mkfifo), "config.json is a pipe"),
        (
            lambda folder: replaced(folder / "config.json", lambda at: at.symlink_to("/dev/zero")),
            "config.json is a sym",
        ),
        (lambda folder: swapped_for_a_link(folder), "is a symbolic link, not a folder"),
    ],
    ids=["linked folder", "added pipe", "pipe", "linked device", "linked artifact"],
)
def test_s9_nothing_stands_in_for_a_plain_file(
    store: ArtifactStore, artifact: Artifact, harm: Callable[[Path], object], said: str
) -> None:
    harm(Path(artifact.path))
    assert not store.is_intact(artifact)
    with pytest.raises(IntegrityError, match=said):
        store.verify(artifact)


def replaced(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


def swapped_for_a_link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def test_s9_what_is_no_plain_file_is_not_put(store: ArtifactStore, tmp_path: Path) -> None:
    made = folder_with(tmp_path / "made", FILES)
    (made / "tokenizer.json").symlink_to("/etc/passwd")
    with pytest.raises(
        PlaceError, match=r"tokenizer.json is a symbolic link.* plain files and folders alone"
    ):
        store.put(made, "model")


def test_s16_the_ledger_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "home" / "ledger.db"
    Ledger(f"sqlite:///{file}")
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)  # as older versions left it
    Ledger(f"sqlite:///{file}")
    assert file.stat().st_mode & 0o007 == 0
