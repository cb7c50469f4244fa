"""`assay demo`: how it ends, and that a job's output reaches the screen without Ray's own lines."""

from pathlib import Path

import pytest

from assay.cli.commands import demo
from assay.engines.cluster.jobs import OwnOutput
from assay.errors import ExitCode
from assay.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PREFACE = (
    "2026-11-27 15:26:05,356\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    "Running entrypoint for job country-facts-1-b5c04a: python -m assay.cli.main run "
    "assay-spec.yaml\n"
)


@pytest.mark.parametrize(
    ("code", "ends_with", "says"),
    [
        (ExitCode.GATE_FAILED, 0, "the gate failed this model, so nothing has traffic"),
        (
            ExitCode.GATE_INCONCLUSIVE,
            0,
            "too little evidence for this model, so nothing has traffic",
        ),
        (ExitCode.FAILED, 1, ""),
        (ExitCode.USAGE, 2, ""),
    ],
)
def test_a_verdict_that_blocks_the_model_is_no_error_of_the_demo(
    code: ExitCode,
    ends_with: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "start_place", lambda *_, **__: None)
    monkeypatch.setattr(demo, "submit_spec", lambda *_, **__: code)
    assert demo.run_demo(Settings(), Path("specs/country-facts.yaml"), approve=True) == ends_with
    said = " ".join(capsys.readouterr().out.split())
    assert says in said
    assert ("`assay report` shows the answers" in said) == bool(says)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_rays_lines_before_a_jobs_first_are_left_out(size: int) -> None:
    own = "fetch  …\nRunning entrypoint for job x: said by the job itself\nhalf a li"
    written: list[str] = []
    output = OwnOutput(written.append)
    text = PREFACE + own
    for at in range(0, len(text), size):
        output(text[at : at + size])
    output.close()
    assert "".join(written) == own


def test_a_job_that_says_less_than_a_line_is_heard() -> None:
    written: list[str] = []
    output = OwnOutput(written.append)
    output(PREFACE + "no line end")
    assert written == []
    output.close()
    output.close()
    assert written == ["no line end"]
