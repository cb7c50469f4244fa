"""`assay doctor`: each fault is planted, found, and gone when it is mended."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from assay.errors import ExitCode
from assay.flow.place.book import place_keys
from assay.flow.place.head import head_file
from assay.flow.place.people import add_user
from assay.flow.release.doctor import Fault, examine
from assay.flow.release.receipts import receipt_store
from assay.serving import admin, gateway, supervisor
from office import TO_BLUE, TO_NOBODY, Office, office, running  # noqa: F401


@pytest.fixture
def released(office: Office) -> str:
    """A run that has the traffic, in a place that is as it should be."""
    shutil.rmtree(office.settings.home / "receipts", ignore_errors=True)
    office.settings.home.chmod(0o700)
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.promote(run)
    assert faults(office) == []
    return run


def faults(office: Office, *, reads_all: bool = True) -> list[Fault]:
    checks = examine(office.settings, reads_all=reads_all)
    return [fault for check in checks for fault in check.faults]


def found(office: Office, check: str, said: str) -> None:
    """One fault, by this check, with something to do."""
    (fault,) = faults(office)
    assert fault.check == check
    assert said in fault.what
    assert fault.remedy


def database_file(office: Office) -> Path:
    return Path(office.settings.ledger_url.removeprefix("sqlite:///"))


def change(office: Office, statement: str) -> None:
    connection = sqlite3.connect(database_file(office))
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_healthy_place_and_a_new_one(office: Office, released: str, tmp_path: Path) -> None:
    done = office.command("doctor")
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    names = [line.split()[1] for line in done.stdout.splitlines()]
    assert names == [
        "permissions",
        "secrets",
        "ledger",
        "audit",
        "policy",
        "artifacts",
        "receipts",
        "gateway",
    ]
    new = replace(
        office.settings, home=tmp_path / "new", ledger_url=f"sqlite:///{tmp_path}/new/ledger.db"
    )
    assert [fault for check in examine(new) for fault in check.faults] == []
    assert not (tmp_path / "new").exists()


def test_a_fault_ends_the_command_with_1_and_is_told_with_what_to_do(
    office: Office, released: str
) -> None:
    file = office.model_file(released)
    text = file.read_text()
    file.write_text("other weights")
    done = office.command("doctor")
    file.write_text(text)
    assert done.returncode == ExitCode.FAILED
    assert "fault  artifacts" in done.stdout
    assert "model.safetensors is not what was evaluated" in done.stdout
    assert "→ move it away" in done.stdout
    told = json.loads(office.command("doctor", "--quick", "--json").stdout)
    assert [check["name"] for check in told if check["faults"]] == []


def test_a_ledger_that_is_no_database(office: Office, released: str) -> None:
    whole = database_file(office).read_bytes()
    database_file(office).write_bytes(b"x" * 100)
    found(office, "ledger", "not a database")
    database_file(office).write_bytes(whole)
    assert faults(office) == []


def test_a_ledger_with_damaged_pages(office: Office, released: str) -> None:
    """An index that does not hold what its table does: what reads by the index misses rows."""
    change(office, "PRAGMA writable_schema = ON")
    connection = sqlite3.connect(database_file(office))
    (page, size) = (
        connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'ix_starts_run'"
        ).fetchone()[0],
        connection.execute("PRAGMA page_size").fetchone()[0],
    )
    connection.close()
    whole = database_file(office).read_bytes()
    at = (page - 1) * size
    empty_leaf = bytes([10, 0, 0, 0, 0]) + size.to_bytes(2, "big") + b"\0"
    database_file(office).write_bytes(
        whole[:at] + empty_leaf.ljust(size, b"\0") + whole[at + size :]
    )
    assert any("index" in fault.what for fault in faults(office) if fault.check == "ledger")
    database_file(office).write_bytes(whole)
    assert faults(office) == []


@pytest.mark.parametrize(
    ("statement", "check", "said"),
    [
        ("DELETE FROM approvals", "audit", "an approval was removed"),
        ("UPDATE audit SET at = 1.0 WHERE sequence = 2", "audit", "event 2 of the audit"),
        ("UPDATE traffic SET traffic = '{}'", "audit", "a change of traffic was changed"),
    ],
)
def test_a_ledger_that_was_written_to(
    office: Office, released: str, statement: str, check: str, said: str
) -> None:
    whole = database_file(office).read_bytes()
    change(office, statement)
    assert [fault.check for fault in faults(office) if said in fault.what] == [check]
    assert office.command("doctor").returncode == ExitCode.FAILED
    database_file(office).write_bytes(whole)
    assert faults(office) == []


def test_a_ledger_of_another_place(office: Office, released: str) -> None:
    head = head_file(office.settings)
    whole = head.read_text()
    head.write_text(json.dumps({**json.loads(whole), "digest": "f" * 64}))
    found(office, "audit", "the ledger's audit is not the one of this place")
    head.write_text(whole)
    assert faults(office) == []


def test_a_token_whose_signature_is_gone(office: Office, released: str) -> None:
    add_user(office.settings, "anna", ("review",))
    change(office, "UPDATE grants SET envelope = '{}'")
    assert {fault.check for fault in faults(office)} == {"audit", "policy"}


def test_an_artifact_that_was_changed_or_is_gone(office: Office, released: str) -> None:
    file = office.model_file(released)
    text = file.read_text()
    file.write_text(text.replace("bot", "bos"))
    found(office, "artifacts", "its SHA-256 has changed")
    file.unlink()
    found(office, "artifacts", "is missing from the artifact")
    file.write_text(text)
    (file.parent / "more").write_text("")
    found(office, "artifacts", "was added to the artifact")
    (file.parent / "more").unlink()
    manifest = file.parent.with_name(f"{file.parent.name}.json")
    manifest.rename(manifest.with_suffix(".away"))
    found(office, "artifacts", "the manifest of artifact")  # of the champion
    manifest.with_suffix(".away").rename(manifest)
    assert faults(office) == []


def test_a_receipt_that_was_changed_or_is_gone(office: Office, released: str) -> None:
    folder = receipt_store(office.settings).folder / released
    release, approval = next(folder.glob("release-*")), next(folder.glob("approval-*"))
    whole = approval.read_text()
    approval.write_text(whole.replace('"sig": "', '"sig": "AA'))
    assert {fault.check for fault in faults(office)} == {"receipts"}
    approval.write_text(whole)
    for gone, said in ((approval, "is not there"), (release, "no receipt of its release")):
        away = gone.with_suffix(".away")
        gone.rename(away)
        assert any(said in fault.what for fault in faults(office) if fault.check == "receipts")
        away.rename(gone)
    assert faults(office) == []


def test_a_gateway_that_is_not_as_the_ledger_says(office: Office, released: str) -> None:
    settings = office.settings
    writer, approved = gateway.newest_writer(settings), gateway.get_approved(settings)
    gateway.give(settings, TO_NOBODY, approved, writer=writer)
    found(office, "gateway", "the gateway's weights are not the ledger's")
    gateway.give(settings, TO_BLUE, approved, writer=writer)
    supervisor.keep_weights(settings, TO_NOBODY)  # right now, and wrong after a restart
    found(office, "gateway", "at the next start")
    supervisor.keep_weights(settings, TO_BLUE)
    admin.ask(settings, f"add map approved.map {'b' * 64} 1")
    found(office, "gateway", "lets artifact bbbbbbbbbbbb through")
    assert office.command("up", "--gateway-only").returncode == ExitCode.DONE
    assert faults(office) == []
    other = office.evaluated("other", "green")
    office.deploy("blue", office.model(other).artifact.path)
    found(office, "gateway", f"slot blue holds {office.model(other).artifact.digest[:12]}, not")


def test_a_gateway_that_does_not_run(office: Office, released: str, tmp_path: Path) -> None:
    """Another home with the same ledger: what an administrator sees who has started nothing."""
    home = tmp_path / "home"
    shutil.copytree(office.settings.home, home, ignore=shutil.ignore_patterns("supervisor.pid"))
    for folder in ("gateway", "keys"):
        (home / folder).chmod(0o700)
    office.settings = replace(office.settings, home=home)
    found(office, "gateway", "the gateway does not run")


@pytest.mark.parametrize(
    ("path", "mode", "said"),
    [
        (lambda office: next(place_keys(office.settings).folder.glob("*.key")), 0o640, "0640"),
        (lambda office: place_keys(office.settings).folder, 0o755, "0755"),
        (lambda office: supervisor.keys_map(office.settings), 0o604, "0604"),
        (lambda office: supervisor.weights_file(office.settings), 0o662, "others may write"),
        (lambda office: supervisor.folder(office.settings), 0o750, "0750"),
        (lambda office: office.settings.home, 0o770, "others may write"),
        (lambda office: office.settings.home / "artifacts", 0o777, "others may write"),
        (lambda office: receipt_store(office.settings).folder, 0o777, "others may write"),
    ],
)
def test_what_others_may_read_or_write(
    office: Office, released: str, path: Callable[[Office], Path], mode: int, said: str
) -> None:
    place = path(office)
    before = place.stat().st_mode & 0o777
    place.chmod(mode)
    (fault,) = (one for one in faults(office) if one.check == "permissions")
    assert said in fault.what
    assert fault.remedy.startswith("chmod")
    place.chmod(before)
    assert faults(office) == []


def test_a_ledger_that_others_may_read(office: Office, released: str) -> None:
    database_file(office).chmod(0o644)
    found(office, "permissions", "others may read or write")
