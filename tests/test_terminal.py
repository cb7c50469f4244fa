"""What a terminal is given: foreign text can be read there and can do nothing, and wide letters
stand in line."""

import json
import re
from pathlib import Path

import click
import pytest
from rich.table import Table

from assay.cli.commands.render import rendered
from assay.cli.commands.report import show_report
from assay.cli.terminal import tables
from assay.cli.terminal.console import SafeConsole
from assay.cli.terminal.echo import echo, echo_foreign
from assay.cli.terminal.excerpt import excerpt
from assay.records.record import digest_of
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.store.ledger import Ledger
from assay.text import width
from evaluations import decide, evaluation, items, settings_in, write

CLI = Path(__file__).parents[1] / "platform" / "assay" / "cli"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b1;1H\u202ePASS\r\x08"
SUITE = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.8}}})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A place with a verdict on answers that try to steer the terminal, and a stage that failed
    with such words."""
    settings = settings_in(tmp_path)
    found = {"facts": items([0.0] * 60, said=f"no {HOSTILE}", asked=HOSTILE)}
    write("facts-1a2b3c", decide(SUITE, evaluation("candidate", found), None, settings), settings)
    ledger = Ledger(settings.ledger_url)
    ledger.fail_stage(
        ledger.begin_stage("facts-1a2b3c", "deploy", digest_of("deploy")),
        f"the engine said {HOSTILE}",
    )
    return settings


def test_a_report_holds_nothing_that_steers(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    show_report("facts", settings, as_json=False, html_file=None)
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert "\\u001b]0;owned" in shown.replace("\n", "")


def test_a_report_as_json_holds_nothing_that_steers_and_is_the_same(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    report = show_report("facts", settings, as_json=True, html_file=None)
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert json.loads(shown) == json.loads(report.model_dump_json())
    assert HOSTILE in report.wrong_answers[0].examples[0].response


def test_a_status_holds_nothing_that_steers(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.print_status("facts-1a2b3c", Ledger(settings.ledger_url), settings)
    shown = capsys.readouterr().out
    assert "the engine said" in shown
    assert_harmless(shown)


def test_an_answer_that_is_streamed_holds_nothing_that_steers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo_foreign(HOSTILE, nl=False)
    assert_harmless(capsys.readouterr().out)


def test_styles_of_ours_stay_and_everything_else_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    SafeConsole(force_terminal=True, color_system="standard", width=60).print(
        f"[bold]name[/bold] {HOSTILE}"
    )
    shown = capsys.readouterr().out
    assert "\x1b[1mname\x1b[0m" in shown
    assert_harmless(re.sub(r"\x1b\[[0-9;]*m", "", shown))
    echo(f"{click.style('a', bold=True)} {HOSTILE}")
    assert_harmless(re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out))


def test_every_command_prints_through_them() -> None:
    own = {"echo.py", "console.py", "readme.py"}
    for file in CLI.rglob("*.py"):
        found = re.findall(
            r"click\.s?echo\(|(?<![\w.])print\(|(?<!Safe)Console\(",
            file.read_text(encoding="utf-8"),
        )
        assert not found or file.name in own, (
            f"{file}: {found} may steer the terminal; see cli/terminal/echo.py"
        )


def test_wide_letters_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("task", "items", box=None)
    for name in ("facts", "中国的首都", "ｶﾀｶﾅ"):
        table.add_row(name, "17")
    SafeConsole(width=60).print(table)
    lines = capsys.readouterr().out.splitlines()
    assert len({width(line[: line.index("17")]) for line in lines[1:]}) == 1


def test_the_comments_of_a_rendered_spec_stand_in_line_behind_chinese_values(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\nname: kefu\nmodel: hf:Qwen/Qwen3-0.6B\n"
        "data: {train: train.jsonl, gate: 10%, system: 请简短地回答用户的问题。}\n"
        "gate: {suite: evals/heldout.yaml}\napproval: {reviewers: [anna]}\n",
        encoding="utf-8",
    )
    lines = rendered(spec, ()).splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    starts = {
        width(line[: line.index("  # ") + 2])
        for line in plain
        if "  # " in line and width(line) < 100
    }
    assert any("请简短地回答" in line for line in plain)
    assert len(starts) == 1


def test_the_caret_stands_under_a_place_behind_wide_letters() -> None:
    line, caret = excerpt("name: 客服机器人, train: 数据", 1, 14).splitlines()
    assert width(line[: line.index("t")]) == width(caret) - 1


def assert_harmless(shown: str) -> None:
    found = set(
        re.findall("[^\n\t -~\u00a0-\u200d\u2010-\u2027\u2030-\uffff\U00010000-\U0010ffff]", shown)
    )
    assert not found
