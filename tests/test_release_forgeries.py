"""Approvals that nobody may count on: replayed, expired, stale, forged, dated ahead and self-made. None
of them moves traffic, whichever database holds the ledger."""

import json
import random
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sql

from assay.errors import IntegrityError, NotApproved
from assay.records.record import digest_of
from assay.records.releases.release import Approval
from assay.store.ledger import Ledger
from databases import engine, postgres, url  # noqa: F401
from office import TO_NOBODY, Office, Running, running  # noqa: F401

DAY_S = 86_400.0
MOST_OPEN = 20
"""Ledgers at once; PostgreSQL lets 100 clients in."""

Forge = Callable[[Approval, random.Random], Approval]


def expired(word: Approval, draw: random.Random) -> Approval:
    return word.model_copy(update={"given_at": time.time() - draw.uniform(3.01, 300) * DAY_S})


def stale(word: Approval, draw: random.Random) -> Approval:
    field = draw.choice(["artifact_digest", "scorecard_digest"])
    return word.model_copy(update={field: f"{draw.getrandbits(256):064x}"})


def of_another_run(word: Approval, draw: random.Random) -> Approval:
    return word.model_copy(update={"run": "other-1a2b3c"})


def dated_ahead(word: Approval, draw: random.Random) -> Approval:
    return word.model_copy(update={"given_at": time.time() + draw.uniform(61, 300 * DAY_S)})


def self_made(word: Approval, draw: random.Random) -> Approval:
    # The same person, however they write their name.
    name = draw.choice(["ben", "Ben", "BEN", "\uff22\uff45\uff4e", "bEN"])
    return word.model_copy(update={"reviewer": name})


def by_nobody_named(word: Approval, draw: random.Random) -> Approval:
    return word.model_copy(
        update={"reviewer": draw.choice(["mallory", "ann", "anna ben", "\u0430nna"])}
    )


WRITTEN: tuple[Forge, ...] = (
    expired, stale, of_another_run, dated_ahead, self_made, by_nobody_named
)  # fmt: skip
"""What somebody could have the platform's own code write: the word is in the audit, too."""


@pytest.fixture
def forgers(running: Running, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """Closes every ledger at the end: a command leaves that to the end of its process."""
    opened: list[Ledger] = []
    opens = Ledger.__init__

    def keep(ledger: Ledger, ledger_url: str) -> None:
        opens(ledger, ledger_url)
        opened.append(ledger)
        if len(opened) > MOST_OPEN:
            opened.pop(1).close()  # the first is the office's own

    monkeypatch.setattr(Ledger, "__init__", keep)
    yield Office(running, url)
    for ledger in opened:
        ledger.close()


def tries(office: Office, count: int, seed: int) -> int:
    """So many attempts at one passing candidate; returns how many moved traffic."""
    draw, accepted = random.Random(seed), 0
    run = office.evaluated("bot", "blue")
    office.run("other")
    genuine = Approval(
        run=run,
        decision="approve",
        reviewer="anna",
        reason="",
        given_at=time.time(),
        artifact_digest=office.model(run).artifact.digest,
        scorecard_digest=digest_of(json.loads(office.gate_record(run))["scorecard"]),
    )
    for number in range(count):
        forged = draw.choice(WRITTEN)(genuine, draw)
        by_hand = number % 4 == 3
        try:
            if by_hand:
                # Half of them would count, had an act written them.
                _insert(office, draw.choice([forged, genuine]))
            else:
                office.ledger.add_approval(forged)
            office.promote(run)
            accepted += 1
        except (NotApproved, IntegrityError):
            assert office.weights() == TO_NOBODY
        if by_hand:
            _remove_inserted(office)
    # What was refused so often was refused for its approvals alone.
    office.approve(run)
    office.promote(run)
    return accepted


def _insert(office: Office, word: Approval) -> None:
    """A row that no act has written."""
    statement = sql.text("INSERT INTO approvals (run, approval) VALUES (:run, :approval)")
    with engine(office.settings.ledger_url).begin() as connection:
        connection.execute(statement, {"run": word.run, "approval": word.model_dump_json()})


def _remove_inserted(office: Office) -> None:
    newest = "DELETE FROM approvals WHERE id = (SELECT max(id) FROM approvals)"
    with engine(office.settings.ledger_url).begin() as connection:
        connection.execute(sql.text(newest))


@pytest.mark.parametrize(
    "count", [24, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_no_false_approval_moves_traffic(forgers: Office, count: int) -> None:
    assert tries(forgers, count, seed=count) == 0
