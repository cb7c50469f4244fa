"""`assay gate run`: a tiny model through the real engine, without any run."""

import json
import resource
from collections.abc import Iterator

import pytest

from project import Project

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("gate-run"), PARTNER_KEY="secret")
    try:
        yield project
    finally:
        project.assay("down")


SUITE = ("--suite", "evals/tiny.yaml")


@pytest.mark.long
def test_a_folder_is_weighed_once(project: Project) -> None:
    html = project.folder / "card.html"
    # A model of random weights answers everything wrongly, and never abstains.
    out = project.assay(
        "gate", "run", *SUITE, "--artifact", "model", "--html", str(html), exit_code=10
    )
    assert "FAIL" in out
    assert "tiny_known" in html.read_text()

    before = _cpu_s()
    again = json.loads(
        project.assay("gate", "run", *SUITE, "--artifact", "model", "--json", exit_code=10)
    )
    assert _cpu_s() - before < 5
    assert again["candidate"]["num_items"] == 80
    assert again["bytes_known"] is True
    assert again["scorecard"]["deployment_slot"] == "reference"

    # Another limit is another verdict on the same answers.
    suite = project.folder / "evals" / "tiny.yaml"
    suite.write_text(
        suite.read_text().replace("at_most: 30%}\n  tiny_unknown", "at_most: 40%}\n  tiny_unknown")
    )
    before = _cpu_s()
    changed = json.loads(
        project.assay("gate", "run", *SUITE, "--artifact", "model", "--json", exit_code=10)
    )
    assert _cpu_s() - before < 5
    assert changed["candidate"]["evidence"] == again["candidate"]["evidence"]
    assert changed["scorecard_digest"] != again["scorecard_digest"]

    # Nothing of it can be released.
    assert project.assay("approve", again["name"], exit_code=12) == ""


@pytest.mark.long
def test_a_suite_is_tested_with_damaged_weights(project: Project) -> None:
    call = (
        "gate",
        "selftest",
        "evals/tiny.yaml",
        "--artifact",
        "model",
        "--noise",
        "0",
        "--noise",
        "1",
        "--json",
    )
    found = json.loads(project.assay(*call, "--draws", "100"))
    again, damaged = found["noised"]
    assert (again["noise"], again["outcome"], again["changed_answers"]) == (0, "FAIL", 0), (
        "the engine repeats itself"
    )
    assert damaged["changed_answers"] > 0.5
    assert damaged["artifact_digest"] != again["artifact_digest"]
    name = json.loads(
        project.assay("gate", "run", *SUITE, "--artifact", "model", "--json", exit_code=10)
    )["name"]
    report = json.loads(project.assay("report", name, "--json"))
    assert report["selftest"]["noised"] == found["noised"]


@pytest.mark.long
def test_two_replicas_are_asked_at_once(project: Project) -> None:
    call = (
        "gate",
        "run",
        *SUITE,
        "--artifact",
        "model",
        "--engine",
        "max_model_len=96",
        "--replicas",
        "2",
        "--json",
    )
    card = json.loads(project.assay(*call, exit_code=10))
    assert len(card["scorecard"]["replicas"]) == 2, (
        "two engines; the router before them holds no model"
    )
    assert card["candidate"]["num_errors"] == 0


def _cpu_s() -> float:
    """Processor time of all commands so far, in seconds: what a command takes where nobody else
    works."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
