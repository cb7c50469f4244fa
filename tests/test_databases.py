"""The ledger on SQLite and on PostgreSQL: the same promises, with many writers at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sql

from assay.errors import IntegrityError, NotApproved, PlaceError, Superseded
from assay.records.progress import Progress
from assay.records.releases.release import Approval, Champion, ReleaseIntent, Traffic
from assay.store.audit import this_process
from assay.store.ledger import Ledger
from databases import engine, postgres, url  # noqa: F401

BEN = this_process("ben")


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger(url)
    ledger.open_run("bot-1", name="bot", spec="{}", started_by="ben")
    yield ledger
    ledger.close()


def at_once(count: int, url: str, work: Callable[[Ledger, int], Any]) -> list[Any]:
    """What `work` returns or raises, for as many writers, each with its own connection; all begin
    together."""
    gate = threading.Barrier(count)

    def one(number: int) -> Any:
        own = Ledger(url)
        gate.wait(60)
        try:
            return work(own, number)
        except Exception as error:
            return error
        finally:
            own.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def word(**changes: Any) -> Approval:
    said = {
        "run": "bot-1",
        "decision": "approve",
        "reviewer": "anna",
        "reason": "",
        "given_at": 0.0,
    }
    return Approval.model_validate(
        {**said, "artifact_digest": "a", "scorecard_digest": "s", **changes}
    )


def intent(run: str = "bot-1") -> ReleaseIntent:
    candidate = Champion(run=run, slot="blue", model_name="bot", artifact_digest="a", since=1.0)
    return ReleaseIntent(
        action="promote",
        candidate=candidate,
        former=None,
        steps=(0.5, 1.0),
        scorecard_digest="s",
        deployed_at=1.0,
        by="ben",
    )


def traffic() -> Traffic:
    return Traffic(action="promote", champion=intent().candidate, former=None, by="ben")


def test_s15_a_budget_of_one_attempt_lets_one_candidate_through(ledger: Ledger, url: str) -> None:
    results = at_once(
        16, url, lambda own, n: own.add_attempt(["split"], f"model {n}", run="bot-1", budget=1)
    )
    assert sorted(results, key=str) == [1] + [None] * 15
    assert ledger.num_attempts("split") == 1


def test_s15_writers_that_end_one_stage_at_once_lose_nothing(ledger: Ledger, url: str) -> None:
    attempts = [ledger.begin_stage("bot-1", "fetch", "the key") for _ in range(10)]

    def finish(own: Ledger, number: int) -> None:
        own.finish_stage(attempts[number], Progress(step=number, num_steps=10, text=""))

    assert at_once(10, url, finish) == [None] * 10
    row = ledger.record("the key")
    assert row is not None
    assert len([event for event in ledger.verify() if event.kind == "stage"]) == 10


def test_a_ledger_that_many_open_first_has_one_of_each_table(url: str) -> None:
    assert all(found == [] for found in at_once(8, url, lambda own, _: own.runs()))


def test_of_many_releases_at_once_one_begins(ledger: Ledger, url: str) -> None:
    ledger.releases.claim(1, BEN)
    results = at_once(50, url, lambda own, _: own.releases.intend(intent(), fence=1, actor=BEN).id)
    assert len([one for one in results if isinstance(one, int)]) == 1
    assert len([one for one in results if isinstance(one, Superseded)]) == 49
    assert len(ledger.releases.all()) == 1


def test_of_many_writers_at_once_each_has_a_number_of_its_own(ledger: Ledger, url: str) -> None:
    def claim(own: Ledger, number: int) -> int:
        with own.lock("writer", wait_s=60, taken=PlaceError("taken")):
            mine = own.releases.newest_writer() + 1
            own.releases.claim(mine, BEN)
            return mine

    assert sorted(at_once(12, url, claim)) == list(range(1, 13))


def test_a_writer_that_was_overtaken_changes_no_release(ledger: Ledger) -> None:
    ledger.releases.claim(1, BEN)
    release = ledger.releases.intend(intent(), fence=1, actor=BEN)
    ledger.releases.claim(2, BEN)
    for late in (
        lambda: ledger.releases.advance(release, fence=1, actor=BEN),
        lambda: ledger.releases.take_back(release, traffic(), fence=1, actor=BEN),
        lambda: ledger.releases.claim(2, BEN),
    ):
        with pytest.raises(Superseded, match="comes too late: 2 has the releases"):
            late()
    assert ledger.releases.get(release.id) == release


def test_a_release_moves_in_one_direction_only(ledger: Ledger) -> None:
    releases = ledger.releases
    releases.claim(1, BEN)
    first = releases.intend(intent(), fence=1, actor=BEN)
    with pytest.raises(Superseded, match="at step 0 of 2"):
        releases.finish(first, traffic(), fence=1, actor=BEN)
    second = releases.advance(first, fence=1, actor=BEN)
    with pytest.raises(Superseded, match="is moving at step 1"):
        releases.advance(first, fence=1, actor=BEN)  # as it was, not as it is
    last = releases.advance(second, fence=1, actor=BEN)
    done = releases.finish(last, traffic(), fence=1, actor=BEN)
    assert (done.state, ledger.champion()) == ("done", intent().candidate)
    for again in (releases.advance, lambda r, **k: releases.take_back(r, traffic(), **k)):
        with pytest.raises(Superseded, match="is done at step 2"):
            again(done, fence=1, actor=BEN)
    assert len(ledger.traffic()) == 1
    states = [event.content["state"] for event in ledger.verify() if event.kind == "release"]
    assert states == ["intended", "moving", "moving", "done"]


def test_locks_end_with_who_holds_them(ledger: Ledger, url: str) -> None:
    other = Ledger(url)
    taken = PlaceError("taken")
    with ledger.lock("writer", wait_s=0, taken=taken):
        assert other.is_locked("writer")
        assert not other.is_locked("controller")
        with (
            pytest.raises(PlaceError, match="taken"),
            other.lock("writer", wait_s=0.2, taken=taken),
        ):
            pass
    assert not other.is_locked("writer")
    with other.lock("writer", wait_s=0, taken=taken):
        pass
    other.close()


def test_many_approvals_by_one_person_are_in_the_ledgers_order(ledger: Ledger, url: str) -> None:
    at_once(50, url, lambda own, n: own.add_approval(word(given_at=float(n))))
    words = ledger.approvals("bot-1")
    assert len(words) == 50
    recorded = [one.recorded_at for one in words if one.recorded_at is not None]
    assert recorded == sorted(recorded)
    assert len(recorded) == 50
    assert {one.actor.os_user for one in words if one.actor} == {BEN.os_user}
    ledger.verify()


def test_s12_a_word_dated_ahead_is_not_taken(ledger: Ledger) -> None:
    with pytest.raises(NotApproved, match="s ahead of the ledger's clock"):
        ledger.add_approval(word(given_at=4e9))
    assert ledger.approvals("bot-1") == []


FORGED = word(reviewer="mallory").model_dump_json()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            f"INSERT INTO approvals (run, approval) VALUES ('bot-1', '{FORGED}')",
            "an approval that nobody gave",
        ),
        (
            "DELETE FROM approvals WHERE id = 1",
            "an approval was (removed from|changed in) the ledger",
        ),
        (
            "UPDATE approvals SET approval = replace(approval, 'anna', 'bert')",
            "an approval was changed in the ledger",
        ),
        ("DELETE FROM traffic", "a change of traffic was removed"),
        (
            "UPDATE traffic SET traffic = replace(traffic, 'blue', 'green')",
            "a change of traffic was changed",
        ),
        ("DELETE FROM starts", "a start was removed"),
        ("UPDATE starts SET started_by = 'anna'", "a start was changed"),
        (
            "UPDATE records SET record = replace(record, '7', '8')",
            "is not the one that its stage has written",
        ),
        ("DELETE FROM records", "is not the one that its stage has written"),
        ("DELETE FROM audit WHERE sequence = 3", "the audit has no event 3"),
        ("DELETE FROM audit WHERE sequence = 1", "the audit has no event 1"),
        (
            "UPDATE audit SET content = replace(content, 'ben', 'eve') WHERE kind = 'start'",
            "event 1 .* was changed",
        ),
        (
            "UPDATE audit SET previous = '' WHERE sequence = 4",
            "event 4 .* does not follow the one before it",
        ),
        ("UPDATE audit SET at = at + 1 WHERE sequence = 2", "event 2 .* was changed"),
        (
            "UPDATE audit SET actor = replace(actor, 'name', 'host') WHERE sequence = 2",
            "event 2 .* cannot be read",
        ),
    ],
)
def test_s10_what_no_act_has_written_is_noticed(
    ledger: Ledger, url: str, statement: str, said: str
) -> None:
    attempt = ledger.begin_stage("bot-1", "fetch", "the key")
    ledger.finish_stage(attempt, Progress(step=7, num_steps=10, text=""))
    ledger.add_approval(word())
    ledger.add_approval(word(decision="reject", reason="it lies"))
    ledger.add_traffic(traffic())
    ledger.verify()
    with engine(url).begin() as connection:
        assert connection.execute(sql.text(statement.replace(":", r"\:"))).rowcount
    with pytest.raises(IntegrityError, match=said):
        ledger.verify()
