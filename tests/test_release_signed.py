"""Commands that are signed with a token on one machine and done on another, which never sees the
token."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.cli.remote import _signed
from assay.errors import ExitCode, NotApproved
from assay.flow.place.identity import act
from assay.flow.place.people import add_user, revoke
from assay.flow.place.policy import set_policy
from assay.records.releases.grant import SignedAct
from assay.settings import Settings
from assay.store import tokens
from assay.store.ledger import Ledger
from office import Office, office, running  # noqa: F401


class Remote:
    """A place with tokens, seen from a machine that has one."""

    def __init__(self, office: Office, folder: Path) -> None:
        self.office = office
        self.root, _ = add_user(office.settings, "root", ("admin",))
        self.token, self.grant = add_user(office.settings, "anna", ("review", "run"))
        file = folder / "policy.yaml"
        file.write_text("identity: tokens\n")
        set_policy(replace(office.settings, token=self.root), file)

    def signed(self, *arguments: str, about: str = "") -> SignedAct:
        return tokens.sign_act(self.token, arguments, about)

    def there(self, act: SignedAct) -> Settings:
        """What the command finds on the other machine."""
        return replace(self.office.settings, token="", act=act.model_dump_json())


@pytest.fixture
def remote(office: Office, tmp_path: Path) -> Remote:
    return Remote(office, tmp_path)


def test_a_signed_command_is_done_once_in_the_name_of_who_signed(remote: Remote) -> None:
    office, run = remote.office, remote.office.evaluated("bot", "blue")
    arguments = ["approve", run, "--reason", "it knows"]
    settings = replace(office.settings, token=remote.token)
    environment = _signed(settings, arguments, "")
    assert remote.token.split("_")[2] not in str(environment)
    more = {"act": environment["ASSAY_ACT"]}
    done = office.command(*arguments, **more)
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    (word,) = office.ledger.approvals(run)
    assert word.actor is not None
    assert (word.reviewer, word.actor.token) == ("anna", remote.grant.token)
    assert word.actor.act == SignedAct.model_validate_json(more["act"]).signature

    again = office.command(*arguments, **more)
    assert again.returncode == ExitCode.NOT_APPROVED
    assert "was done already" in again.stderr
    assert len(office.ledger.approvals(run)) == 1


def test_another_command_than_the_signed_one_is_refused(remote: Remote) -> None:
    office, run = remote.office, remote.office.evaluated("bot", "blue")
    other = office.evaluated("other", "green")
    signed = remote.signed("approve", run, "--reason", "")
    for arguments in (
        ("approve", other, "--reason", ""),
        ("reject", run, "--reason", ""),
        ("approve", run, "--reason", "because"),
        ("approve", run),
    ):
        done = office.command(*arguments, act=signed.model_dump_json())
        assert done.returncode == ExitCode.NOT_APPROVED
        assert "what was signed is `assay approve" in done.stderr
    assert office.ledger.approvals(run) == office.ledger.approvals(other) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arguments": ("run", "other.yaml")}, "was not signed by anna, or was changed"),
        ({"about": "other-1"}, "was not signed by anna, or was changed"),
        ({"at": 1.0}, "was not signed by anna, or was changed"),
        ({"signature": "00" * 64}, "was not signed by anna, or was changed"),
        ({"signature": "no hex"}, "was not signed by anna, or was changed"),
        ({"token": "0" * 8}, "is not known at this place"),
    ],
)
def test_a_changed_command_is_refused(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["assay", "run", "spec.yaml"])
    signed = remote.signed("run", "spec.yaml", about="bot-1").model_copy(update=change)
    settings = remote.there(signed)
    with pytest.raises(NotApproved, match=said):
        act(settings, Ledger(settings.ledger_url), "run", about="bot-1")


def test_what_does_not_hold_any_more_is_refused(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["assay", "run", "spec.yaml"])
    signed = remote.signed("run", "spec.yaml", about="bot-1")
    settings = remote.there(signed)
    ledger = Ledger(settings.ledger_url)
    assert act(settings, ledger, "run", about="bot-1").name == "anna"
    with pytest.raises(NotApproved, match="that makes run bot-1, and not this"):
        act(settings, ledger, "run", about="bot-2")  # the spec was replaced on its way
    with pytest.raises(NotApproved, match="this takes `release`"):
        act(settings, ledger, "release", about="bot-1")
    with monkeypatch.context() as patch:
        patch.setattr(tokens.time, "time", lambda: signed.at - 3700.0)
        late = remote.there(remote.signed("run", "spec.yaml", about="bot-1"))
    with pytest.raises(NotApproved, match="and holds for 3600 s"):
        act(late, ledger, "run", about="bot-1")
    with pytest.raises(NotApproved, match="holds no signed command"):
        act(replace(settings, act="{}"), ledger, "run", about="bot-1")
    revoke(replace(remote.office.settings, token=remote.root), "anna")
    with pytest.raises(NotApproved, match="was revoked"):
        act(settings, Ledger(settings.ledger_url), "run", about="bot-1")
