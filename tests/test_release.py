"""From a verdict to traffic and back."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay.errors import ExitCode, IntegrityError, NotApproved
from assay.flow.release.operations import ReviewerWord, record_decision, rollback_run
from assay.records.gate import GateRecord
from office import TO_BLUE, TO_GREEN, TO_NOBODY, Office, beside, office, refused, running  # noqa: F401


def test_an_approved_run_gets_the_traffic(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    assert office.ask().status_code == 503
    office.approve(run)
    assert office.ask().status_code == 503  # approval alone moves nothing
    office.promote(run)
    assert office.weights() == TO_BLUE
    assert office.ask().json() == {"slot": "blue"}
    (traffic,) = office.ledger.traffic()
    assert (traffic.action, traffic.by, traffic.former) == ("promote", "ben", None)
    assert traffic.champion == office.ledger.champion()
    assert traffic.champion is not None
    assert (traffic.champion.run, traffic.champion.slot) == (run, "blue")

    office.promote(run)  # once more changes nothing
    assert (office.weights(), len(office.ledger.traffic())) == (TO_BLUE, 1)


def test_nothing_is_promoted_without_a_passing_verdict(office: Office) -> None:
    refused(office, office.run("unweighed"), NotApproved, "has no verdict yet")
    for outcome in ("FAIL", "INCONCLUSIVE"):
        run = office.evaluated(outcome.lower(), "blue", outcome)
        with pytest.raises(NotApproved, match="nothing to approve"):
            office.approve(run)
        refused(office, run, NotApproved, f"the gate's verdict is {outcome}")


def test_nothing_is_promoted_without_a_valid_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    refused(office, run, NotApproved, "is not approved; .* is for anna, ben")
    for reviewer, fault in (
        ("ben", "they started this run"),
        ("zoe", "the spec's reviewers are anna, ben"),
    ):
        with pytest.raises(NotApproved, match=fault):
            office.approve(run, reviewer)
    refused(office, run, NotApproved, "is not approved")
    office.approve(run)
    record_decision(run, ReviewerWord("reject", "anna", "wrong tone"), settings=office.settings)
    refused(office, run, NotApproved, "was rejected by anna: wrong tone")


def test_a_new_verdict_needs_a_new_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    assert office.evaluated("bot", "green") == run
    refused(office, run, NotApproved, "it is for scorecard .*, this is")
    office.approve(run)
    office.promote(run)
    assert office.weights() == TO_GREEN


def test_one_changed_byte_voids_the_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    file = office.model_file(run)
    before, text = file.stat(), file.read_text()
    file.write_text(text.replace("bot", "bos"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as one who hides it would
    refused(office, run, IntegrityError, "model.safetensors is not what was evaluated")
    with pytest.raises(IntegrityError, match="is not what was evaluated"):
        office.approve(run)
    file.write_text(text)
    office.promote(run)
    assert office.weights() == TO_BLUE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deployed_at": 1001.0}, "slot blue was deployed anew"),
        (
            {"deployments": {"LLMServer": {"replicas": []}}},
            "replicas blue#1 were evaluated, now there are none",
        ),
        (
            {
                "deployments": {
                    "LLMServer": {"replicas": [{"replica_id": "blue#2", "state": "RUNNING"}]}
                }
            },
            "replicas blue#1 were evaluated, now there are blue#2",
        ),
        ({"status": "UNHEALTHY"}, "slot blue serves nothing"),
        ({"deployed_app_config": None}, "slot blue serves nothing"),
    ],
)
def test_a_slot_that_is_not_as_it_was_weighed_gets_no_traffic(
    office: Office, change: Any, said: str
) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.deploy("blue", str(office.model_file(run).parent), **change)
    refused(office, run, IntegrityError, said)


def test_a_slot_that_serves_other_bytes_gets_no_traffic(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    other = office.evaluated("other", "green")
    office.deploy("blue", str(office.model_file(other).parent))
    refused(office, run, IntegrityError, "slot blue serves nothing")
    office.serve.applications = {}
    refused(office, run, IntegrityError, "slot blue serves nothing")


def test_rollback_gives_the_traffic_back(office: Office) -> None:
    first = office.evaluated("first", "blue")
    with pytest.raises(IntegrityError, match="no former champion"):
        rollback_run(settings=office.settings, reason="")
    office.approve(first)
    office.promote(first)
    with pytest.raises(IntegrityError, match="no former champion"):
        rollback_run(settings=office.settings, reason="")

    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    assert office.weights() == TO_GREEN
    assert office.ask().json() == {"slot": "green"}

    traffic = rollback_run(settings=office.settings, reason="it rhymes")
    assert office.weights() == TO_BLUE
    assert office.ask().json() == {"slot": "blue"}
    assert (traffic.action, traffic.reason, traffic.by) == ("rollback", "it rhymes", "ben")
    champion = office.ledger.champion()
    assert champion is not None
    assert champion.run == first
    assert traffic.former is not None
    assert traffic.former.run == second


def test_there_is_no_way_back_to_a_slot_that_holds_another_model(office: Office) -> None:
    for name, slot in (("first", "blue"), ("second", "green")):
        run = office.evaluated(name, slot)
        office.approve(run)
        office.promote(run)
    office.evaluated("third", "blue")
    with pytest.raises(
        IntegrityError, match="no way back to first-1a2b3c: slot blue serves nothing"
    ):
        rollback_run(settings=office.settings, reason="")
    assert office.weights() == TO_GREEN
    assert len(office.ledger.traffic()) == 2


def test_a_careful_promotion_goes_step_by_step(office: Office) -> None:
    champion = office.evaluated("first", "blue")
    office.approve(champion)
    office.promote(champion)
    run = office.evaluated("careful", "green")
    office.approve(run)
    seen: list[dict[str, int]] = []

    def look(stop: threading.Event) -> None:
        while not stop.wait(0.05):
            seen.append(office.weights())

    with beside(look):
        office.promote(run)
    assert {"blue": 128, "green": 128} in seen
    assert TO_NOBODY not in seen
    assert office.weights() == TO_GREEN


def test_the_command_says_by_its_exit_code_what_happened(office: Office) -> None:
    first = office.evaluated("first", "blue")
    done = office.command("promote", first)
    assert (done.returncode, office.weights()) == (ExitCode.NOT_APPROVED, TO_NOBODY)
    assert f"`assay approve {first}` is for anna, ben" in done.stderr
    assert office.command("approve", "first", "--as", "anna").returncode == ExitCode.DONE
    done = office.command("promote", "first")
    assert (done.returncode, office.weights()) == (ExitCode.DONE, TO_BLUE)
    assert "has the traffic (slot blue)" in done.stdout
    assert office.command("rollback").returncode == ExitCode.DRIFT

    # A candidate whose answers are errors gives the traffic back.
    run = office.evaluated("careful", "green")
    office.approve(run)
    office.serve.broken = {"green"}

    def ask(stop: threading.Event) -> None:
        while not stop.wait(0.01):
            office.ask()

    with beside(ask):
        done = office.command("promote", "careful")
    assert (done.returncode, office.weights()) == (ExitCode.ROLLED_BACK, TO_BLUE)
    assert "rolled back: server errors at 50%" in done.stderr
    assert office.ledger.traffic()[-1].action == "rollback"
    champion = office.ledger.champion()
    assert champion is not None
    assert champion.run == first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card.update(outcome="PASS"), "another verdict"),
        (lambda card: card["limits"][0].update(outcome="PASS"), "facts exact_match is"),
        (lambda card: card["limits"][0].update(limit=0.1), "facts exact_match is"),
        (lambda card: card.update(limits=[], outcome="PASS"), "another number of limits"),
        (lambda card: card.update(confidence=0.5), "another confidence"),
        (lambda card: card.update(schema_version=1), "another version"),
        (lambda card: card["evidence"].update(candidate="0" * 64), "names other evidence"),
    ],
)
def test_a_scorecard_edited_after_the_fact_lets_nobody_through(
    office: Office, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    run = office.evaluated("bot", "blue", "INCONCLUSIVE")

    def edit(record: dict[str, Any]) -> None:
        change(record["scorecard"])
        record["scorecard"]["outcome"] = "PASS"

    office.edit(run, edit)
    with pytest.raises(IntegrityError, match=said):
        office.approve(run)
    refused(office, run, NotApproved, "is not approved")


def test_an_edit_after_the_approval_voids_it(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.edit(run, lambda record: record["scorecard"]["limits"][0].update(reason="all is well"))
    refused(office, run, NotApproved, "it is for scorecard")


def test_evidence_that_was_changed_lets_nobody_through(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    key = next(stage.key for stage in office.ledger.stages(run) if stage.stage == "gate")
    row = office.ledger.record(key)
    assert row is not None
    answers = (
        Path(GateRecord.model_validate_json(row.record).candidate.evidence.path) / "evaluation.json"
    )
    whole = answers.read_text()
    try:
        answers.write_text(whole.replace('"response":"!"', '"response":"?"', 1))
        refused(office, run, IntegrityError, "SHA-256 has changed")
    finally:
        answers.write_text(whole)
    office.promote(run)


def test_evidence_from_elsewhere_lets_nobody_through(office: Office, tmp_path: Path) -> None:
    run = office.evaluated("bot", "blue", "INCONCLUSIVE")
    flattering = {
        "id": "1",
        "prompt": "?",
        "target": "!",
        "response": "!",
        "scores": {"exact_match": 1.0},
    }

    def edit(record: dict[str, Any]) -> None:
        evaluation = json.loads(
            (Path(record["candidate"]["evidence"]["path"]) / "evaluation.json").read_text()
        )
        evaluation["tasks"][0]["items"] = [{**flattering, "id": f"{index}"} for index in range(60)]
        (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
        record["candidate"]["evidence"]["path"] = str(tmp_path)
        record["scorecard"].update(outcome="PASS")

    office.edit(run, edit)
    with pytest.raises(IntegrityError, match="which is not the store"):
        office.approve(run)
