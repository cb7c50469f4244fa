"""What the page of one run shows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from assay.console.overview import Standing, read_verdict, seen_now, standing_of
from assay.console.promotions import Promotion
from assay.errors import AssayError, IntegrityError, NotApproved
from assay.flow.pipeline.graph import output_of
from assay.flow.release.changes import Changes, changes_of
from assay.flow.release.checks import Evaluated, check_words, evaluated
from assay.records.record import read_as
from assay.records.releases.audit import AuditEvent
from assay.records.releases.release import Approval, Release
from assay.reporting import document, plots
from assay.reporting.html import render_body
from assay.reporting.progress import current, losses_so_far, progress_words
from assay.reporting.summary import came_to, warning
from assay.settings import Settings
from assay.store.ledger import Ledger
from assay.store.schema.rows import RunRow, StageRow

NUM_EVENTS = 200


@dataclass(frozen=True)
class StageLine:
    """A stage of the run."""

    row: StageRow
    seconds: float | None
    words: str
    """What it came to, how far it is, or why it failed."""
    warning: str


@dataclass(frozen=True)
class RunPage:
    """Everything on the page of a run."""

    run: RunRow
    started_by: tuple[str, ...]
    standing: Standing
    stages: tuple[StageLine, ...]
    charts: tuple[tuple[str, Markup], ...]
    """Losses, as long as there is no scorecard that shows them."""
    it: Evaluated | None
    """None before the verdict."""
    scorecard: Markup
    fault: str
    """Why the scorecard cannot be shown; empty when it can."""
    changes: Changes | None
    missing: str
    """What is missing for a promotion; empty when nothing is."""
    words: tuple[Approval, ...]
    releases: tuple[Release, ...]
    """Of this run, the newest first."""
    promotion: Promotion | None
    """The newest that this console has begun."""
    events: tuple[AuditEvent, ...]

    @property
    def is_serving(self) -> bool:
        """Whether it has the traffic."""
        return self.standing.tone == "live"


def run_page(
    run: RunRow, settings: Settings, ledger: Ledger, promotion: Promotion | None
) -> RunPage:
    """Looks everything up."""
    rows = seen_now(run.id, ledger.stages(run.id), settings)
    words = ledger.approvals(run.id)
    it = _evaluated(run.id, ledger)
    scorecard, changes, fault = Markup(""), None, ""
    if it is not None:
        try:
            scorecard = render_body(document.report(run.id, settings=settings), level=2)
            changes = changes_of(run.id, settings, ledger)
        except AssayError as error:
            fault = str(error)
    releases = [one for one in ledger.releases.all() if one.intent.candidate.run == run.id]
    return RunPage(
        run=run,
        started_by=tuple(sorted(ledger.starters(run.id))),
        standing=_standing(run.id, rows, words, ledger),
        stages=tuple(_stage(row, run, settings, ledger) for row in rows),
        charts=() if scorecard else _charts(run, rows, settings, ledger),
        it=it,
        scorecard=scorecard,
        fault=fault,
        changes=changes,
        missing=_missing(it, settings, ledger) if it else "",
        words=tuple(words),
        releases=tuple(reversed(releases)),
        promotion=promotion,
        events=tuple(ledger.audit.newest(run=run.id, limit=NUM_EVENTS)),
    )


def _evaluated(run: str, ledger: Ledger) -> Evaluated | None:
    try:
        return evaluated(run, ledger)
    except (NotApproved, ValueError):  # no verdict yet, or one of a form that is not read any more
        return None


def _standing(
    run: str, rows: Sequence[StageRow], words: Sequence[Approval], ledger: Ledger
) -> Standing:
    verdict = None
    for row in rows:
        record = ledger.record(row.key) if row.stage == "gate" else None
        if record is not None and row.state in ("done", "cached"):
            verdict = read_verdict(record.record)
    return standing_of(run, rows, verdict, words, ledger.champion())


def _stage(row: StageRow, run: RunRow, settings: Settings, ledger: Ledger) -> StageLine:
    ended_at = row.ended_at
    if row.state == "running":
        ended_at = time.time()
        file = settings.run_folder(run.id) / row.stage / "progress.jsonl"
        lines = [progress_words(name, one) for name, one in current(file).items()]
        return StageLine(row, ended_at - row.started_at, "; ".join(lines), "")
    seconds = ended_at - row.started_at if ended_at else None
    if row.error:
        return StageLine(row, seconds, row.error, "")
    found, kind = ledger.record(row.key), output_of(row.stage)
    record = read_as(kind, found.record) if found and kind else None
    if record is None:
        return StageLine(row, seconds, "", "")
    return StageLine(row, seconds, came_to(record), warning(record))


def _charts(
    run: RunRow, rows: Sequence[StageRow], settings: Settings, ledger: Ledger
) -> tuple[tuple[str, Markup], ...]:
    """The losses of what is done, and of what runs as far as it is, each under its stage."""
    curves = list(document.curves_of(document.stages_of(run, ledger)))
    for row in rows:
        if row.state == "running":
            file = settings.run_folder(run.id) / row.stage / "progress.jsonl"
            so_far = losses_so_far(row.stage, file)
            if so_far is not None:
                curves.append(so_far)
    return tuple((curve.title, plots.curve(curve)) for curve in curves)


def _missing(it: Evaluated, settings: Settings, ledger: Ledger) -> str:
    """What keeps it from the traffic, but for what its slot holds, which is asked of the cluster
    when it is promoted."""
    try:
        check_words(it, champion=ledger.champion(), ledger=ledger, settings=settings)
    except (NotApproved, IntegrityError) as error:
        return str(error)
    return ""
