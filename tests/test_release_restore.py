"""Production comes back after a restart, without a person, and with nothing but what was approved."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from assay.engines.deployment import ray_serve
from assay.errors import IntegrityError, NotApproved, StageFailed, UsageError
from assay.flow.place import daemon
from assay.flow.release import controller
from assay.flow.release.audit import check_audit
from assay.flow.release.operations import ReviewerWord, record_decision, rollback_run
from assay.flow.release.receipts import receipt_store, verify_folder
from assay.flow.release.restore import is_lost, restore
from office import TO_BLUE, TO_GREEN, TO_NOBODY, Office, office, running  # noqa: F401

PACKAGE = "vllm-1.0.dist-info"


def champion_in_blue(office: Office) -> str:
    run = office.evaluated("first", "blue")
    office.approve(run)
    office.promote(run)
    return run


def restart(office: Office) -> None:
    """The Ray head and all that ran on it are gone; a new head has nothing."""
    office.serve.applications.clear()


def bring_back(office: Office) -> bool:
    return restore(office.settings, say=lambda _: None)


def newest(office: Office) -> tuple[str, str]:
    champion = office.ledger.champion()
    assert champion is not None
    restoration = office.ledger.restorations.newest(champion.run, champion.since)
    assert restoration is not None
    return restoration.state, restoration.note


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} was waited for in vain"
        time.sleep(0.02)


def is_refused(office: Office, kind: type[Exception], said: str) -> None:
    """The champion does not come back: nothing is deployed, and nobody has traffic."""
    restart(office)
    deployed = office.serve.num_deployed
    with pytest.raises(kind, match=said):
        bring_back(office)
    assert office.serve.num_deployed == deployed
    assert office.weights() == TO_NOBODY
    assert newest(office)[0] == "failed"
    assert is_unavailable(office.ask())
    with pytest.raises(kind, match=said):  # the same again: written down once
        bring_back(office)
    events = [
        event.content["state"] for event in office.ledger.audit.events() if event.kind == "restore"
    ]
    assert events == ["failed"]
    check_audit(office.ledger, office.settings)


def is_unavailable(response: httpx.Response) -> bool:
    error = response.json()["error"]
    return (
        response.status_code == 503
        and int(response.headers["Retry-After"]) > 0
        and error.keys() == {"message", "type", "param", "code"}
    )


def test_the_champion_comes_back_with_its_traffic_and_a_receipt(office: Office) -> None:
    run = champion_in_blue(office)
    assert not is_lost(office.settings, office.ledger)
    assert not bring_back(office)
    restart(office)
    assert is_unavailable(office.ask())  # Serve says 404, as text
    assert bring_back(office)
    assert (office.ask().status_code, office.weights()) == (200, TO_BLUE)
    folder = receipt_store(office.settings).folder / run
    keys = sorted((office.settings.home / "keys").glob("*.pub"))
    assert verify_folder(folder, keys).run == run
    assert len(list(folder.glob("deployment-*.json"))) == 2
    states = [e.content["state"] for e in office.ledger.audit.events() if e.kind == "restore"]
    assert states == ["begun", "done"]
    check_audit(office.ledger, office.settings)
    assert not bring_back(office)
    restart(office)
    assert bring_back(office)  # as often as it is lost


def test_one_flipped_byte_gets_no_traffic(office: Office) -> None:
    run = champion_in_blue(office)
    file = office.model_file(run)
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    is_refused(office, IntegrityError, "its SHA-256 has changed")
    data[3] ^= 1
    file.write_bytes(data)
    assert bring_back(office)
    assert office.weights() == TO_BLUE


def test_a_byte_that_is_flipped_while_the_engine_starts_gets_no_traffic(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica reads what it loads, and says another digest, or nothing."""
    champion_in_blue(office)
    restart(office)
    report = office.serve.report
    monkeypatch.setattr(office.serve, "report", lambda replica, digest: report(replica, "other"))
    with pytest.raises(StageFailed, match="not every replica says"):
        bring_back(office)
    assert office.weights() == TO_NOBODY
    assert newest(office)[0] == "failed"


def test_a_model_that_was_rejected_since_is_not_restored(office: Office) -> None:
    run = champion_in_blue(office)
    record_decision(run, ReviewerWord("reject", "anna", "it lies"), settings=office.settings)
    is_refused(office, NotApproved, "rejected by anna: it lies")


def test_another_engine_build_is_not_what_was_evaluated(office: Office) -> None:
    champion_in_blue(office)
    packages = next(Path(office.settings.engine_python).parents[1].glob("lib/*/site-packages"))
    (packages / PACKAGE).rename(packages / "vllm-1.1.dist-info")
    try:
        is_refused(office, IntegrityError, "vllm-1.0 then, vllm-1.1 now")
    finally:
        (packages / "vllm-1.1.dist-info").rename(packages / PACKAGE)


def test_without_its_receipts_nothing_is_restored(office: Office) -> None:
    run = champion_in_blue(office)
    folder = receipt_store(office.settings).folder / run
    folder.rename(folder.with_name("elsewhere"))
    try:
        is_refused(office, IntegrityError, "no receipt of a release")
    finally:
        folder.with_name("elsewhere").rename(folder)


def test_a_receipt_that_nobody_here_has_signed_restores_nothing(office: Office) -> None:
    run = champion_in_blue(office)
    files = (receipt_store(office.settings).folder / run).glob("release-*.json")
    file = max(files, key=lambda one: one.stat().st_mtime_ns)
    text = file.read_text()
    file.write_text(text.replace('"sig":"', '"sig":"AA').replace('"sig": "', '"sig": "AA'))
    try:
        is_refused(office, IntegrityError, "was changed after key|is no receipt")
    finally:
        file.write_text(text)


def test_what_was_rolled_back_is_not_restored_but_who_came_before_it(office: Office) -> None:
    first = champion_in_blue(office)
    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    rollback_run(settings=office.settings, reason="worse")
    restart(office)
    assert bring_back(office)
    assert office.weights() == TO_BLUE
    champion = office.ledger.champion()
    assert champion is not None
    assert champion.run == first
    assert set(office.serve.applications) == {"blue"}


def test_traffic_can_go_back_to_a_champion_that_was_restored(office: Office) -> None:
    first = champion_in_blue(office)
    restart(office)
    bring_back(office)
    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    assert office.weights() == TO_GREEN
    traffic = rollback_run(settings=office.settings, reason="worse")
    assert traffic.champion is not None
    assert traffic.champion.run == first
    assert office.weights() == TO_BLUE
    folder = receipt_store(office.settings).folder / first
    keys = sorted((office.settings.home / "keys").glob("*.pub"))
    assert verify_folder(folder, keys).predicate["intent"]["action"] == "rollback"
    restart(office)
    assert bring_back(office)


def test_other_bytes_that_somebody_puts_in_the_champions_slot_are_replaced(office: Office) -> None:
    champion_in_blue(office)
    other = office.evaluated("other", "reference")
    office.deploy("blue", office.model(other).artifact.path, deployed_at=2000.0)
    assert is_lost(office.settings, office.ledger)
    assert bring_back(office)
    state = ray_serve.state(
        ray_serve.ServeApi(office.settings.dashboard_url, "", 1, "python"), "blue"
    )
    assert state is not None
    assert state.model_path == office.model("first-1a2b3c").artifact.path


def test_a_promotion_beside_a_lost_champion_sends_nothing_to_its_slot(office: Office) -> None:
    run = champion_in_blue(office)
    office.model_file(run).write_text("other bytes")
    is_refused(office, IntegrityError, "its SHA-256 has changed")
    second = office.evaluated("careful", "green")
    office.approve(second)
    seen = []
    watch = threading.Event()

    def look() -> None:
        while not watch.is_set():
            seen.append(office.weights()["blue"])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        office.promote(second)
    finally:
        watch.set()
        thread.join()
    assert set(seen) == {0}
    assert office.weights() == TO_GREEN


def test_two_that_restore_at_once_deploy_once(office: Office) -> None:
    champion_in_blue(office)
    restart(office)
    deployed = office.serve.num_deployed
    outcomes: list[object] = []

    def work() -> None:
        try:
            outcomes.append(bring_back(office))
        except UsageError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 1
    assert office.serve.num_deployed == deployed + 1
    assert office.weights() == TO_BLUE


def test_one_that_is_killed_in_the_middle_leaves_no_traffic_and_the_next_goes_on(
    office: Office,
) -> None:
    """The engine that the killed one has started is waited for, and not started again."""
    champion_in_blue(office)
    restart(office)
    office.serve.starts_as = "DEPLOYING"
    try:
        up = office.begin("up", "--gateway-only")
        until(lambda: office.serve.applications.get("blue") is not None, "the engine's start")
        controller.stop(office.settings)
        up.kill()
        up.communicate()
        assert office.weights() == TO_NOBODY
        assert newest(office)[0] == "begun"
        deployed = office.serve.num_deployed
        office.serve.applications["blue"]["status"] = "RUNNING"
    finally:
        office.serve.starts_as = "RUNNING"
    assert bring_back(office)
    assert office.serve.num_deployed == deployed
    assert office.weights() == TO_BLUE


def test_up_starts_one_controller_that_brings_the_champion_back_without_a_person(
    office: Office,
) -> None:
    champion_in_blue(office)
    restart(office)
    done = office.command(
        "up", "--gateway-only"
    )  # or the controller that it starts, if that is first
    assert done.returncode == 0, done.stderr
    assert office.weights() == TO_BLUE
    assert controller.is_running(office.settings)
    second = subprocess.run(
        [sys.executable, "-m", controller.MODULE],
        env=office.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "another controller runs" in second.stdout
    restart(office)
    began = time.monotonic()
    until(lambda: office.ask().status_code == 200, "production")
    assert time.monotonic() - began < 60
    pid = int((office.settings.home / "controller" / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    until(lambda: not controller.is_running(office.settings), "the controller's end")
    office.command("up", "--gateway-only")
    assert controller.is_running(office.settings)


def test_a_controller_knows_the_local_head_although_its_command_names_one_to_ray(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `assay up` says so to Ray's own libraries; a controller that took it for somebody else's
    # cluster would never start a head that crashed.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    local = replace(office.settings, ray_address="")
    code = "from assay.settings import Settings; print([Settings().ray_address])"
    environment = daemon.environment(local)
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert said.stdout.decode().strip() == "['']"


def test_a_cluster_that_does_not_answer_is_waited_for(office: Office) -> None:
    champion_in_blue(office)
    away = replace(office.settings, dashboard_port=1)
    with pytest.raises(Exception, match="no Ray dashboard answers"):
        restore(away, say=lambda _: None)
    assert office.ledger.restorations.newest("first-1a2b3c", 0.0) is None
    assert office.weights() == TO_BLUE  # Serve's own replicas may well live
