"""What slots hold of the cluster: who holds it, who gives it back, and what waits for it."""

import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from assay.engines.cluster.tasks import ClusterSize
from assay.engines.deployment import ray_serve
from assay.errors import StageFailed, UsageError
from assay.flow.release.operations import ReviewerWord, record_decision
from assay.flow.release.slots import idle_slot
from assay.flow.resources.giving_back import free_needless, free_run
from assay.flow.resources.holdings import KEEP, holdings
from assay.flow.resources.waiting import Room, wait_for_room
from assay.records.holding import Holding
from assay.records.plan import Cluster, Need, Node
from assay.rules.planning.fit import waiting
from assay.stages import deploy
from assay.store.lock import held
from office import Office, office, running  # noqa: F401

ONE_GPU = {"placement_group_config": {"bundles": [{"GPU": 1, "CPU": 1}]}}


def roles(office: Office) -> dict[str, tuple[str, str]]:
    return {one.slot: (one.role, one.run) for one in holdings(office.settings, office.ledger)}


def give_back(office: Office) -> set[str]:
    """Slots that were given back."""
    before = set(roles(office))
    free_needless(office.settings, say=lambda _: None)
    return before - set(roles(office))


def on_gpu(office: Office, slot: str) -> None:
    config = office.serve.applications[slot]["deployed_app_config"]["args"]["llm_configs"][0]
    config |= ONE_GPU


def one_gpu() -> ClusterSize:
    return ClusterSize(cpus=4, gpus=1, nodes=1)


def test_slots_say_whose_they_are_and_what_they_hold(office: Office) -> None:
    first = office.evaluated("first", "blue")
    office.approve(first)
    office.promote(first)
    second = office.evaluated(
        "second", "green", champion_digest=office.model(first).artifact.digest
    )
    on_gpu(office, "green")
    assert roles(office) == {"blue": ("champion", first), "green": ("candidate", second)}
    (green,) = (one for one in holdings(office.settings, office.ledger) if one.slot == "green")
    assert (green.cpus, green.gpus, green.returns) == (1, 1, False)
    assert green.memory == office.model_file(second).stat().st_size
    office.approve(second)
    office.promote(second)
    assert roles(office)["blue"] == ("former champion", first)
    assert give_back(office) == set()  # the way back stays open


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE"])
def test_a_candidate_that_did_not_pass_is_given_back(office: Office, outcome: str) -> None:
    office.evaluated("bad", "green", outcome=outcome)
    assert give_back(office) == {"green"}
    assert give_back(office) == set()


def test_a_candidate_that_may_be_promoted_is_not_given_back(office: Office) -> None:
    run = office.evaluated("good", "green")
    assert give_back(office) == set()
    office.approve(run)
    assert give_back(office) == set()


def test_a_candidate_that_is_to_be_kept_or_is_worked_on_is_not_given_back(office: Office) -> None:
    run = office.evaluated("bad", "green", outcome="FAIL")
    folder = office.settings.run_folder(run)
    with held(folder / "lock", taken=UsageError("taken")):
        assert give_back(office) == set()
    (folder / KEEP).touch()
    assert give_back(office) == set()
    assert free_run(run, settings=office.settings, say=lambda _: None)
    assert not (folder / KEEP).exists()
    assert roles(office) == {}


def test_a_rejected_candidate_is_given_back_at_once(office: Office) -> None:
    run = office.evaluated("rude", "green")
    record_decision(run, ReviewerWord("reject", "anna", "no"), settings=office.settings)
    assert roles(office) == {}


def test_a_candidate_is_given_back_when_approvals_of_it_would_have_expired(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = office.evaluated("late", "green")
    expires = office.spec("late").approval.expires
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + expires - 60)
    assert give_back(office) == set()
    office.approve(run)  # holds from here on
    monkeypatch.setattr(time, "time", lambda: now + 2 * expires - 120)
    assert give_back(office) == set()
    monkeypatch.setattr(time, "time", lambda: now + 2 * expires)
    assert give_back(office) == {"green"}


def test_a_candidate_that_was_compared_with_another_champion_is_given_back(office: Office) -> None:
    old = office.evaluated("old", "blue")
    office.evaluated("late", "green", champion_digest=office.model(old).artifact.digest)
    office.approve(old)
    office.promote(old)
    assert give_back(office) == set()
    new = office.evaluated("new", "blue")
    with office.ledger._database.writing() as connection:  # another has got the traffic since
        from assay.records.releases.release import Champion, Traffic
        from assay.store.audit import this_process

        champion = Champion(
            run=new, slot="blue", model_name="bot",
            artifact_digest=office.model(new).artifact.digest, since=time.time(),
        )  # fmt: skip
        traffic = Traffic(action="promote", champion=champion, former=None, by="ben")
        office.ledger._add_traffic(connection, traffic, this_process("ben"))
    assert give_back(office) == {"green"}


def test_free_refuses_what_has_traffic(office: Office) -> None:
    run = office.evaluated("first", "blue")
    office.approve(run)
    office.promote(run)
    refused = office.command("free", "first")
    assert (refused.returncode, "has traffic" in refused.stderr) == (2, True)
    other = office.evaluated("other", "green")
    assert "given back" in office.command("free", "other").stdout
    assert set(roles(office)) == {"blue"}
    assert "nothing was held" in office.command("free", other).stdout
    assert office.ask().status_code == 200


def test_what_waits_says_who_holds_it_and_goes_on_when_it_is_given_back(office: Office) -> None:
    run = office.evaluated("good", "green")
    on_gpu(office, "green")
    said: list[str] = []

    def free() -> ClusterSize:
        held = sum(one.gpus for one in holdings(office.settings, office.ledger))
        return ClusterSize(cpus=4, gpus=1 - held, nodes=1)

    def say(text: str) -> None:
        said.append(text)
        threading.Thread(target=free_run, args=[run], kwargs=how).start()

    how: dict[str, Any] = {"settings": office.settings, "say": lambda _: None}
    wait_for_room(
        Room("training's workers", 2, 1), office.settings, say=say, free=free, size=one_gpu
    )
    assert len(said) == 1
    assert f"Held by {run} (candidate, slot green): 1 CPUs, 1 GPUs" in said[0]


def test_what_waits_in_vain_gives_up_and_says_what_to_do(office: Office) -> None:
    office.evaluated("good", "green")
    patient = replace(office.settings, wait_limit_s=0.0)
    with pytest.raises(StageFailed, match=r"good-1a2b3c \(candidate.*ASSAY_WAIT_LIMIT.*assay free"):
        wait_for_room(
            Room("training's workers", 2, 1),
            patient,
            say=lambda _: None,
            free=lambda: ClusterSize(cpus=4, gpus=0, nodes=1),
            size=one_gpu,
        )


def test_ten_runs_on_two_gpus_go_through_one_after_the_other(office: Office) -> None:
    """Serve and its GPUs are stand-ins: what waits, gives back and is given back is the real code."""
    settings = replace(office.settings, wait_limit_s=5.0)

    def two_gpus() -> ClusterSize:
        return ClusterSize(cpus=8, gpus=2, nodes=1)

    def free() -> ClusterSize:
        held = holdings(settings, office.ledger)
        gpus, cpus = (sum(getattr(one, kind) for one in held) for kind in ("gpus", "cpus"))
        return ClusterSize(cpus=8 - cpus, gpus=2 - gpus, nodes=1)

    said: list[str] = []

    def wait(what: str) -> None:
        wait_for_room(Room(what, 1, 1), settings, say=said.append, free=free, size=two_gpus)

    ends = ("promote", "FAIL", "promote", "reject", "INCONCLUSIVE", "promote", "free")
    ends += ("promote", "FAIL", "promote")
    for number, end in enumerate(ends):
        wait("training's workers")
        champion = office.ledger.champion()
        with idle_slot(settings) as slot:
            ray_serve.remove(deploy.serve_api(settings), slot)
        wait("the engine's replicas")
        outcome = end if end.isupper() else "PASS"
        digest = champion.artifact_digest if champion else None
        run = office.evaluated(f"run{number}", slot, outcome, champion_digest=digest)
        on_gpu(office, slot)
        if end == "promote":
            office.approve(run)
            office.promote(run)
        elif end == "reject":
            record_decision(run, ReviewerWord("reject", "anna", ""), settings=settings)
        elif end == "free":
            free_run(run, settings=settings, say=lambda _: None)
        free_needless(settings, say=lambda _: None)
        assert free().gpus >= 0
    assert sum("there is no way back to" in text for text in said) == 3
    assert not [text for text in said if text.startswith("waiting")]
    last = office.ledger.champion()
    assert last is not None
    assert (last.run, office.ask().status_code) == ("run9-1a2b3c", 200)


def test_what_only_the_champion_could_give_back_is_not_waited_for(office: Office) -> None:
    run = office.evaluated("first", "blue")
    on_gpu(office, "blue")
    office.approve(run)
    office.promote(run)
    with pytest.raises(StageFailed, match=r"first-1a2b3c \(champion.*gives nothing back"):
        wait_for_room(
            Room("training's workers", 2, 1),
            office.settings,
            say=lambda _: None,
            free=lambda: ClusterSize(cpus=3, gpus=0, nodes=1),
            size=one_gpu,
        )


def test_a_plan_counts_what_is_held() -> None:
    node = Node(count=1, cpus=8, gpus=2, gpu_memory=None, memory=None)
    cluster = Cluster(source="here", nodes=(node,))

    def holding(role: str, slot: str, *, returns: bool = False) -> Holding:
        data = {"slot": slot, "run": "r", "role": role, "cpus": 1, "gpus": 1, "memory": 0}
        return Holding.model_validate_json(json.dumps(data | {"returns": returns}))

    champion, candidate = holding("champion", "blue"), holding("candidate", "green")
    need = Need(stage="train", num_workers=1, cpus=1, gpus=1, memory=None)
    assert "r (champion, slot blue)" in waiting(need, cluster, [champion, candidate]).waits_for
    assert waiting(need, cluster, [champion]) == need
    former = holding("former champion", "green")  # is given back when its room is wanted
    assert waiting(need, cluster, [champion, former]) == need
    failed = holding("candidate", "green", returns=True)
    assert waiting(need, cluster, [champion, failed]) == need
    deploy = need.model_copy(update={"stage": "deploy"})
    assert waiting(deploy, cluster, [champion, candidate]) == deploy  # it takes that one's place
