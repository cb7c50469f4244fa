"""Nothing that was not evaluated and approved gets traffic, in whatever order things happen. Each
test is an attack, or an accident, that once got through."""

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assay.engines.deployment import ray_serve
from assay.errors import (
    AssayError,
    ExitCode,
    IntegrityError,
    NotApproved,
    PlaceError,
    StageFailed,
    Superseded,
    UsageError,
)
from assay.flow.release.operations import (
    ReviewerWord,
    reconcile_releases,
    record_decision,
    rollback_run,
)
from assay.records.record import digest_of
from assay.records.releases.run_id import run_id_of, short_run
from assay.serving import gateway
from assay.stages import deploy
from office import TO_BLUE, TO_GREEN, Office, office, running  # noqa: F401

HALF = {"blue": 128, "green": 128}


def champion_in_blue(office: Office) -> str:
    run = office.evaluated("first", "blue")
    office.approve(run)
    office.promote(run)
    return run


def champion_of(office: Office) -> str | None:
    champion = office.ledger.champion()
    return champion.run if champion else None


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"{what} was waited for in vain"
        time.sleep(0.01)


@contextmanager
def promoting(office: Office, run: str) -> Iterator[list[BaseException]]:
    """A promotion that is held at its first step; yields what it fails with, once it has ended."""
    errors: list[BaseException] = []

    def promote() -> None:
        try:
            office.promote(run)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=promote)
    thread.start()
    try:
        until(lambda: office.weights() == HALF, "the first step")
        yield errors
    finally:
        if office.ledger.releases.under_way():
            rollback_run(settings=office.settings, reason="the test is over")
        thread.join(60)
    assert not thread.is_alive()


def test_s1a_a_slot_that_has_got_traffic_since_the_run_began_is_not_deployed_to(
    office: Office,
) -> None:
    late = office.evaluated("late", "green")
    began_with = office.ledger.champion()
    assert began_with is None
    first = champion_in_blue(office)
    live = office.serve.applications["blue"]
    assert office.deploy_again(late, champion=began_with) == "green"
    assert office.serve.applications["blue"] is live
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)


def test_s1b_no_slot_is_deployed_to_while_a_candidate_is_being_promoted(office: Office) -> None:
    champion_in_blue(office)
    run = office.evaluated("slow", "green")
    office.approve(run)
    other = office.evaluated("other", "reference")
    before = dict(office.serve.applications)
    with promoting(office, run):
        with pytest.raises(
            StageFailed, match="both slots are in use: run slow-1a2b3c is being promoted"
        ):
            office.deploy_again(other)
        assert office.serve.applications == before


def test_a_deployment_into_another_slot_voids_nothing(office: Office) -> None:
    """Serve gives all applications a new time whenever one of them changes."""
    run, other = office.evaluated("bot", "blue"), office.evaluated("other", "reference")
    office.approve(run)
    office.deploy("reference", office.model(other).artifact.path)
    ray_serve.remove(deploy.serve_api(office.settings), "reference")
    assert office.serve.applications["blue"]["status"] == "DEPLOYING"
    assert office.serve.applications["blue"]["last_deployed_time_s"] > 1000.0
    office.promote(run)
    assert office.weights() == TO_BLUE


def test_s1b_a_candidate_that_was_replaced_by_hand_in_a_hold_gets_no_more_traffic(
    office: Office,
) -> None:
    first = champion_in_blue(office)
    run = office.evaluated("careful", "green")
    office.approve(run)
    other = office.evaluated("other", "reference")
    with promoting(office, run) as errors:
        office.deploy("green", office.model(other).artifact.path, deployed_at=2000.0)
        until(lambda: bool(errors), "the end of the promotion")
    assert isinstance(errors[0], IntegrityError)
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_s1c_a_promotion_that_is_stopped_gives_the_traffic_back(
    office: Office, number: signal.Signals
) -> None:
    first = champion_in_blue(office)
    office.approve(office.evaluated("slow", "green"))
    promotion = office.begin("promote", "slow")
    until(lambda: office.weights() == HALF, "the first step")
    promotion.send_signal(number)
    promotion.communicate(timeout=30)
    assert promotion.returncode != ExitCode.DONE
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)
    assert office.ledger.releases.under_way() is None


@pytest.mark.parametrize("command", ["up", "deploy", "approve"])
def test_s1c_what_a_killed_promotion_has_moved_is_moved_back_by_the_next_command(
    office: Office, command: str
) -> None:
    first = champion_in_blue(office)
    slow = office.evaluated("slow", "green")
    office.approve(slow)
    other = office.evaluated("other", "reference")
    promotion = office.begin("promote", "slow")
    until(lambda: office.weights() == HALF, "the first step")
    promotion.kill()
    promotion.communicate()
    if command == "up":
        done = office.command("up", "--gateway-only")
        assert "was left unfinished, and has been taken back" in done.stderr
    elif command == "approve":
        assert office.command("approve", "slow", "--as", "anna").returncode == ExitCode.DONE
    else:
        assert (
            office.deploy_again(other) == "green"
        )  # taken back first, or half of the users would get this one
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)
    assert office.ledger.releases.under_way() is None
    assert {office.ask().json()["slot"] for _ in range(8)} == {"blue"}


def test_a_ledger_that_fails_after_the_last_move_leaves_the_traffic_where_it_says(
    office: Office,
) -> None:
    first = champion_in_blue(office)
    run = office.evaluated("second", "green")
    office.approve(run)
    with database(office) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON traffic BEGIN SELECT RAISE(ABORT, 'the disk is "
            "full'); END"
        )
    with pytest.raises(PlaceError, match="the disk is full"):
        office.promote(run)
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)
    with database(office) as connection:
        connection.execute("DROP TRIGGER full")
    reconcile_releases(office.settings, say=lambda _: None)
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)
    assert office.ledger.releases.under_way() is None
    office.promote(run)
    assert (office.weights(), champion_of(office)) == (TO_GREEN, run)


def test_weights_that_somebody_else_has_moved_are_moved_back(office: Office) -> None:
    champion_in_blue(office)
    writer = gateway.newest_writer(office.settings)
    gateway.give(office.settings, HALF, (), writer=writer)
    reconcile_releases(office.settings, say=lambda _: None)
    assert office.weights() == TO_BLUE


def test_a_writer_that_slept_while_another_came_changes_nothing(office: Office) -> None:
    champion_in_blue(office)
    slept = gateway.newest_writer(office.settings)
    reconcile_releases(office.settings, say=lambda _: None)
    with pytest.raises(Superseded, match=f"writer {slept} comes too late"):
        gateway.give(office.settings, TO_GREEN, (), writer=slept)
    assert office.weights() == TO_BLUE


def test_a_second_promotion_is_refused_while_one_is_under_way(office: Office) -> None:
    champion_in_blue(office)
    run = office.evaluated("slow", "green")
    office.approve(run)
    with promoting(office, run):
        with pytest.raises(
            AssayError, match="run slow-1a2b3c is being promoted by another process"
        ):
            office.promote(run)
        assert office.weights() == HALF


def test_rollback_ends_a_promotion_that_is_under_way(office: Office) -> None:
    first = champion_in_blue(office)
    run = office.evaluated("careful", "green")
    office.approve(run)
    with promoting(office, run) as errors:
        traffic = rollback_run(settings=office.settings, reason="it rhymes")
        assert traffic.champion is not None
        assert (traffic.champion.run, office.weights()) == (first, TO_BLUE)
        until(lambda: bool(errors), "the end of the promotion")
    assert isinstance(errors[0], Superseded)
    assert "it rhymes" in str(errors[0])
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)


def test_a_rejection_ends_a_promotion_that_is_under_way(office: Office) -> None:
    first = champion_in_blue(office)
    run = office.evaluated("slow", "green")
    office.approve(run)
    with promoting(office, run):
        record_decision(run, ReviewerWord("reject", "anna", "it lies"), settings=office.settings)
        assert (office.weights(), champion_of(office)) == (TO_BLUE, first)


def test_an_approval_that_ends_in_a_hold_ends_the_promotion(office: Office) -> None:
    first = champion_in_blue(office)
    run = office.evaluated("careful", "green")
    office.approve(run)
    with promoting(office, run) as errors:
        with database(office) as connection:
            connection.execute("DELETE FROM approvals WHERE run = ?", (run,))
        until(lambda: bool(errors), "the end of the promotion")
    assert isinstance(errors[0], IntegrityError)
    assert office.weights() == TO_BLUE
    assert first


def test_s2_a_second_rollback_does_not_bring_back_what_was_rolled_back(office: Office) -> None:
    first = champion_in_blue(office)
    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    rollback_run(settings=office.settings, reason="it lies")
    record_decision(second, ReviewerWord("reject", "anna", "it lies"), settings=office.settings)
    with pytest.raises(IntegrityError, match="no former champion"):
        rollback_run(settings=office.settings, reason="once more")
    assert (office.weights(), champion_of(office)) == (TO_BLUE, first)


def test_s2_there_is_no_way_back_to_what_was_rejected_or_changed(office: Office) -> None:
    first = champion_in_blue(office)
    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    file = office.model_file(first)
    whole = file.read_text()
    file.write_text(whole.replace("first", "worst"))
    with pytest.raises(IntegrityError, match="is not what was evaluated"):
        rollback_run(settings=office.settings, reason="")
    file.write_text(whole)
    record_decision(first, ReviewerWord("reject", "anna", "it lies"), settings=office.settings)
    with pytest.raises(NotApproved, match=r"no way back to first-1a2b3c: .* was rejected by anna"):
        rollback_run(settings=office.settings, reason="")
    assert (office.weights(), champion_of(office)) == (TO_GREEN, second)


def test_s16_a_candidate_that_was_compared_with_another_champion_gets_no_traffic(
    office: Office,
) -> None:
    run = office.evaluated("second", "green", champion_digest="of another champion")
    office.approve(run)
    champion_in_blue(office)
    with pytest.raises(IntegrityError, match="compared with champion of another c"):
        office.promote(run)
    done = office.command("promote", run)
    assert done.returncode == ExitCode.DRIFT


@contextmanager
def database(office: Office) -> Iterator[sqlite3.Connection]:
    """The ledger's file, as somebody opens it who may write there."""
    connection = sqlite3.connect(Path(office.settings.ledger_url.removeprefix("sqlite:///")))
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def test_s10_a_rejection_that_is_removed_with_its_event_is_noticed(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    record_decision(run, ReviewerWord("reject", "anna", "it lies"), settings=office.settings)
    with database(office) as connection:
        connection.execute("DELETE FROM approvals WHERE id = (SELECT max(id) FROM approvals)")
        connection.execute("DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)")
    office.ledger.verify()  # the chain alone does not tell
    with pytest.raises(IntegrityError, match="the ledger's audit is not the one of this place"):
        office.promote(run)


def test_s10_a_forged_approval_lets_nobody_through(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    genuine = office.evaluated("other", "green")
    office.approve(genuine)
    word = office.ledger.approvals(genuine)[0]
    digest = digest_of(json.loads(office.gate_record(run))["scorecard"])
    model = office.model(run).artifact.digest
    forged = word.model_copy(
        update={"run": run, "artifact_digest": model, "scorecard_digest": digest}
    )
    with database(office) as connection:
        connection.execute(
            "INSERT INTO approvals (run, approval) VALUES (?, ?)", (run, forged.model_dump_json())
        )
    with pytest.raises(IntegrityError, match="the ledger holds an approval that nobody gave"):
        office.promote(run)


def test_s10_it_is_kept_who_typed_an_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    done = office.command("approve", run, "--as", "anna")
    assert done.returncode == ExitCode.DONE
    (word,) = office.ledger.approvals(run)
    assert word.actor is not None
    assert (word.reviewer, word.actor.uid) == ("anna", os.getuid())
    assert word.actor.process != os.getpid()


def test_s11_another_spec_does_not_get_the_reviewers_of_the_first_with_its_id(
    office: Office,
) -> None:
    office.run("bot")
    other = office.ledger.find_run("bot-1a2b3c").spec.replace('"anna"', '"mallory"')
    with pytest.raises(UsageError, match="run bot-1a2b3c was made from another spec"):
        office.ledger.open_run("bot-1a2b3c", name="bot", spec=other, started_by="mallory")
    assert "mallory" not in office.ledger.starters("bot-1a2b3c")


def test_s11_ids_have_128_bits_and_are_found_by_their_beginning(office: Office) -> None:
    run = run_id_of("bot", "0123456789abcdef" * 4)
    assert run == "bot-0123456789abcdef0123456789abcdef"
    office.ledger.open_run(run, name="bot", spec="{}", started_by="ben")
    office.run("bot")  # bot-1a2b3c: of an older version
    assert short_run(run) == "bot-0123456789"
    assert office.ledger.find_run(short_run(run)).id == run
    assert office.ledger.find_run("bot-1a2b3c").id == short_run("bot-1a2b3c") == "bot-1a2b3c"
