"""What people read: plans, runs, scorecards and reports, as tables in the terminal."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assay.cli.terminal.console import SafeConsole
from assay.cli.terminal.curves import print_sweep
from assay.cli.terminal.display import NAME_WIDTH, summary
from assay.flow.pipeline.executor import stages_now
from assay.flow.pipeline.graph import output_of
from assay.records.evaluations.comparison import Comparison
from assay.records.evaluations.judge import JudgeAgreement
from assay.records.evaluations.selftest import Planted, SelftestRecord
from assay.records.gate import GateRecord, LimitResult, Scorecard
from assay.records.record import read_as
from assay.records.releases.release import Champion
from assay.records.releases.run_id import short_run
from assay.records.report import Report, WrongAnswers
from assay.records.stages import SweepRecord
from assay.reporting.words import items_asked
from assay.rules.gate.measurements import in_unit
from assay.rules.release.approval import num_required
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.store.ledger import NO_RUNS, Ledger
from assay.store.schema.rows import RunRow, StageRow

PLAIN_WIDTH = 120
OUTCOME_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}
STATE_STYLES = {
    "done": "green",
    "cached": "dim",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
}


def print_runs(
    runs: Sequence[RunRow], champion: Champion | None, ledger: Ledger, settings: Settings
) -> None:
    """All runs, newest first, and who has the traffic."""
    table = _table("run", "started", "stage", "state")
    for run in runs:
        stages = stages_now(run.id, ledger, settings)
        last = stages[-1] if stages else None
        verdict = _verdict(run.id, stages, ledger)
        table.add_row(
            short_run(run.id),
            _ago(run.created_at),
            last.stage if last else "",
            verdict or (last.state if last else ""),
        )
    console = _console()
    console.print(table if runs else NO_RUNS)
    release = ledger.releases.under_way()
    if release is not None:
        step = f"step {release.step} of {len(release.intent.steps)}"
        console.print(
            f"under way: {release.intent.action} of {short_run(release.intent.candidate.run)}, "
            f"{step}"
        )
    console.print(f"traffic: {_traffic(champion, ledger)}")


def _traffic(champion: Champion | None, ledger: Ledger) -> str:
    """Who has the traffic, and what keeps them from it."""
    if champion is None:
        return "nobody"
    who = f"{short_run(champion.run)} (slot {champion.slot})"
    if not ledger.restorations.is_held(champion):
        return who
    restoration = ledger.restorations.newest(champion.run, champion.since)
    why = restoration.note if restoration and restoration.note else "its engine is starting again"
    return f"nobody; {who} was lost in a restart: {why}"


def print_status(run: str, ledger: Ledger, settings: Settings) -> None:
    """The stages of one run and what they came to, a sweep with its curves, and who has
    approved."""
    console = _console()
    console.print(f"run [bold]{run}[/bold]  {settings.run_folder(run)}")
    records = {stage: record for stage, record, _ in _records(run, ledger)}
    for stage in stages_now(run, ledger, settings):
        # One that was killed has no end, and did not go on until now either.
        ended_at = stage.ended_at or (time.time() if stage.state == "running" else None)
        took = f"{ended_at - stage.started_at:6.0f} s" if ended_at else f"{'':8}"
        style, record = STATE_STYLES[stage.state], records.get(stage.stage)
        if stage.error:
            words = escape(stage.error)
        elif record:
            words = summary(record)
        else:
            words = ""
        state = f"[{style}]{stage.stage:<{NAME_WIDTH}} {stage.state:<8}[/{style}]"
        console.print(f"{state} {took}  {words}".rstrip(), highlight=False)
        if isinstance(record, SweepRecord):
            print_sweep(console, record)
    for word in ledger.approvals(run):
        console.print(
            f"{word.decision} by {word.reviewer}, {_ago(word.given_at)}: "
            f"{escape(word.reason) or 'no reason'}"
        )


def print_scorecard(run: str, scorecard: Scorecard, selftest: SelftestRecord | None = None) -> None:
    """The verdict first, then a row for each limit, then the promises that the suite's self-test
    saw missed."""
    console = _console()
    style = OUTCOME_STYLES[scorecard.outcome]
    console.print()
    console.print(
        f"[{style}]{scorecard.outcome}[/{style}]  {short_run(run)}  model "
        f"{scorecard.artifact_digest[:12]}",
        highlight=False,
    )
    if scorecard.attempt:
        confidence = scorecard.attempt.confidence
    else:
        confidence = scorecard.confidence
    table = _table(
        "limit", "required", "observed", f"bound ({100 * confidence:.4g}%)", "base", "items", ""
    )
    for limit in scorecard.limits:
        table.add_row(
            f"{limit.task}\n[dim]{limit.metric}[/dim]",
            limit.requirement,
            _value(limit.observed, limit),
            _value(limit.bound, limit),
            _value(limit.base_observed, limit),
            items_asked(limit),
            _outcome(limit),
        )
    console.print(table)
    if scorecard.attempt and scorecard.attempt.budget:
        attempt = scorecard.attempt
        console.print(
            f"  attempt {attempt.number} of {attempt.budget} with these items, so each bound is "
            f"made at {100 * attempt.confidence:.4g}% confidence",
            highlight=False,
        )
    for limit in scorecard.limits:
        if limit.outcome != "PASS":
            console.print(f"  {limit.task} {limit.metric}: {limit.reason}", highlight=False)
    for fault in selftest.faults if selftest else ():
        console.print(f"  [bold yellow]self-test[/bold yellow] {escape(fault)}", highlight=False)


def print_report(report: Report, ledger: Ledger) -> None:
    """Stages, scorecard, what the suite's self-test found, and the answers that cost most."""
    console = _console()
    for stage, record, seconds in _records(report.name, ledger):
        console.print(
            f"{stage:<{NAME_WIDTH}} [dim]{seconds:6.0f} s[/dim]  {summary(record)}", highlight=False
        )
        if isinstance(record, SweepRecord):
            print_sweep(console, record)
    print_scorecard(report.name, report.scorecard, report.selftest)
    for wrong in report.wrong_answers:
        if wrong.examples:
            _print_answers(console, wrong)


def print_comparison(comparison: Comparison) -> None:
    """Both shares, their difference with its interval, and who is better, for each limit."""
    console = _console()
    console.print(f"A  {comparison.first}  model {comparison.first_digest[:12]}", highlight=False)
    console.print(f"B  {comparison.second}  model {comparison.second_digest[:12]}", highlight=False)
    table = _table(
        "limit",
        "A",
        "B",
        "A - B",
        f"{100 * comparison.confidence:.4g}% interval",
        "items",
        "better",
        "sure",
    )
    for limit in comparison.limits:
        if limit.lower is None or limit.upper is None:
            ends = ""
        else:
            ends = f"{limit.lower:+.1%} to {limit.upper:+.1%}"
        table.add_row(
            f"{limit.task}\n[dim]{limit.metric}[/dim]",
            _percent(limit.first),
            _percent(limit.second),
            "" if limit.difference is None else f"{limit.difference:+.1%}",
            ends,
            str(limit.num_items or ""),
            f"[bold]{limit.winner}[/bold]" if limit.winner else "[dim]open[/dim]",
            "" if limit.confidence is None else f"{limit.confidence:.2%}",
        )
    console.print(table)
    for limit in comparison.limits:
        if limit.reason:
            console.print(f"  {limit.task} {limit.metric}: {escape(limit.reason)}", highlight=False)


def print_selftest(record: SelftestRecord) -> None:
    """Whether the suite keeps its promises, then what it does with models of known quality."""
    console = _console()
    if not record.faults:
        kept = "[bold green]KEPT[/bold green]"
    else:
        kept = "[bold red]MISSED[/bold red]"
    console.print(
        f"{kept}  {record.suite}: {record.draws} draws, answers of model "
        f"{record.artifact_digest[:12]}"
    )
    corrupted = [f"{point.corrupted:.0%}" for point in record.planted]
    table = _table(
        "limit",
        "on the limit: PASS",
        "FAIL",
        "as good as the base: FAIL",
        "PASS, when answers are spoilt",
    )
    table.add_row("", "", "", "", "".join(f"{text:>6}" for text in corrupted), style="dim")
    for limit in record.limits:
        on_limit, equal = limit.on_limit, limit.equal
        table.add_row(
            f"{limit.task}\n[dim]{limit.metric} {limit.requirement}[/dim]",
            _percent(on_limit.passes.share if on_limit else None),
            _percent(on_limit.fails.share if on_limit else None),
            _percent(equal.fails.share if equal else None),
            _passes(limit.planted),
        )
    table.add_row("whole suite", "", "", "", _passes(record.planted))
    console.print(table)
    for model in record.noised:
        missed = f"; not met: {', '.join(model.missed)}" if model.missed else ""
        console.print(
            f"noise {model.noise:g}: {model.outcome}, {model.changed_answers:.0%} of the answers "
            f"differ{missed}"
        )
    for fault in record.faults:
        print_fault(fault)


def print_fault(fault: str) -> None:
    """A promise that is not kept."""
    _console().print(f"[bold red]missed[/bold red] {escape(fault)}", highlight=False)


def print_judge(judge: JudgeAgreement) -> None:
    """How far a judge agrees with people, and where it does not."""
    console, level = _console(), f"{100 * judge.confidence:g}%"
    within = f" (within {judge.within})" if judge.within else ""
    console.print(
        f"judge {escape(judge.model)}: agrees{within} with {judge.num_agreed} of "
        f"{judge.num_labels} labels, {judge.agreement:.1%}; with {level} confidence at least "
        f"{judge.agreement_lower:.1%}",
        highlight=False,
    )
    if judge.kappa is not None and judge.kappa_lower is not None:
        text = (
            f"weighted kappa {judge.kappa:.3f}; with {level} confidence at least "
            f"{judge.kappa_lower:.3f}"
        )
        console.print(text, highlight=False)
    else:
        console.print("no kappa: all labels and scores are one", highlight=False)
    table = _table("person", "judge", "answer that they differ on")
    for apart in judge.disagreements:
        score = "no score" if apart.score is None else str(apart.score)
        table.add_row(
            str(apart.label), score, escape(f"{apart.question[:80]} → {apart.answer[:120]}")
        )
    if judge.disagreements:
        console.print(table)


def next_steps(run: str, spec: Spec, scorecard: Scorecard) -> str:
    """The commands that go on after a passing gate."""
    reason = ' --reason "…"' if scorecard.missed_soft_limits else ""
    needed = num_required(spec.approval, scorecard)
    if needed > 1:
        whose = f"{needed} of {', '.join(spec.approval.reviewers)}"
    else:
        whose = " or ".join(spec.approval.reviewers)
    return (
        f"waiting for approval by {whose}; go on with\n"
        f"  assay approve {short_run(run)} --as {spec.approval.reviewers[0]}{reason}\n"
        f"  assay promote {short_run(run)}"
    )


def _records(run: str, ledger: Ledger) -> list[tuple[str, Any, float]]:
    found = []
    for stage in ledger.stages(run):
        row = ledger.record(stage.key)
        # A record of another version may not be one that this one can read.
        kind = output_of(stage.stage)
        record = read_as(kind, row.record) if row and kind else None
        if row is not None and record is not None:
            found.append((stage.stage, record, row.seconds))
    return found


def _verdict(run: str, stages: Sequence[StageRow], ledger: Ledger) -> str:
    if not stages or stages[-1].stage != "gate" or not (row := ledger.record(stages[-1].key)):
        return ""
    gate = read_as(GateRecord, row.record)
    if gate is None:
        return "evaluated by another version"
    outcome = gate.scorecard.outcome
    words = [word.decision for word in ledger.approvals(run)]
    if outcome == "PASS" and "approve" in words:
        return f"{outcome}, approved"
    return outcome


def _print_answers(console: Console, wrong: WrongAnswers) -> None:
    """Items that count against a limit, beside what the base model said."""
    console.print(
        f"\n[bold]{wrong.task}[/bold] {wrong.metric}: {wrong.count} answers count against it"
    )
    for example in wrong.examples:
        console.print(f"  {escape(example.prompt)}", highlight=False)
        console.print(
            f"    [red]{escape(example.response)}[/red]  wanted {escape(example.target)}",
            highlight=False,
        )
        if example.base_response is not None:
            console.print(f"    [dim]base: {escape(example.base_response)}[/dim]", highlight=False)


def _console() -> Console:
    """The terminal as wide as it is; a file or a pipe wide enough for a scorecard."""
    console = SafeConsole(highlight=False)
    if console.is_terminal:
        return console
    return SafeConsole(highlight=False, width=PLAIN_WIDTH)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column)
    return table


def _outcome(limit: LimitResult) -> str:
    style = OUTCOME_STYLES[limit.outcome]
    soft = " [dim](soft)[/dim]" if limit.level == "soft" else ""
    return f"[{style}]{limit.outcome}[/{style}]{soft}"


def _value(value: float | None, limit: LimitResult) -> str:
    """A share as a percentage, a score as a number, anything else in its unit."""
    if value is None or limit.unit == "share":
        return _percent(value)
    if limit.unit == "score":
        return f"{value:.3f}"
    return in_unit(value, limit.unit)


def _passes(planted: Sequence[Planted]) -> str:
    return "".join(f"{point.passes.share:>6.0%}" for point in planted)


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}"


def _ago(at: float) -> str:
    seconds = max(0.0, time.time() - at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
