"""`assay gate selftest`: how often a suite is wrong, what it can see, and how far its judge can be
trusted."""

import json
from pathlib import Path

from assay.cli.local import ensure_place
from assay.cli.terminal import display, tables
from assay.cli.terminal.echo import echo
from assay.engines.evaluation.judge import judge_digest
from assay.errors import NothingEvaluated, UsageError
from assay.flow.evaluation import selftest
from assay.flow.evaluation.selftest import SelftestRequest
from assay.flow.pipeline.judging import measure_judge
from assay.loader.load import load_suites
from assay.records.evaluations.judge import JudgeAgreement
from assay.records.evaluations.selftest import SelftestRecord
from assay.rules.gate.judging import judge_fault
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.store.ledger import Ledger


def test_suite(asked: SelftestRequest, *, settings: Settings, as_json: bool) -> tuple[str, ...]:
    """Measures the suite's judge on people's labels, where it has any; then runs the self-test on
    stored answers. Prints what both found and returns the promises that are missed. A judge can be
    measured before anything was evaluated."""
    if wrong := [noise for noise in asked.noises if not 0 <= noise <= 10]:
        raise UsageError(
            f"--noise is a share of the weights' own spread, such as 0.1, not {wrong[0]:g}"
        )
    suite = load_suites(asked.suite)
    judge = _measured(suite, settings)
    record, nothing = None, ""
    try:
        with display.watching(to_stderr=as_json) as watcher:
            record = selftest.run(
                suite,
                asked,
                root=Path.cwd(),
                settings=settings,
                watcher=watcher,
                before_work=lambda: ensure_place(settings),
            )
    except NothingEvaluated as error:
        if judge is None:
            raise
        nothing = str(error)
    _show(judge, record, nothing, as_json=as_json)
    fault = _fault(suite, judge)
    if fault and not as_json:
        tables.print_fault(fault)
    faults = [fault] if fault else []
    if record is not None:
        faults += record.faults
    return tuple(faults)


def _measured(suite: SuiteSpec, settings: Settings) -> JudgeAgreement | None:
    if suite.judge is None or suite.judge.labels is None:
        return None
    echo(f"measuring the judge {suite.judge.model}", err=True)
    return measure_judge(
        suite, root=Path.cwd(), settings=settings, ledger=Ledger(settings.ledger_url)
    )


def _fault(suite: SuiteSpec, judge: JudgeAgreement | None) -> str:
    if suite.judge is None or judge is None:
        return ""
    return judge_fault(suite.judge, judge_digest(suite.judge), judge)


def _show(
    judge: JudgeAgreement | None, record: SelftestRecord | None, nothing: str, *, as_json: bool
) -> None:
    if as_json:
        found = record.model_dump(mode="json") if record else {}
        if judge is not None:
            found["judge"] = judge.model_dump(mode="json")
        echo(json.dumps(found))
        return
    if judge is not None:
        tables.print_judge(judge)
    if record is not None:
        tables.print_selftest(record)
    elif nothing:
        echo(f"the judge alone was tested: {nothing}")
