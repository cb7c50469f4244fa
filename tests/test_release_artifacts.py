"""`assay gc` and `assay models`, after real releases: what stays, what may go, and what each model
was made of."""

import json
import os
import time
from pathlib import Path

import pytest

from assay.errors import ExitCode
from assay.flow.resources import collecting
from assay.flow.resources.lineage import models
from assay.records.gate import GateRecord
from assay.settings import Settings
from assay.stages import gate
from assay.store.artifacts import open_store
from office import Office, office, running  # noqa: F401

OLD_S = 40 * 86400.0


def age(office: Office, seconds: float = OLD_S) -> None:
    """Makes every artifact one that was last used so long ago."""
    then = time.time() - seconds
    for file in (office.settings.home / "artifacts").glob("*.*"):
        os.utime(file, (then, then))


@pytest.fixture
def released(office: Office) -> dict[str, str]:
    """The former champion, the champion, one that was approved, and two that were not."""
    store, runs = open_store(office.settings), {}
    for digest in store.digests():  # of the tests before, which share the place
        store.delete(digest)
    for name, slot in (("first", "blue"), ("second", "green")):
        champion = office.ledger.champion()
        digest = champion.artifact_digest if champion else None
        runs[name] = office.evaluated(name, slot, champion_digest=digest)  # type: ignore[arg-type]
        office.approve(runs[name])
        office.promote(runs[name])
    runs["approved"] = office.evaluated("approved", "blue", champion_digest=digest_of(office))
    office.approve(runs["approved"])
    runs["failed"] = office.evaluated("failed", "blue", "FAIL", champion_digest=digest_of(office))
    runs["passed"] = office.evaluated("passed", "blue", champion_digest=digest_of(office))
    return runs


def digest_of(office: Office) -> str:
    champion = office.ledger.champion()
    assert champion is not None
    return champion.artifact_digest


def test_what_serves_served_and_was_approved_stays_and_all_that_it_rests_on(
    office: Office, released: dict[str, str]
) -> None:
    store, artifacts = open_store(office.settings), office.settings.home / "artifacts"
    before = set(store.digests())
    young = office.command("gc", "--json")
    assert json.loads(young.stdout)["freed"] == {}
    age(office)
    said = office.command("gc", "--days", "0", "--json")
    assert said.returncode == ExitCode.DONE, said.stderr
    told = json.loads(said.stdout)
    assert {one["run"]: one["why"] for one in told["kept"]} == {
        released["first"]: "former champion",
        released["second"]: "champion",
        released["approved"]: "approved",
    }
    assert set(store.digests()) == before  # it was only said
    done = office.command("gc", "--days", "0", "--delete")
    assert f"{len(told['freed'])} artifacts" in done.stdout
    assert set(store.digests()) == before - told["freed"].keys()
    assert not [one for one in artifacts.iterdir() if one.name.partition(".")[0] in told["freed"]]
    for name, stays in (("first", True), ("second", True), ("failed", False), ("passed", False)):
        assert Path(office.model(released[name]).artifact.path).exists() == stays
    assert office.command("doctor").returncode == ExitCode.DONE
    for name in ("first", "second", "approved"):  # the evidence of their verdicts is whole
        gate.verify(GateRecord.model_validate_json(office.gate_record(released[name])), store)


def test_what_is_being_made_is_not_thrown_away(office: Office, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "file").write_text("of a run that has not finished its stage")
    made = open_store(office.settings).put(folder, "model")
    found = collecting.collectable(office.settings, office.ledger, days=1)
    assert made.digest not in found.freed
    age(office)
    found = collecting.collectable(office.settings, office.ledger, days=1)
    assert found.freed[made.digest] == made.size


def test_every_model_tells_what_it_was_made_of_and_when_it_served(
    office: Office, released: dict[str, str]
) -> None:
    found = {one.run: one for one in models(office.ledger)}
    stages = {name: found[run].stage for name, run in released.items()}
    assert stages == {
        "first": "former champion",
        "second": "champion",
        "approved": "approved",
        "failed": "failed",
        "passed": "passed",
    }
    (first,), (second,) = (found[released[name]].served for name in ("first", "second"))
    assert (first.slot, second.slot) == ("blue", "green")
    assert second.until is None
    assert first.until is not None
    assert first.since < first.until
    assert abs(first.until - second.since) < 5
    assert found[released["first"]].base == "hf:some/model"
    assert found[released["first"]].spec["name"] == "first"
    assert [word.reviewer for word in found[released["approved"]].words] == ["anna"]
    said = office.command("models", "second")
    assert f"{released['second']}  champion" in said.stdout
    assert released["first"] not in said.stdout
    assert "served in green from " in said.stdout


def test_the_cache_loses_what_was_used_longest_ago_and_nothing_that_serves(
    office: Office,
    released: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an object store that has everything."""

    class Everywhere:
        def has(self, digest: str) -> bool:
            return True

    store = open_store(office.settings)
    store.remote = Everywhere()  # type: ignore[assignment]
    monkeypatch.setattr(collecting, "open_store", lambda settings: store)
    limited = Settings(cache_limit_gb=1e-9)  # one byte
    before = set(store.digests())
    assert collecting.trim_cache(limited, office.ledger) == 0  # all of it was used just now
    age(office)
    assert collecting.trim_cache(Settings(cache_limit_gb=1.0), office.ledger) == 0
    sizes = store.sizes()
    freed = collecting.trim_cache(limited, office.ledger)
    serving = {office.model(released[name]).artifact.digest for name in ("first", "second")}
    assert set(store.digests()) == serving
    assert freed == sum(sizes[one] for one in before - serving)
