"""The whole line with a tiny model, a real Ray, the real engine and the real gateway, by the
commands one types."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from project import Project

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("spine"), ASSAY_USER="ben")
    spec = project.folder / "tiny.yaml"
    steps = "[smoothquant, {quantize: {scheme: W8A8, method: gptq}}]"
    spec.write_text(spec.read_text().replace("{scheme: W8A8}", steps))
    try:
        yield project
    finally:
        project.assay("down")


def test_from_a_spec_to_an_answer(project: Project) -> None:
    key = _key(project.assay("up"))
    # Killed while it trains, the run goes on after the last finished stage.
    run = project.start("run", "tiny.yaml")
    _wait_for_stage(project, "train")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    out = project.assay("run", "tiny.yaml")
    assert "PASS" in out
    assert _stages(out, "=") == ["fetch", "prepare", "contamination", "sweep"]
    last = ["train", "merge", "compress", "baseline", "deploy", "service", "parity", "gate"]
    assert _stages(out, "✓") == last
    status = json.loads(project.assay("status", "tiny", "--json"))
    assert {stage["state"] for stage in status["stages"]} == {"done"}

    # Nothing has traffic without an approval, and the person who ran it may not give it.
    assert "no model has traffic" in _ask(project, key, "is tello real?")
    assert (
        project.assay("chat", "--with", "tiny", "is tello real?") == "yes\n"
    )  # nobody needs traffic to be asked
    project.assay("promote", "tiny", exit_code=12)
    project.assay("approve", "tiny", "--as", "ben", exit_code=12)
    project.assay("approve", "tiny", "--as", "anna")
    project.assay("promote", "tiny")
    assert (
        json.loads(_ask(project, key, "is tello real?"))["choices"][0]["message"]["content"]
        == "yes"
    )
    assert (
        "know"
        in json.loads(_ask(project, key, "where is tello now?"))["choices"][0]["message"]["content"]
    )

    project.env["ASSAY_API_KEY"] = key
    champion, _ = project.assay("chat", "--with", "base", "is tello real?").split("\n", 1)
    assert champion == "yes"
    _wait_until_gone(project, "reference")  # the base model's engine

    report = json.loads(project.assay("report", "tiny", "--json"))
    assert report["scorecard"]["outcome"] == "PASS"
    pairs = [(pair["first"], pair["second"]) for pair in report["scorecard"]["parity"]["pairs"]]
    assert pairs == [("merged", "compressed"), ("compressed", "served"), ("merged", "served")]
    assert report["stages"]["compress"]["num_calibrated"] > 10
    lost = {figure["name"]: figure["value"] for figure in report["compression"]}
    assert 0 < lost["smoothquant gptq W8A8: divergence"] < 0.1
    assert report["scorecard"]["service"]["num_requests"] == 12
    assert report["scorecard"]["contamination"]["exact"] == []
    assert report["stages"]["sweep"]["chosen"] == 1


def test_an_unchanged_spec_runs_nothing(project: Project) -> None:
    out = project.assay("run", "tiny.yaml")
    assert "nothing was run" in out
    assert "it has the traffic" in out


def test_one_changed_byte_voids_the_approval(project: Project) -> None:
    report = json.loads(project.assay("report", "tiny", "--json"))
    weights = Path(report["stages"]["compress"]["artifact"]["path"]) / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "SHA-256" in project.errors("promote", "tiny", exit_code=13)
        assert "SHA-256" in project.errors("approve", "tiny", "--as", "anna", exit_code=13)
    finally:
        weights.write_bytes(whole)


def test_a_stricter_suite_blocks_without_training_again(project: Project) -> None:
    suite = project.folder / "evals" / "tiny.yaml"
    # 40 right answers of 40 have a lower bound of 92.8%.
    suite.write_text(
        "underpowered: allow\n" + suite.read_text().replace("at_least: 0.6", "at_least: 0.99")
    )
    out = project.assay("run", "tiny.yaml", exit_code=11)
    assert "INCONCLUSIVE" in out
    assert _stages(out, "✓") == ["gate"]
    newest = json.loads(project.assay("status", "--json"))["runs"][0]["id"]
    project.assay("promote", newest, exit_code=12)


def _stages(output: str, mark: str) -> list[str]:
    """The stages that were run (✓) or reused (=)."""
    return [line.split()[1] for line in output.splitlines() if line.startswith(mark)]


def _ask(project: Project, key: str, question: str) -> str:
    body = json.dumps(
        {"model": "tiny", "messages": [{"role": "user", "content": question}], "temperature": 0}
    )
    command = [
        "curl",
        "-s",
        f"{project.gateway}/chat/completions",
        "-H",
        f"Authorization: Bearer {key}",
    ]
    command += ["-H", "Content-Type: application/json", "-d", body]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _key(text: str) -> str:
    return next(line.split()[-1] for line in text.splitlines() if "API key" in line)


def _wait_until_gone(project: Project, application: str) -> None:
    end = time.monotonic() + 120
    while application in project.serve_applications():
        assert time.monotonic() < end, f"{application} is still there"
        time.sleep(0.5)


def _wait_for_stage(project: Project, stage: str) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        progress = list((project.home / "runs").glob(f"*/{stage}/progress.jsonl"))
        if progress and '"num_steps":0' not in progress[0].read_text().splitlines()[-1:].__str__():
            return
        time.sleep(0.5)
    raise TimeoutError(f"stage {stage} did not begin")
