"""Who acts: personal tokens, where a place's policy asks for them; each way around them is tried."""

import base64
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.errors import ExitCode, IntegrityError, NotApproved, PlaceError
from assay.flow.place.book import place_keys, read_place
from assay.flow.place.head import head_file
from assay.flow.place.identity import act
from assay.flow.place.people import add_user, login, revoke
from assay.flow.place.policy import set_policy
from assay.flow.release.operations import (
    ReviewerWord,
    reconcile_releases,
    record_decision,
    rollback_run,
)
from assay.records.record import canonical_json, digest_of
from assay.records.releases.grant import Grant, PolicyChange, Role, grant_statement
from assay.records.releases.release import Approval, Champion, Traffic
from assay.settings import Settings
from assay.store.audit import this_process
from assay.store.ledger import Ledger
from assay.store.receipts import PlaceKeys
from assay.store.schema.tables import digest_of_text
from office import TO_BLUE, TO_NOBODY, Office, office, running, with_token  # noqa: F401

EVERYTHING: tuple[Role, ...] = ("run", "review", "release", "admin")


def policy_file(folder: Path, text: str) -> Path:
    file = folder / "policy.yaml"
    file.write_text(f"{text}\n")
    return file


class Guarded:
    """An office whose policy asks for tokens, and what its people have."""

    def __init__(self, office: Office, folder: Path) -> None:
        self.office = office
        self.tokens = {}
        roles: dict[str, tuple[Role, ...]] = {
            "root": ("admin",),
            "ben": ("run", "review", "release"),
            "anna": ("review",),
            "zoe": ("run",),
        }
        for name, its in roles.items():
            self.tokens[name], _ = add_user(office.settings, name, its)
        set_policy(self.of("root"), policy_file(folder, "identity: tokens"))

    def of(self, name: str) -> Settings:
        return with_token(self.office, self.tokens[name])

    def approve(self, run: str, name: str, *, claimed: str = "") -> None:
        record_decision(run, ReviewerWord("approve", claimed, ""), settings=self.of(name))


@pytest.fixture
def guarded(office: Office, tmp_path: Path) -> Guarded:
    return Guarded(office, tmp_path)


@contextmanager
def database(office: Office) -> Iterator[sqlite3.Connection]:
    """The ledger's file, as somebody opens it who may write there."""
    connection = sqlite3.connect(Path(office.settings.ledger_url.removeprefix("sqlite:///")))
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def add_event(
    connection: sqlite3.Connection, kind: str, content: dict[str, Any], run: str = ""
) -> None:
    """An event that goes on from the chain as it is, as one writes it who knows how."""
    sequence, digest = connection.execute(
        "SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    facts = {
        "sequence": sequence + 1,
        "at": 1.0,
        "kind": kind,
        "run": run,
        "content": content,
        "actor": this_process("root").model_dump(),
        "previous": digest,
    }
    row = {
        **facts,
        "content": canonical_json(content),
        "actor": json.dumps(facts["actor"]),
        "digest": digest_of(facts),
    }
    names = ", ".join(row)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO audit ({names}) VALUES ({marks})", tuple(row.values()))


def add_grant(office: Office, kind: str, number: int, envelope: str) -> None:
    with database(office) as connection:
        connection.execute("INSERT INTO grants VALUES (?, ?, ?)", (number, kind, envelope))
        add_event(connection, kind, {"name": "x", "statement": digest_of_text(envelope)})


def test_a_release_with_tokens_says_who_did_what(guarded: Guarded) -> None:
    office = guarded.office
    run = office.evaluated("bot", "blue")
    guarded.approve(run, "anna")
    for arguments in (("promote", run), ("promote", run)):
        done = office.command(*arguments, token=guarded.tokens["ben"])
        assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert office.weights() == TO_BLUE
    (word,) = office.ledger.approvals(run)
    assert word.actor is not None
    assert (word.reviewer, word.actor.name) == ("anna", "anna")
    assert (word.actor.token, word.actor.uid) == (guarded.tokens["anna"].split("_")[1], os.getuid())
    moved = [event for event in office.ledger.verify() if event.kind == "traffic"]
    assert [(one.actor.name, one.actor.token) for one in moved] == [
        ("ben", guarded.tokens["ben"].split("_")[1])
    ]


def test_a_run_is_started_by_whom_the_token_names_and_not_by_whom_they_say(
    guarded: Guarded,
) -> None:
    """`ASSAY_USER=anna assay run` was the way to a run that its author could approve."""
    settings = replace(guarded.of("ben"), user="anna")
    ledger = Ledger(settings.ledger_url)
    actor = act(settings, ledger, "run")
    ledger.open_run("bot-9", name="bot", spec="{}", started_by=actor.name)
    assert ledger.starters("bot-9") == {"ben"}
    started = [event for event in ledger.verify() if event.kind == "start"]
    assert started[-1].actor.token == guarded.tokens["ben"].split("_")[1]


def test_nobody_approves_in_another_name(guarded: Guarded) -> None:
    run = guarded.office.evaluated("bot", "blue")
    with pytest.raises(NotApproved, match="the token is ben's, so nothing is done here as anna"):
        guarded.approve(run, "ben", claimed="anna")
    with pytest.raises(NotApproved, match="they started this run"):
        guarded.approve(run, "ben")
    done = guarded.office.command("approve", run, "--as", "anna")
    assert done.returncode == ExitCode.NOT_APPROVED
    assert "this place asks who you are" in done.stderr
    assert guarded.office.ledger.approvals(run) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("zoe", "zoe has the roles run, and this takes `review`"), ("root", "this takes `review`")],
)
def test_a_role_opens_what_it_names_alone(guarded: Guarded, name: str, said: str) -> None:
    office = guarded.office
    run = office.evaluated("bot", "blue")
    with pytest.raises(NotApproved, match=said):
        guarded.approve(run, name)
    guarded.approve(run, "anna")
    office.settings = guarded.of("anna")
    for refused in (
        lambda: office.promote(run),
        lambda: rollback_run(settings=office.settings, reason=""),
    ):
        with pytest.raises(NotApproved, match="this takes `release`"):
            refused()
    for refused_to_admins in (
        lambda: add_user(office.settings, "mallory", EVERYTHING),
        lambda: revoke(office.settings, "root"),
    ):
        with pytest.raises(NotApproved, match="this takes `admin`"):
            refused_to_admins()
    assert office.weights() == TO_NOBODY


def test_tokens_that_open_nothing(guarded: Guarded) -> None:
    office, run = guarded.office, guarded.office.evaluated("bot", "blue")
    genuine = guarded.tokens["anna"]
    late, _ = add_user(guarded.of("root"), "anna", ("review",), life_s=-1.0)
    gone, grant = add_user(guarded.of("root"), "anna", ("review",))
    revoke(guarded.of("root"), grant.token)
    tries = {
        late: "has expired",
        gone: "was revoked",
        genuine[:-1] + ("0" if genuine[-1] != "0" else "1"): "is not known at this place",
        genuine.replace(genuine.split("_")[1], "0" * 8): "is not known at this place",
        genuine.upper(): "is no token of Assay",
        "": "this place asks who you are",
    }
    for token, said in tries.items():
        settings = with_token(office, token)
        with pytest.raises(NotApproved, match=said):
            record_decision(run, ReviewerWord("approve", "", ""), settings=settings)
        if token:
            with pytest.raises(NotApproved, match=said):
                login(settings, token)
    guarded.approve(run, "anna")
    revoke(guarded.of("root"), "ANNA")  # a person, however the name is written
    with pytest.raises(NotApproved, match="was revoked"):
        guarded.approve(run, "anna")


def test_the_last_admin_stays(guarded: Guarded) -> None:
    with pytest.raises(NotApproved, match="no admin would be left"):
        revoke(guarded.of("root"), "root")


def test_a_place_that_nobody_could_change_is_not_made(office: Office, tmp_path: Path) -> None:
    file = policy_file(tmp_path, "identity: tokens")
    with pytest.raises(NotApproved, match="nobody without a token could change the policy again"):
        set_policy(office.settings, file)
    token, _ = add_user(office.settings, "zoe", ("run",))
    with pytest.raises(NotApproved, match="this takes `admin`"):
        set_policy(with_token(office, token), file)


def test_a_token_counts_where_words_are_believed_too(office: Office) -> None:
    """Who has logged in is not somebody else by a slip of `--as`."""
    token, _ = add_user(office.settings, "anna", ("review",))
    run = office.evaluated("bot", "blue")
    office.settings = with_token(office, token)
    with pytest.raises(NotApproved, match="the token is anna's"):
        office.approve(run, "ben")
    office.approve(run, "ANNA")
    assert office.ledger.approvals(run)[0].reviewer == "anna"


def test_login_keeps_the_token_for_its_owner_alone(guarded: Guarded, tmp_path: Path) -> None:
    office = guarded.office
    settings = replace(office.settings, token_file=tmp_path / "kept" / "token")
    login(settings, guarded.tokens["ben"])
    assert settings.token_file.stat().st_mode & 0o777 == 0o600
    assert settings.token_file.parent.stat().st_mode & 0o777 == 0o700
    assert act(settings, Ledger(settings.ledger_url), "run").name == "ben"
    settings.token_file.chmod(0o640)
    with pytest.raises(PlaceError, match="is not yours alone"):
        act(settings, Ledger(settings.ledger_url), "run")
    link = tmp_path / "link"
    settings.token_file.chmod(0o600)
    link.symlink_to(settings.token_file)
    with pytest.raises(PlaceError, match="cannot be read"):
        act(replace(settings, token_file=link), Ledger(settings.ledger_url), "run")


def test_the_commands(office: Office, tmp_path: Path) -> None:
    made = office.command("users", "add", "Zoë", "--role", "admin", "--role", "run")
    assert made.returncode == ExitCode.DONE
    token = made.stdout.split()[-1]
    listed = json.loads(office.command("users", "list", "--json").stdout)
    assert [(row["name"], row["roles"], row["state"]) for row in listed] == [
        ("Zoë", ["run", "admin"], "valid")
    ]
    assert token not in json.dumps(listed)
    kept = tmp_path / "token"
    done = office.command("login", typed=f"{token}\n", token_file=str(kept))
    assert (done.returncode, kept.read_text().strip()) == (ExitCode.DONE, token)
    file = policy_file(tmp_path, "identity: tokens")
    for expected, more in ((ExitCode.NOT_APPROVED, {}), (ExitCode.DONE, {"token": token})):
        assert office.command("policy", "set", str(file), **more).returncode == expected
    said = json.loads(office.command("policy", "show", "--json").stdout)
    assert said["identity"] == "tokens"
    gone = office.command("users", "revoke", "zoë", token=token)
    assert gone.returncode == ExitCode.NOT_APPROVED  # the last admin
    wrong = policy_file(tmp_path, "identity: nobody")
    refused = office.command("policy", "set", str(wrong), token=token)
    assert refused.returncode == ExitCode.USAGE
    assert "policy.yaml:1" in refused.stderr


def test_a_token_is_nowhere_in_the_ledger(guarded: Guarded) -> None:
    text = Path(guarded.office.settings.ledger_url.removeprefix("sqlite:///")).read_bytes()
    for token in guarded.tokens.values():
        assert token.encode() not in text
        assert token.split("_")[2].encode() not in text
    for one in read_place(guarded.office.settings, guarded.office.ledger).tokens:
        assert one.secret_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def refused_everywhere(guarded: Guarded, run: str, said: str) -> None:
    """Nobody may do anything, with whatever token, and nothing has moved."""
    acts = [
        lambda name: guarded.approve(run, name),
        lambda name: record_decision(
            run, ReviewerWord("reject", "", "no"), settings=guarded.of(name)
        ),
        lambda name: rollback_run(settings=guarded.of(name), reason=""),
        lambda name: add_user(guarded.of(name), "mallory", EVERYTHING),
        lambda name: act(guarded.of(name), Ledger(guarded.office.settings.ledger_url), "run"),
    ]
    for name in ("anna", "ben", "root"):
        for one in acts:
            with pytest.raises(IntegrityError, match=said):
                one(name)  # type: ignore[no-untyped-call]
    guarded.office.settings = guarded.of("ben")
    with pytest.raises(IntegrityError, match=said):
        guarded.office.promote(run)
    assert guarded.office.weights() == TO_NOBODY


def test_a_policy_that_is_taken_out_of_the_ledger_is_missed(guarded: Guarded) -> None:
    run = guarded.office.evaluated("bot", "blue")
    with database(guarded.office) as connection:
        connection.execute("DELETE FROM grants WHERE kind = 'policy'")
    refused_everywhere(guarded, run, "a token or a policy was removed from the ledger")


def test_a_policy_that_is_taken_out_with_all_that_followed_is_missed(guarded: Guarded) -> None:
    run = guarded.office.evaluated("bot", "blue")
    guarded.approve(run, "anna")
    with database(guarded.office) as connection:
        (sequence,) = connection.execute(
            "SELECT sequence FROM audit WHERE kind = 'policy'"
        ).fetchone()
        for table, where in (
            ("grants", "kind = 'policy'"),
            ("audit", f"sequence >= {sequence}"),
            ("approvals", "1"),
            ("starts", "1"),
            ("records", "1"),
        ):
            connection.execute(f"DELETE FROM {table} WHERE {where}")
    guarded.office.ledger.verify()  # the chain alone does not tell
    refused_everywhere(guarded, run, "the ledger's audit is not the one of this place")


def test_a_changed_policy_is_refused(guarded: Guarded) -> None:
    """Changed in place, its event set right, the chain written anew from there: the signature
    tells."""
    office, run = guarded.office, guarded.office.evaluated("bot", "blue")
    other = PlaceKeys(office.settings.home / "elsewhere")
    number = len(read_place(office.settings, office.ledger).tokens) + 2
    content = PolicyChange(policy={"identity": "local"}, at=1.0)
    forged = other.sign(grant_statement(number, "policy", content)).model_dump_json()
    add_grant(office, "policy", number, forged)
    office.ledger.verify()  # the chain alone does not tell
    refused_everywhere(guarded, run, "is signed by .*, and not by a key that was given")


def test_a_token_that_an_admin_has_not_given_is_refused(guarded: Guarded) -> None:
    office, run = guarded.office, guarded.office.evaluated("bot", "blue")
    genuine = read_place(office.settings, office.ledger).tokens[0]
    grant = Grant.model_validate({**genuine.model_dump(), "name": "mallory", "roles": EVERYTHING})
    number = len(read_place(office.settings, office.ledger).tokens) + 2
    signed = place_keys(office.settings).sign(grant_statement(number, "user", grant))
    payload = base64.b64decode(signed.payload).replace(b"mallory", b"mallorx")
    forged = signed.model_copy(update={"payload": base64.b64encode(payload).decode()})
    add_grant(office, "user", number, forged.model_dump_json())
    refused_everywhere(guarded, run, "was changed after key .* signed it")


def test_an_earlier_policy_that_is_said_again_is_refused(guarded: Guarded, tmp_path: Path) -> None:
    """Its signature is genuine: the number in it tells."""
    office, run = guarded.office, guarded.office.evaluated("bot", "blue")
    strict = policy_file(tmp_path, "identity: tokens")
    set_policy(guarded.of("root"), strict)
    with database(office) as connection:
        rows = connection.execute(
            "SELECT number, envelope FROM grants WHERE kind = 'policy' ORDER BY number"
        ).fetchall()
    add_grant(office, "policy", rows[-1][0] + 1, rows[0][1])
    refused_everywhere(guarded, run, "is another one: it was moved, or said again")


def test_a_revocation_that_is_taken_out_is_missed(guarded: Guarded) -> None:
    office, run = guarded.office, guarded.office.evaluated("bot", "blue")
    revoke(guarded.of("root"), "zoe")
    with database(office) as connection:
        connection.execute("DELETE FROM grants WHERE kind = 'revocation'")
    refused_everywhere(guarded, run, "a token or a policy was removed")


def test_a_ledger_without_grants_still_opens(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    with database(office) as connection:
        connection.execute("DROP TABLE grants")
    office.ledger = Ledger(office.settings.ledger_url)
    head_file(office.settings).unlink(missing_ok=True)
    office.approve(run)
    office.promote(run)
    assert office.weights() == TO_BLUE


def test_what_a_controller_has_left_is_taken_back_without_a_token(guarded: Guarded) -> None:
    """`assay up` after a crash, by whoever starts the machine: it gives traffic to nobody new."""
    office = guarded.office
    run = office.evaluated("bot", "blue")
    guarded.approve(run, "anna")
    office.settings = guarded.of("ben")
    office.promote(run)
    done = office.command("up", "--gateway-only")
    assert (done.returncode, office.weights()) == (ExitCode.DONE, TO_BLUE)


def forge_champion(office: Office, run: str) -> None:
    """A change of traffic that nobody has made, with its event, in a chain that holds."""
    model = office.model(run)
    champion = Champion(
        run=run, slot="blue", model_name="bot", artifact_digest=model.artifact.digest, since=1.0
    )
    text = Traffic(action="promote", champion=champion, former=None, by="ben").model_dump_json()
    with database(office) as connection:
        connection.execute("INSERT INTO traffic (at, traffic) VALUES (1.0, ?)", (text,))
        add_event(connection, "traffic", {"traffic": digest_of_text(text)})


def forge_approval(office: Office, run: str, word: Approval) -> None:
    text = word.model_dump_json()
    with database(office) as connection:
        connection.execute("INSERT INTO approvals (run, approval) VALUES (?, ?)", (run, text))
        add_event(connection, "approve", {"word": digest_of_text(text)}, run)


def test_a_champion_that_is_written_into_the_ledger_gets_no_traffic(office: Office) -> None:
    """By somebody who knows how the chain is made, and has not the place's key."""
    first = office.evaluated("first", "green")
    office.approve(first)
    office.promote(first)
    run = office.evaluated("bot", "blue")
    forge_champion(office, run)
    office.ledger.verify()  # the chain alone does not tell
    with pytest.raises(IntegrityError, match="its key has not signed it"):
        reconcile_releases(office.settings, say=lambda _: None)
    refused_here = office.command("promote", run)
    assert refused_here.returncode == ExitCode.DRIFT
    assert office.weights()["blue"] == 0
    assert office.command("audit", "--verify").returncode == ExitCode.DRIFT
    assert "its key has not signed it" in office.command("doctor", "--quick").stdout


def test_an_approval_that_is_written_into_the_ledger_lets_nobody_through(office: Office) -> None:
    genuine, run = office.evaluated("other", "green"), office.evaluated("bot", "blue")
    office.approve(genuine)
    word = office.ledger.approvals(genuine)[0]
    scorecard = digest_of(json.loads(office.gate_record(run))["scorecard"])
    digests = {
        "artifact_digest": office.model(run).artifact.digest,
        "scorecard_digest": scorecard,
    }
    forge_approval(office, run, word.model_copy(update={"run": run, **digests}))
    office.ledger.verify()
    with pytest.raises(IntegrityError, match="its key has not signed it"):
        office.promote(run)


def test_a_seal_does_not_fit_another_event(office: Office) -> None:
    """Taken from a genuine approval, and put under a copy of it: the place in the chain differs."""
    run = office.evaluated("bot", "blue")
    office.approve(run)
    word = office.ledger.approvals(run)[0]
    (seal,) = (event.content["seal"] for event in office.ledger.verify() if event.kind == "approve")
    text = word.model_dump_json()
    with database(office) as connection:
        connection.execute("INSERT INTO approvals (run, approval) VALUES (?, ?)", (run, text))
        content = {"word": digest_of_text(text), "seal": seal}
        add_event(connection, "approve", content, run)
    with pytest.raises(IntegrityError, match="its key has not signed it"):
        office.promote(run)


def test_words_of_an_older_version_are_not_signed_and_still_count(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    scorecard = digest_of(json.loads(office.gate_record(run))["scorecard"])
    word = Approval(
        run=run,
        decision="approve",
        reviewer="anna",
        reason="",
        artifact_digest=office.model(run).artifact.digest,
        scorecard_digest=scorecard,
        given_at=time.time(),
    )
    Ledger(office.settings.ledger_url).add_approval(word)  # as it was written before
    office.promote(run)
    assert office.weights() == TO_BLUE
