"""Small SVG drawings for the scorecard: intervals, lines, and how a suite's verdicts change with
quality.

Only numbers and fixed words are drawn; every text passes through `escape`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log10

from markupsafe import Markup, escape

from assay.records.evaluations.selftest import Planted
from assay.records.gate import LimitResult, SliceResult
from assay.records.report import Curve, TrialLine

WIDTH, HEIGHT = 240, 36
PAD, MIDDLE = 8, 13
HIGHEST = 2.0
LONGEST_NAME = 22
MOST_ABOVE = 5.0  # nats: what lies higher has learned nothing
CHART_WIDTH, CHART_HEIGHT, CHART_LEFT, CHART_BOTTOM = 420, 170, 44, 26


def interval(limit: LimitResult) -> Markup:
    """The confidence interval of a limit against what is allowed; empty when nothing was
    observed."""
    if limit.observed is None:
        return Markup("")
    difference = is_difference(limit)
    others: dict[str, float] = {}
    # Beside a difference, what the others came to has no place on its axis.
    if not difference:
        if limit.base_observed is not None:
            others["base"] = limit.base_observed
        if limit.champion_observed is not None:
            others["champion"] = limit.champion_observed
    candidates = (limit.lower, limit.upper, limit.bound, limit.observed)
    ends = [end for end in candidates if end is not None]
    whole = (0.0, 1.0) if limit.unit == "share" and not difference else None
    low, high = _domain([limit.limit, *ends, *others.values()], whole=whole, zero=difference)
    at = _scale(low, high)
    if allows_below(limit):
        left, right = 0.0, at(limit.limit)
    else:
        left, right = at(limit.limit), float(WIDTH)
    parts = [
        _rect("forbidden", 0, 3, WIDTH, 20),
        _rect("allowed", left, 3, right - left, 20),
        _line("axis", 0, MIDDLE, WIDTH, MIDDLE),
        _line("whisker", at(min(ends)), MIDDLE, at(max(ends)), MIDDLE),
    ]
    for kind, number in others.items():
        parts.append(_diamond(kind, at(number)))
    parts += [
        _line("limit", at(limit.limit), 1, at(limit.limit), 25),
        _observed(at(limit.observed)),
        _text(0, 34, shown(low, limit), "start"),
        _text(WIDTH, 34, shown(high, limit), "end"),
    ]
    words = f"observed {shown(limit.observed, limit)}, limit {shown(limit.limit, limit)}"
    return _svg(WIDTH, HEIGHT, parts, words)


def slice_interval(part: SliceResult, limit: LimitResult) -> Markup:
    """The interval of a slice, on one axis with the limit's other slices."""
    ends: list[float] = []
    for other in limit.slices:
        ends += [other.lower, other.upper]
    low, high = 0.0, 1.0
    if min(ends) < 0 or max(ends) > 1:
        low, high = _domain(ends)
    at = _scale(low, high)
    parts = [
        _line("axis", 0, MIDDLE, WIDTH, MIDDLE),
        _line("whisker", at(part.lower), MIDDLE, at(part.upper), MIDDLE),
        _observed(at(part.observed)),
    ]
    return _svg(WIDTH, 26, parts, f"{part.lower:.3g} to {part.upper:.3g}")


def curve(drawn: Curve) -> Markup:
    """Lines over their axes, the chosen one last and strongest. A loss far above where the best
    began is cut off."""
    most = HIGHEST * min(line.points[0][1] for line in drawn.lines)
    right = _room_for_names(drawn)
    points: dict[str, list[tuple[float, float]]] = {}
    all_x: list[float] = []
    all_y: list[float] = []
    for line in drawn.lines:
        points[line.name] = [(x, min(y, most)) for x, y in line.points]
        for x, y in points[line.name]:
            all_x.append(x)
            all_y.append(y)
    x_low, x_high = _span(all_x)
    y_low, y_high = _span(all_y)
    width, height = CHART_WIDTH - CHART_LEFT - right, CHART_HEIGHT - CHART_BOTTOM - PAD
    parts = _axes(drawn.x_label, (f"{x_low:g}", f"{x_high:g}"), (y_low, y_high), right)
    ends: dict[str, tuple[float, float]] = {}
    # What is drawn last lies above the others.
    for line in sorted(drawn.lines, key=lambda line: line.chosen):
        places = []
        for x, y in points[line.name]:
            across = CHART_LEFT + width * (x - x_low) / (x_high - x_low)
            down = PAD + height * (1 - (y - y_low) / (y_high - y_low))
            places.append((across, down))
        ends[line.name] = places[-1]
        kind = "line" if line.chosen or len(drawn.lines) == 1 else "line other"
        parts.append(_polyline(kind, places, line.name))
    if len(drawn.lines) > 1:
        chosen = {line.name for line in drawn.lines if line.chosen}
        parts += _names(ends, chosen, PAD + height)
    return _svg(CHART_WIDTH, CHART_HEIGHT, parts, f"{drawn.title}: {drawn.y_label}")


def _polyline(kind: str, places: Sequence[tuple[float, float]], title: str) -> Markup:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>')
    return line.format(kind, points, title)


def _names(
    ends: Mapping[str, tuple[float, float]], chosen: set[str], bottom: float
) -> Iterator[Markup]:
    """The names of lines to the right of where they end."""
    # Lines may end at different steps; only names in one column can lie on each other.
    columns: dict[float, dict[str, float]] = {}
    for name, (x, y) in ends.items():
        columns.setdefault(x, {})[name] = y
    for x, together in sorted(columns.items()):
        for name, y in _apart(together, bottom).items():
            kind = "chosen" if name in chosen else ""
            yield _text(x + 5, y + 3, _short(name), "start", kind)


def rates(trials: Sequence[TrialLine]) -> Markup:
    """A sweep's last losses over the learning rate, on a logarithmic axis, with their standard
    errors; empty where there are not two rates. A loss far above the lowest lies at the upper
    edge."""
    seen = [(trial, trial.loss) for trial in trials if trial.loss is not None]
    if len({trial.learning_rate for trial, _ in seen}) < 2:
        return Markup("")
    lowest = min(loss for _, loss in seen)
    most = lowest + MOST_ABOVE
    ends = []
    for trial, loss in seen:
        error = trial.error or 0.0
        ends += [min(loss - error, most), min(loss + error, most)]
    y_low, y_high = _span(ends)
    x_low, x_high = _span([log10(trial.learning_rate) for trial, _ in seen])
    width, height = CHART_WIDTH - CHART_LEFT - 4 * PAD, CHART_HEIGHT - CHART_BOTTOM - PAD

    def at(loss: float) -> float:
        return PAD + height * (1 - (min(loss, most) - y_low) / (y_high - y_low))

    shown_rates = (f"{10**x_low:.2g}", f"{10**x_high:.2g}")
    parts = _axes("learning rate", shown_rates, (y_low, y_high), PAD, inset=2 * PAD)
    for trial, loss in sorted(seen, key=lambda pair: pair[0].chosen):
        share = (log10(trial.learning_rate) - x_low) / (x_high - x_low)
        x = CHART_LEFT + 2 * PAD + (width - PAD) * share
        chosen = " chosen" if trial.chosen else ""
        if trial.error is not None:
            ends_of = at(loss - trial.error), at(loss + trial.error)
            parts.append(_line(f"error{chosen}", x, ends_of[0], x, ends_of[1]))
        parts.append(_dot(trial, x, at(loss), loss))
    return _svg(CHART_WIDTH, CHART_HEIGHT, parts, "selection loss by learning rate")


def _dot(trial: TrialLine, x: float, y: float, loss: float) -> Markup:
    kind, radius = "dot", 3.0
    if trial.chosen:
        kind, radius = "dot chosen", 4.5
    if trial.outcome != "finished":
        kind += " part"
    dot = Markup(
        '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:g}"><title>{}: {:.3f}</title></circle>'
    )
    return dot.format(kind, x, y, radius, trial.name, loss)


def _axes(
    x_label: str,
    x_ends: tuple[str, str],
    y_ends: tuple[float, float],
    right: float,
    *,
    inset: float = 0,
) -> list[Markup]:
    """Both axes with the numbers at their ends; `inset` is how far the first and last x stand from
    the edges."""
    bottom, end = CHART_HEIGHT - CHART_BOTTOM, CHART_WIDTH - right
    return [
        _line("axis", CHART_LEFT, bottom, end, bottom),
        _line("axis", CHART_LEFT, PAD, CHART_LEFT, bottom),
        _text(CHART_LEFT - 4, PAD + 8, _short_number(y_ends[1]), "end"),
        _text(CHART_LEFT - 4, bottom, _short_number(y_ends[0]), "end"),
        _text(CHART_LEFT + inset, bottom + 14, x_ends[0], "middle" if inset else "start"),
        _text(end - inset, bottom + 14, x_ends[1], "middle" if inset else "end"),
        _text((CHART_LEFT + end) / 2, CHART_HEIGHT - 4, x_label, "middle"),
    ]


def _short_number(number: float) -> str:
    """No wider than the room left of an axis."""
    if abs(number) >= 0.1:
        return f"{number:.3g}"
    return f"{number:.2g}"


def _room_for_names(drawn: Curve) -> float:
    """What the names of several lines need to the right of them."""
    longest = max(len(_short(line.name)) for line in drawn.lines)
    if len(drawn.lines) > 1:
        return PAD + 5.5 * longest
    return PAD


def _short(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 1]}…"


def _apart(heights: dict[str, float], bottom: float) -> dict[str, float]:
    """The same, moved so that no two names lie on each other."""
    names, step = sorted(heights, key=lambda name: heights[name]), 10.0
    # So many names that they would not fit one above the other lie closer.
    step = min(step, bottom / max(1, len(names)))
    found: dict[str, float] = {}
    # From below upwards first, so that none lies under the axis; then what went above the top
    # comes down again.
    y = bottom + step
    for name in reversed(names):
        y = min(heights[name], y - step)
        found[name] = y
    y = 0.0
    for name in names:
        y = found[name] = max(found[name], y)
        y += step
    return found


def verdict_bars(planted: Sequence[Planted]) -> Markup:
    """A stacked bar for each share of spoilt answers: PASS, INCONCLUSIVE, FAIL from below."""
    step, height = WIDTH / max(1, len(planted)), 40
    parts: list[Markup] = []
    for number, point in enumerate(planted):
        x, passes, fails = number * step + 3, point.passes.share, point.fails.share
        top = 2.0
        for kind, share in (
            ("FAIL", fails),
            ("INCONCLUSIVE", 1 - passes - fails),
            ("PASS", passes),
        ):
            parts.append(_rect(f"bar-{kind}", x, top, step - 6, height * share))
            top += height * share
        parts.append(_text(x + step / 2 - 3, height + 13, f"{point.corrupted:.0%}", "middle"))
    shares = []
    for one in planted:
        shares.append(f"{one.corrupted:.0%} spoilt: {one.passes.share:.0%} pass")
    words = ", ".join(shares)
    return _svg(WIDTH, height + 17, parts, words)


def allows_below(limit: LimitResult) -> bool:
    """Whether small numbers are the allowed ones."""
    return limit.requirement.startswith("<")


def is_difference(limit: LimitResult) -> bool:
    """Whether the limit's numbers are differences to another model. Scorecards of the first form
    say so by their requirement alone."""
    if limit.reference is not None:
        return True
    return re.search(r"\b(base|champion)\b", limit.requirement) is not None


def shown(number: float | None, limit: LimitResult) -> str:
    """A number in the limit's unit; differences with their sign."""
    if number is None:
        return "-"
    sign = "+" if is_difference(limit) else ""
    if limit.unit == "share":
        return f"{number:{sign}.1%}"
    if limit.unit == "seconds":
        if abs(number) < 10:
            return f"{1000 * number:{sign}.0f} ms"
        return f"{number:{sign}.1f} s"
    words = {"score": "", "tokens/s": " tokens/s", "nats": " nats"}[limit.unit]
    return f"{number:{sign}.3g}{words}"


def _domain(
    numbers: Sequence[float], *, whole: tuple[float, float] | None = None, zero: bool = False
) -> tuple[float, float]:
    """Both ends of an axis: the whole range of a share unless all lies close together. What is
    never below 0, as a time, has no axis there."""
    low, high = min(numbers), max(numbers)
    if whole is not None and high - low > 0.25:
        return whole
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.15 * (high - low) or 0.1 * abs(high) or 0.1
    never_below_0 = low >= 0 and not zero
    low, high = low - room, high + room
    if never_below_0:
        low = max(low, 0.0)
    if whole is not None:
        return max(low, whole[0]), min(high, whole[1])
    return low, high


def _span(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    if high > low:
        return (low, high)
    return (low - 0.5, high + 0.5)


def _scale(low: float, high: float) -> Callable[[float], float]:
    """From a number to its place on the axis, in pixels."""

    def place(number: float) -> float:
        return PAD + (WIDTH - 2 * PAD) * min(1.0, max(0.0, (number - low) / (high - low)))

    return place


def _svg(width: float, height: float, parts: Sequence[Markup], words: str) -> Markup:
    inside = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        width, height, words, inside
    )


def _rect(kind: str, x: float, y: float, width: float, height: float) -> Markup:
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        kind, x, y, max(0.0, width), max(0.0, height)
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        kind, x1, y1, x2, y2
    )


def _observed(x: float) -> Markup:
    circle = Markup('<circle class="observed" cx="{:.1f}" cy="{}" r="3.6"/>')
    return circle.format(x, MIDDLE)


def _diamond(kind: str, x: float) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {} l4 4 l-4 4 l-4 -4 z"/>').format(
        kind, x, MIDDLE - 4
    )


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> Markup:
    marked = Markup(' class="{}"').format(kind) if kind else ""
    return Markup('<text{} x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        marked, x, y, anchor, escape(words)
    )
