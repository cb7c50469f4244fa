"""Receipts: what served whom, and why it might, shown from files and a public key alone."""

import base64
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.errors import ExitCode, IntegrityError, NotApproved, PlaceError
from assay.flow.place.book import place_keys
from assay.flow.place.head import head_file
from assay.flow.release.operations import reconcile_releases, rollback_run
from assay.flow.release.receipts import receipt_store, verify_folder
from assay.records.releases.receipt import Envelope, Statement, read_statement
from assay.store.receipts import PlaceKeys, ReceiptStore, open_receipt
from office import Office, office, running  # noqa: F401


@pytest.fixture
def released(office: Office, tmp_path: Path) -> Path:
    """The receipts of one release, copied to where there is nothing else."""
    shutil.rmtree(office.settings.home / "receipts", ignore_errors=True)
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.promote(run)
    return Path(
        shutil.copytree(receipt_store(office.settings).folder / run, tmp_path / "elsewhere")
    )


def public(office: Office) -> list[Path]:
    return place_keys(office.settings).public_files()


def test_a_release_is_verified_from_files_and_a_public_key(
    office: Office, released: Path, tmp_path: Path
) -> None:
    kinds = sorted(file.name.split("-")[0] for file in released.glob("*.json"))
    assert kinds == ["approval", "deployment", "evaluation", "release"]
    release = verify_folder(released, public(office))
    assert (release.kind, release.run) == ("release", "bot-1a2b3c")

    model = Path(shutil.copytree(office.model(release.run).artifact.path, tmp_path / "model"))
    verify_folder(released, public(office), model=model)
    (model / "model.safetensors").write_text("other weights")
    with pytest.raises(IntegrityError, match="and the receipts are of"):
        verify_folder(released, public(office), model=model)


def test_the_command_verifies_a_run_a_folder_and_a_file(office: Office, released: Path) -> None:
    key = str(public(office)[0])
    for what in ("bot", str(released), str(next(released.glob("approval-*")))):
        done = office.command("verify", what, "--key", key)
        assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
        assert "the signatures hold" in done.stdout
    assert (
        json.loads(office.command("verify", "bot", "--json").stdout)["predicateType"]
        == "urn:assay:release:1"
    )
    assert office.command("audit", "--verify").returncode == ExitCode.DONE
    assert "bot-1a2b3c (slot blue" in office.command("audit", "--at", "2100-01-01").stdout
    assert "nobody had the traffic" in office.command("audit", "--at", "2001-01-01").stdout
    kinds = [event["kind"] for event in json.loads(office.command("audit", "--json").stdout)]
    assert kinds.count("approve") == 1
    assert kinds[-2:] == ["traffic", "release"]


def test_an_exported_head_tells_of_an_audit_that_was_written_anew(
    office: Office, released: Path, tmp_path: Path
) -> None:
    """Even by somebody who has the place's key and all of its files: the head is kept elsewhere."""
    head = tmp_path / "head.json"
    done = office.command("audit", "--export", str(head))
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    reconcile_releases(office.settings, say=lambda _: None)
    second = office.evaluated("second", "green")
    office.approve(second)
    done = office.command("audit", "--since", str(head))
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert "nothing up to" in done.stdout

    file = Path(office.settings.ledger_url.removeprefix("sqlite:///"))
    file.unlink()
    head_file(office.settings).unlink()
    anew = Office(office.running, office.settings.ledger_url)
    anew.approve(anew.evaluated("bot", "blue"))
    anew.command("audit", "--verify")
    done = anew.command("audit", "--since", str(head))
    assert done.returncode == ExitCode.DRIFT
    assert "was rewritten since" in done.stderr
    receipt = next(released.glob("release-*"))
    assert anew.command("audit", "--since", str(receipt)).returncode == ExitCode.USAGE
    head.write_text(head.read_text().replace('"sig": "', '"sig": "AA'))
    assert anew.command("audit", "--since", str(head)).returncode == ExitCode.DRIFT


def test_a_rollback_has_receipts_of_its_own(office: Office, released: Path) -> None:
    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    rollback_run(settings=office.settings, reason="it rhymes")
    folder = receipt_store(office.settings).folder / "bot-1a2b3c"
    release = verify_folder(folder, public(office))
    assert release.predicate["intent"]["action"] == "rollback"


def test_what_another_key_has_signed_is_refused(
    office: Office, released: Path, tmp_path: Path
) -> None:
    other = PlaceKeys(tmp_path / "keys")
    other.make()
    with pytest.raises(IntegrityError, match="and not by a key that was given"):
        verify_folder(released, other.public_files())


def test_a_rotated_key_still_vouches_for_what_it_signed(office: Office, released: Path) -> None:
    keys = place_keys(office.settings)
    before = keys.current()
    assert keys.make() != before
    verify_folder(released, public(office))
    for file in keys.folder.glob("*.key"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path) -> None:
    keys = PlaceKeys(tmp_path / "keys")
    (keys.folder / f"{keys.make()}.key").chmod(0o644)
    with pytest.raises(PlaceError, match="others may read"):
        keys.sign(Statement(kind="approval", run="bot", artifact="a", predicate={}))


Data = dict[str, Any]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a document that holds no others."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if not inner:
        yield path
        return
    for key, one in inner:
        yield from leaves(one, (*path, key))


def changed(document: Data, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Data:
    document = copy.deepcopy(document)
    holder: Any = document
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return document


def flip(holder: Any, key: Any) -> None:
    value = holder[key]
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        holder[key] = "changed"
    elif isinstance(value, int | float):
        holder[key] = value + 1
    else:
        holder[key] = value[:-1] + ("0" if value[-1:] != "0" else "1")


def drop(holder: Any, key: Any) -> None:
    del holder[key]


def empty(holder: Any, key: Any) -> None:
    holder[key] = "" if holder[key] is None else None


def payload_of(file: Path) -> Data:
    document: Data = json.loads(
        base64.b64decode(Envelope.model_validate_json(file.read_text()).payload)
    )
    return document


def test_every_changed_field_of_every_receipt_is_refused(
    office: Office, released: Path, tmp_path: Path
) -> None:
    """Each field flipped, dropped and emptied, by somebody who has no key: refused, and named."""
    tried, keys = 0, public(office)
    for file in sorted(released.glob("*.json")):
        whole = file.read_text()
        envelope, document = json.loads(whole), payload_of(file)
        for path in leaves(document):
            for change in (flip, drop, empty):
                said = json.dumps(changed(document, path, change)).encode()
                file.write_text(
                    json.dumps({**envelope, "payload": base64.b64encode(said).decode()})
                )
                with pytest.raises(IntegrityError, match=file.name) as refused:
                    open_receipt(file, keys)
                named = str(refused.value).partition(" signed it: ")[2].split(", ")
                # What was taken out of a list moves all that came after it.
                holder = path[:-1] if isinstance(path[-1], int) else path
                field = ".".join(map(str, holder))
                # An object that was emptied is named by the fields that it had.
                assert all((name + ".").startswith(field + ".") for name in named), (field, named)
                tried += 1
        turned = json.dumps(dict(reversed(document.items()))).encode()
        file.write_text(json.dumps({**envelope, "payload": base64.b64encode(turned).decode()}))
        with pytest.raises(IntegrityError, match="the order of its keys"):
            open_receipt(file, keys)
        forged = {**envelope["fields"], "digests": {}}
        file.write_text(json.dumps({**envelope, "payload": "e30=", "fields": forged}))
        with pytest.raises(IntegrityError, match="the digests of its fields were, too"):
            open_receipt(file, keys)
        file.write_text(whole)
    assert tried >= 200
    verify_folder(released, public(office))


BOUND = [
    ("evaluation", "scorecard.outcome", "FAIL"),
    ("evaluation", "scorecard.artifact_digest", "f" * 64),
    ("evaluation", "approval.reviewers", ["mallory"]),
    ("evaluation", "started_by", ["anna"]),
    ("approval", "decision", "reject"),
    ("approval", "reviewer", "mallory"),
    ("approval", "scorecard_digest", "f" * 64),
    ("approval", "artifact_digest", "f" * 64),
    ("approval", "given_at", 0.0),
    ("deployment", "loaded", {}),
    ("deployment", "loaded", {"blue#1": "f" * 64}),
    ("deployment", "deployed_at", 1.0),
    ("release", "intent.candidate.artifact_digest", "f" * 64),
    ("release", "intent.candidate.slot", "green"),
    ("release", "intent.candidate.run", "another"),
    ("release", "intent.scorecard_digest", "f" * 64),
    ("release", "intent.deployed_at", 1.0),
    ("release", "rests_on.approval", []),
    ("release", "rests_on.evaluation", ["f" * 64]),
    ("release", "rests_on.deployment", []),
]


@pytest.mark.parametrize(("kind", "field", "value"), BOUND)
def test_statements_that_do_not_bear_each_other_out_are_refused_even_when_signed(
    office: Office, released: Path, tmp_path: Path, kind: str, field: str, value: Any
) -> None:
    """Signed by the place's own key, the digests between them set right: what is left are the
    facts."""
    statements = {
        open_receipt(file, public(office)).kind: open_receipt(file, public(office))
        for file in released.glob("*.json")
    }

    def set_to(holder: Any, key: Any) -> None:
        holder[key] = value

    statement = statements[kind]  # type: ignore[index]
    predicate = changed(statement.predicate, tuple(field.split(".")), set_to)
    statements[statement.kind] = statement.model_copy(update={"predicate": predicate})
    release = statements["release"]
    if kind != "release":
        rests_on = {**release.predicate["rests_on"], kind: [statements[statement.kind].digest]}
        statements["release"] = release.model_copy(
            update={"predicate": {**release.predicate, "rests_on": rests_on}}
        )
    store = ReceiptStore(tmp_path / "forged", place_keys(office.settings))
    files = store.write(statements.values())
    with pytest.raises((IntegrityError, NotApproved)):
        verify_folder(files[0].parent, public(office))


def test_receipts_of_another_run_do_not_help(office: Office, released: Path) -> None:
    """Replayed: the approval of one run beside the evaluation of another."""
    other = office.evaluated("other", "green")
    office.approve(other)
    office.promote(other)
    theirs = receipt_store(office.settings).folder / other
    approval = next(released.glob("approval-*"))
    approval.unlink()
    shutil.copy(next(theirs.glob("approval-*")), released)
    with pytest.raises(
        IntegrityError, match=r"the approval that the release rests on \(.*\) is not there"
    ):
        verify_folder(released, public(office))


def test_a_payload_is_read_only_as_it_was_written(released: Path) -> None:
    """The same facts in another order of keys, or with more beside them, are not the same
    statement."""
    document = payload_of(next(released.glob("release-*")))
    read_statement(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    turned = {key: document[key] for key in sorted(document, reverse=True)}
    for said in (turned, document | {"more": 1}):
        with pytest.raises(ValueError, match="it is"):
            read_statement(json.dumps(said).encode())


def test_statements_are_written_by_rfc_8785(tmp_path: Path) -> None:
    reason = "\u20ac 1e3 \ud55c\uae00"
    predicate = {"\u20ac": 1e21, "\r": 4.50, "\ufb33": 0.002, "\U0001f600": 56.0, "reason": reason}
    statement = Statement(kind="approval", run="r", artifact="a" * 64, predicate=predicate)
    # Keys by UTF-16's units, numbers as ECMAScript writes them, nothing escaped that need not be.
    said = '"predicate":{"\\r":4.5,"reason":"\u20ac 1e3 \ud55c\uae00","\u20ac":1e+21,"\U0001f600":56,"\ufb33":0.002}'
    assert said in statement.payload().decode()
    assert read_statement(statement.payload()) == statement


def test_a_receipt_of_a_version_before_is_read_as_it_was_signed(tmp_path: Path) -> None:
    keys, folder = PlaceKeys(tmp_path / "keys"), tmp_path / "receipts"
    escaped = Statement(
        kind="approval", run="r", artifact="a" * 64, predicate={"reviewer": "李雷"}, form="escaped"
    )
    assert b"\\u674e" in escaped.payload()
    (file,) = ReceiptStore(folder, keys).write([escaped])
    read = open_receipt(file, keys.public_files())
    assert read.digest == escaped.digest
