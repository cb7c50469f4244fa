"""Loss curves in the terminal: a sweep's trials in one picture, the chosen one marked."""

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assay.records.stages import LossPoint, SweepRecord, TrialRecord
from assay.reporting.summary import trial_words

WIDTH, HEIGHT = 64, 12
COLOURS = ("cyan", "yellow", "magenta", "blue", "red", "white")
CHOSEN = "bold green"
# Bits of a braille character's dots, row by row (Unicode 2800 to 28FF).
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
# Losses above so many times the highest first one are not drawn.
HIGHEST = 2.0


def print_sweep(console: Console, sweep: SweepRecord) -> None:
    """Curves, then a row for each trial, then what the choice cost."""
    styles = []
    for i in range(len(sweep.trials)):
        styles.append(CHOSEN if i == sweep.chosen else COLOURS[i % len(COLOURS)])
    for line in picture([trial.history for trial in sweep.trials], styles):
        console.print(line, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", "trial", "selection loss", "steps", "tokens", ""):
        table.add_column(column)
    for index, (trial, style) in enumerate(zip(sweep.trials, styles, strict=True)):
        mark = "→" if index == sweep.chosen else ""
        name = f"[{style}]{escape(trial_words(trial))}[/{style}]"
        table.add_row(
            mark, name, _loss(trial), str(trial.num_steps or ""), str(trial.num_tokens), _end(trial)
        )
    console.print(table)
    steps = sum(trial.num_steps for trial in sweep.trials)
    took = f", {sweep.seconds:.0f} s" if sweep.seconds else ""
    console.print(
        f"{len(sweep.trials)} trials, {steps} steps, {sweep.num_tokens} tokens{took}",
        highlight=False,
    )


def picture(histories: Sequence[Sequence[LossPoint]], styles: Sequence[str]) -> list[str]:
    """Loss over steps, one curve for each history, as lines of rich markup; nothing where there are
    no losses."""
    first = [history[0].loss for history in histories if history]
    highest = HIGHEST * max(first, default=0.0)
    shown, losses, steps = [], [], []
    for history in histories:
        drawn = [point for point in history if point.loss <= highest]
        shown.append(drawn)
        losses += [point.loss for point in drawn]
        steps += [point.step for point in drawn]
    if not losses:
        return []
    top, bottom, last = max(losses), min(losses), max(steps)
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for history, style in zip(shown, styles, strict=True):
        for x, y in _dots(history, last=last, top=top, bottom=bottom):
            # A braille character has two by four dots.
            cell = (y // 4, x // 2)
            bits, _ = cells.get(cell, (0, style))
            cells[cell] = (bits | DOTS[y % 4][x % 2], style)
    lines = []
    for row in range(HEIGHT):
        line = ""
        for column in range(WIDTH):
            line += _cell(*cells[row, column]) if (row, column) in cells else " "
        lines.append(line)
    scale = [f"{top:8.3f} ┤", *["         │"] * (HEIGHT - 2), f"{bottom:8.3f} ┤"]
    drawn_lines = [left + line for left, line in zip(scale, lines, strict=True)]
    under = f"         └{'─' * WIDTH}"
    return [*drawn_lines, under, f"{'':10}1{last:>{WIDTH - 1}} steps"]


def _dots(
    history: Sequence[LossPoint], *, last: int, top: float, bottom: float
) -> list[tuple[int, int]]:
    """The curve on a raster of twice the width and four times the height, without gaps."""
    wide, high = WIDTH * 2 - 1, HEIGHT * 4 - 1
    raster = []
    for point in history:
        across = round(point.step / last * wide)
        # Where all losses are the same there is no height: they lie at the top.
        down = round((top - point.loss) / ((top - bottom) or 1.0) * high)
        raster.append((across, down))
    found = raster[:1]
    for (x0, y0), (x1, y1) in pairwise(raster):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(1, steps + 1):
            found.append((round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)))
    return found


def _cell(bits: int, style: str) -> str:
    return f"[{style}]{chr(0x2800 + bits)}[/{style}]"


def _loss(trial: TrialRecord) -> str:
    done = trial.latest
    if done is None or done.selection_loss is None:
        return ""
    if done.selection_loss_se is not None:
        error = f" ± {done.selection_loss_se:.3f}"
    else:
        error = ""
    return f"{done.selection_loss:.3f}{error}"


def _end(trial: TrialRecord) -> str:
    words = {
        "finished": "",
        "stopped": "stopped early",
        "diverged": "diverged",
        "failed": "failed",
    }[trial.outcome]
    if trial.error and trial.outcome == "failed":
        return f"{words}: {escape(trial.error)}"
    return words
