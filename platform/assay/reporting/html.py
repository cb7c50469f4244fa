"""The scorecard as one self-contained HTML file: verdict first, readable in a minute, no script, no
network.

A model's answers are hostile text. They are escaped by the template, isolated in their direction,
and stripped of characters that a reader could not see; the page's own policy forbids scripts and
every request besides.
"""

import time
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assay.records.evaluations.selftest import LimitSelftest, Outcomes
from assay.records.gate import LimitResult, Scorecard, SliceResult
from assay.records.report import Curve, Report, SweepLines, TrialLine
from assay.reporting import plots
from assay.reporting.words import items_asked, reasoning

LONGEST_TEXT = 4000
SEEN = "\n\t"


def render(report: Report) -> str:
    """The report as an HTML document of its own."""
    page = (
        _environment()
        .get_template("scorecard.html.j2")
        .render(**_content(report), level=1, style=Markup(style_sheet()))
    )
    # A model may write half of a character, which no file can hold.
    return page.encode("utf-8", "replace").decode()


def render_body(report: Report, *, level: int) -> Markup:
    """What the document says, to stand in another page under headings of `level`; the page needs
    `style_sheet`."""
    body = _environment().get_template("scorecard_body.html.j2")
    text = body.render(**_content(report), level=level)
    return Markup(text.encode("utf-8", "replace").decode())  # the template has escaped it


def style_sheet() -> str:
    """The scorecard's CSS, light and dark."""
    return resources.files("assay.reporting").joinpath("scorecard.css").read_text()


def make_environment(room: str, folder: str = "") -> Environment:
    """Templates in a folder of a room, where every value is escaped and every character can be
    seen."""
    environment = Environment(
        loader=PackageLoader(room, folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=_shown, moment=_moment)
    return environment


@cache
def _environment() -> Environment:
    return make_environment("assay.reporting")


def _content(report: Report) -> dict[str, object]:
    card = report.scorecard
    trials, cost = [], ""
    if report.sweep:
        trials = [_trial(trial) for trial in report.sweep.trials]
        cost = _cost(report.sweep)
    selftest_rows, promised = [], ""
    if report.selftest:
        selftest_rows = [_selftest_row(limit) for limit in report.selftest.limits]
        promised = f"{1 - report.selftest.confidence:.1%}"
    return {
        "report": report,
        "card": card,
        "lead": _lead(card),
        "facts": _facts(report),
        "flags": _flags(report),
        "rows": [_row(limit, card) for limit in card.limits],
        "has_champion": any(limit.champion_observed is not None for limit in card.limits),
        "slices": _slices(card),
        "charts": _charts(report),
        "trials": trials,
        "cost": cost,
        "selftest_rows": selftest_rows,
        "promised": promised,
    }


def _lead(card: Scorecard) -> str:
    hard = [limit for limit in card.limits if limit.level == "hard"]
    missed = []
    for limit in hard:
        if limit.outcome == card.outcome:
            missed.append(f"{limit.task} {limit.metric}")
    if card.outcome == "PASS":
        soft = len(card.missed_soft_limits)
        if not soft:
            return "Every hard limit is met."
        which = f"{soft} soft limit{'s are' if soft > 1 else ' is'}"
        return f"Every hard limit is met; {which} not."
    named = ", ".join(missed)
    if card.outcome == "FAIL":
        return f"{len(missed)} of {len(hard)} hard limits missed: {named}."
    if not missed:
        return "There is no hard limit to decide by, and inconclusive never passes."
    return (
        f"Too little evidence for {len(missed)} of {len(hard)} hard limits: {named}. Inconclusive "
        "never passes."
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    card, attempt = report.scorecard, report.scorecard.attempt
    confidence = f"{card.confidence:.4g}, one-sided"
    if attempt is not None and attempt.confidence != card.confidence:
        confidence += f"; {attempt.confidence:.4g} for each of {attempt.budget} attempts"
    facts = [
        ("evaluated", report.subject),
        ("model", card.artifact_digest[:12]),
        ("when", _moment(card.deployed_at)),
        ("items", f"{items_asked(report.candidate)} in {report.candidate.seconds:.0f} s"),
        ("confidence", confidence),
    ]
    if thought := reasoning(report.candidate):
        facts.append(("reasoning", thought))
    if attempt is not None:
        number = str(attempt.number)
        if attempt.budget:
            number += f" of {attempt.budget}"
        facts.append(("attempt", number))
    if card.base_digest:
        facts.append(("base model", card.base_digest[:12]))
    if card.champion_digest:
        facts.append(("champion", card.champion_digest[:12]))
    return [*facts, ("suite", card.suite_digest[:12]), ("scorecard", report.scorecard_digest[:12])]


@dataclass(frozen=True)
class _Flag:
    text: str
    calm: bool = False


def _flags(report: Report) -> list[_Flag]:
    flags = []
    if not report.bytes_known:
        flags.append(
            _Flag("The model answered over a URL. Its answers were seen, its bytes were not.")
        )
    for limit in report.scorecard.missed_soft_limits:
        flags.append(_Flag(f"Soft limit not met: {limit.task} {limit.metric} ({limit.outcome})."))
    if report.candidate.num_errors:
        flags.append(
            _Flag(
                f"{report.candidate.num_errors} items have no answer, by a fault of the "
                "infrastructure."
            )
        )
    if report.selftest is None:
        flags.append(
            _Flag(
                "This suite was not tested on itself: assay gate selftest "
                f"{report.scorecard.suite}",
                True,
            )
        )
    elif report.selftest.faults:
        for fault in report.selftest.faults:
            flags.append(_Flag(f"The suite's self-test misses a promise: {fault}"))
    else:
        flags.append(_Flag("The suite's self-test kept its promises.", True))
    return flags


def _row(limit: LimitResult, card: Scorecard) -> dict[str, object]:
    if limit.confidence is not None:
        confidence = limit.confidence
    else:
        confidence = card.confidence
    evidence = "" if not limit.num_items else items_asked(limit)
    if limit.num_clusters:
        evidence += f" in {limit.num_clusters} clusters"
    numbered = ""
    # What is measured beside the tasks asks no samples, and uses no attempt up.
    if limit.kind == "task" and card.attempt:
        numbered = f"attempt {card.attempt.number}"
        if card.attempt.budget:
            numbered += f" of {card.attempt.budget}"
    return {
        "limit": limit,
        "required": limit.requirement.replace(">=", "≥").replace("<=", "≤"),
        "observed": plots.shown(limit.observed, limit),
        "bound": plots.shown(limit.bound, limit),
        "confidence": "" if limit.bound is None else f"at {100 * confidence:.4g}%",
        "plot": plots.interval(limit),
        "base": _share(limit.base_observed, limit),
        "champion": _share(limit.champion_observed, limit),
        "evidence": evidence,
        "attempt": numbered,
    }


def _share(number: float | None, limit: LimitResult) -> str:
    """What another model comes to by itself, never as a difference."""
    if number is None:
        return ""
    if limit.unit == "share":
        return f"{number:.1%}"
    return f"{number:.3g}"


def _slices(card: Scorecard) -> list[dict[str, object]]:
    found = []
    for limit in card.limits:
        for part in limit.slices:
            found.append(_slice(limit, part))
    return found


def _slice(limit: LimitResult, part: SliceResult) -> dict[str, object]:
    return {
        "task": limit.task,
        "metric": limit.metric,
        "name": f"{part.field} = {part.value}",
        "observed": _share(part.observed, limit),
        "plot": plots.slice_interval(part, limit),
        "num_items": part.num_items,
    }


def _charts(report: Report) -> list[dict[str, object]]:
    """Losses over steps, and beside a sweep's its trials over their learning rates."""
    charts: list[dict[str, object]] = []
    for drawn in report.curves:
        charts.append({"svg": plots.curve(drawn), "caption": _caption(drawn)})
        if drawn.title == "sweep" and report.sweep and (svg := plots.rates(report.sweep.trials)):
            words = (
                "sweep: loss on the selection split, by learning rate; hollow: not trained to the "
                "end"
            )
            charts.append({"svg": svg, "caption": words})
    return charts


def _trial(trial: TrialLine) -> dict[str, object]:
    error = f" ± {trial.error:.3f}" if trial.error is not None else ""
    words = {"finished": "", "stopped": "stopped early"}
    end = "chosen" if trial.chosen else words.get(trial.outcome, trial.outcome)
    return {
        "trial": trial,
        "loss": "" if trial.loss is None else f"{trial.loss:.3f}{error}",
        "end": end,
    }


def _cost(sweep: SweepLines) -> str:
    took = f", {sweep.seconds:,.0f} s" if sweep.seconds else ""
    return (
        f"{len(sweep.trials)} trials, {sweep.num_steps:,} steps, {sweep.num_tokens:,} tokens{took}"
    )


def _caption(drawn: Curve) -> str:
    chosen = next((line.name for line in drawn.lines if line.chosen), "")
    many = f", {len(drawn.lines)} trials; chosen: {chosen}" if chosen else ""
    note = f"; {drawn.note}" if drawn.note else ""
    return f"{drawn.title}: {drawn.y_label}{many}{note}"


def _selftest_row(limit: LimitSelftest) -> dict[str, object]:
    return {
        "task": limit.task,
        "metric": limit.metric,
        "requirement": limit.requirement,
        "on_limit": _rate(limit.on_limit, "passes"),
        "equal": _rate(limit.equal, "fails"),
        "plot": plots.verdict_bars(limit.planted),
    }


def _rate(outcomes: Outcomes | None, which: str) -> str:
    if outcomes is None:
        return "-"
    rate = outcomes.passes if which == "passes" else outcomes.fails
    return f"{rate.share:.1%} ({rate.lower:.1%} to {rate.upper:.1%})"


def _finalize(value: object) -> object:
    """What is put into the page: text with every character visible; drawings and numbers as they
    are."""
    if isinstance(value, str) and not isinstance(value, Markup):
        if value.isprintable():  # most are, and it is told a hundred times sooner
            return value
        return "".join(_visible(char) for char in value)
    return value


def _shown(text: str) -> str:
    """The text, not endless."""
    rest = len(text) - LONGEST_TEXT
    if rest > 0:
        return f"{text[:LONGEST_TEXT]}\n… and {rest:,} more characters"
    return text


def _visible(char: str) -> str:
    """The character, or its number where it is a control or format character that would act and not
    show."""
    if char in SEEN or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return char
    if char == "\r":
        return ""
    return f"⟨U+{ord(char):04X}⟩"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
