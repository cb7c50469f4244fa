"""A sweep's curves in the terminal."""

import io

from rich.console import Console

from assay.cli.terminal.curves import HEIGHT, picture, print_sweep
from assay.records.stages import LossPoint, PauseReport, SweepRecord, TrialRecord
from test_sweep import trial


def curve(losses: list[float]) -> tuple[LossPoint, ...]:
    return tuple(
        LossPoint(step=step, loss=loss, learning_rate=1e-3, tokens_per_s=1)
        for step, loss in enumerate(losses, 1)
    )


def test_a_falling_curve_falls() -> None:
    lines = picture([curve([4.0, 3.0, 2.0, 1.0])], ["green"])
    assert len(lines) == HEIGHT + 2
    columns = [line.find("[green]") for line in lines[:HEIGHT]]
    assert columns == sorted(columns)
    assert "4.000" in lines[0]
    assert "1.000" in lines[HEIGHT - 1]


def test_what_exploded_does_not_squeeze_the_rest() -> None:
    lines = picture([curve([4.0, 1.0]), curve([4.0, 1.7e308])], ["green", "red"])
    assert "4.000" in lines[0]
    assert picture([()], ["green"]) == []


def test_the_chosen_trial_is_marked_and_the_others_are_accounted_for() -> None:
    pause = PauseReport(
        step=2, num_tokens=40, selection_loss=2.0, selection_loss_se=0.5, history=curve([3.0, 2.0])
    )
    stopped = TrialRecord(
        learning_rate=1e-4, parameters={"method.lora.r": 8}, training=None, pauses=(pause,)
    )
    sweep = SweepRecord(trials=(stopped, trial(1e-3, 0.5), trial(1e-2, None)), chosen=1)
    console = Console(file=io.StringIO(), width=120)
    print_sweep(console, sweep)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert next(line for line in lines if line.startswith("→")).split()[1] == "0.001"
    assert "r 8" in next(line for line in lines if "stopped early" in line)
    assert any("failed: out of memory" in line for line in lines)
    assert lines[-1] == "3 trials, 10 steps, 140 tokens"
