"""What the gateway lets through follows from the ledger, whatever is put into a slot past it."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from assay.cli.main import assay
from assay.errors import IntegrityError
from assay.flow.release.operations import (
    ReviewerWord,
    reconcile_releases,
    record_decision,
    rollback_run,
)
from assay.serving import admin, gateway
from office import TO_BLUE, TO_GREEN, Office, beside, office, refused, running  # noqa: F401


def champion_in_blue(office: Office) -> str:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.promote(run)
    return run


def digest(office: Office, run: str) -> str:
    return office.model(run).artifact.digest


def test_other_bytes_in_the_champions_slot_answer_nobody(office: Office) -> None:
    """Somebody tells Serve, and nobody else, to put another model where the traffic goes."""
    run = champion_in_blue(office)
    assert office.ask().headers["X-Assay-Artifact"] == digest(office, run)
    other = office.evaluated("other", "green")
    office.deploy("blue", office.model(other).artifact.path)
    for _ in range(3):
        response = office.ask()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_approved")
    reconcile_releases(office.settings, say=lambda _: None)
    assert office.ask().status_code == 503  # nothing that is done for another reason lets it in
    office.deploy("blue", office.model(run).artifact.path)
    assert office.ask().json() == {"slot": "blue"}


def test_traffic_that_is_moved_past_the_ledger_gets_no_answer(office: Office) -> None:
    champion_in_blue(office)
    office.evaluated("other", "green")
    writer = gateway.newest_writer(office.settings)
    approved = gateway.get_approved(office.settings)
    gateway.give(office.settings, TO_GREEN, approved, writer=writer)
    assert office.ask().json()["error"]["code"] == "not_approved"


def test_the_list_follows_promotion_rollback_and_rejection(office: Office) -> None:
    first = champion_in_blue(office)
    assert gateway.get_approved(office.settings) == {digest(office, first)}
    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    both = {digest(office, first), digest(office, second)}
    assert gateway.get_approved(office.settings) == both  # the former one still has requests
    rollback_run(settings=office.settings, reason="it rhymes")
    assert gateway.get_approved(office.settings) == both
    reconcile_releases(office.settings, say=lambda _: None)
    assert gateway.get_approved(office.settings) == {digest(office, first)}
    assert (office.weights(), office.ask().status_code) == (TO_BLUE, 200)


def test_what_is_rejected_in_a_canary_answers_nobody_any_more(office: Office) -> None:
    first = champion_in_blue(office)
    run = office.evaluated("slow", "green")
    office.approve(run)

    def reject(stop: Any) -> None:
        while office.weights() == TO_BLUE and not stop.is_set():
            stop.wait(0.02)
        assert digest(office, run) in gateway.get_approved(office.settings)
        record_decision(run, ReviewerWord("reject", "anna", "it lies"), settings=office.settings)

    with beside(reject), pytest.raises(IntegrityError, match="was ended by somebody else"):
        office.promote(run)
    assert gateway.get_approved(office.settings) == {digest(office, first)}


def test_a_slot_that_does_not_say_what_it_is_gets_no_traffic(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that an older version has deployed: behind the gateway it would answer nobody."""
    run = office.evaluated("bot", "blue")
    office.approve(run)
    handler = office.serve.RequestHandlerClass
    genuine = handler.end_headers

    def silent(self: Any) -> None:
        self._headers_buffer = [
            line for line in self._headers_buffer if b"X-Assay-Artifact" not in line
        ]
        genuine(self)

    with monkeypatch.context() as patch:
        patch.setattr(handler, "end_headers", silent)
        refused(office, run, IntegrityError, "says that it is of artifact none")
    office.promote(run)
    assert office.ask().status_code == 200


PACKAGE = Path(gateway.__file__).parents[1]
MOST_FILES = 8
"""From the command to HAProxy: whoever follows a parameter there opens no more of them."""


def test_the_way_from_the_command_to_the_weights_is_short(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    ways: list[list[str]] = []
    apply_weights = admin.apply_weights

    def noted(settings: Any, weights: dict[str, int]) -> bool:
        frame, files = sys._getframe(), [admin.__file__]
        while frame.f_back is not None:
            frame = frame.f_back
            files.append(frame.f_code.co_filename)
        ways.append(
            list(dict.fromkeys(file for file in files if Path(file).is_relative_to(PACKAGE)))
        )
        return apply_weights(settings, weights)

    monkeypatch.setattr(admin, "apply_weights", noted)
    for name, value in office.environment().items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(assay, ["promote", run], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert office.weights() == TO_BLUE
    for way in ways:
        names = [Path(file).relative_to(PACKAGE).as_posix() for file in reversed(way)]
        assert "cli/releases.py" in names
        assert len(names) <= MOST_FILES, names
