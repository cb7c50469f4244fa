"""Two runs or evaluations side by side, from the answers that the ledger's evidence holds."""

from pathlib import Path

from assay.errors import NotApproved, UsageError
from assay.records.evaluations.comparison import Comparison
from assay.records.gate import GateRecord
from assay.records.record import read_as
from assay.reporting import document as reports
from assay.rules.gate.compare import compare as compare_limits
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.stages.gate import read_evaluation
from assay.store.artifacts import open_store
from assay.store.ledger import Ledger


def compare(
    first: str, second: str, *, settings: Settings, confidence: float | None = None
) -> Comparison:
    """The models of two runs or evaluations, named by the start of their ids, on the tasks of the
    first one's suite, at the suite's confidence when none is said. Raises `UsageError` when they
    have no task in common, and `IntegrityError` when their answers were changed since."""
    ledger, store = Ledger(settings.ledger_url), open_store(settings)
    (first_name, ours), (second_name, theirs) = (_decided(name, ledger) for name in (first, second))
    for record in (ours.candidate, theirs.candidate):
        store.verify(record.evidence)
    suite = suite_of(first_name, ours)
    answers, others = read_evaluation(ours.candidate), read_evaluation(theirs.candidate)
    tasks = {result.task: result.digest for result in others.tasks}
    common = {task: limits for task, limits in suite.limits.items() if task in tasks}
    if not common:
        raise UsageError(f"{first_name} and {second_name} have no task in common")
    level = confidence or suite.confidence
    return Comparison(
        first=first_name,
        second=second_name,
        first_digest=answers.artifact_digest,
        second_digest=others.artifact_digest,
        suite=ours.scorecard.suite,
        confidence=level,
        limits=compare_limits(suite.model_copy(update={"limits": common}), answers, others, level),
    )


def _decided(name: str, ledger: Ledger) -> tuple[str, GateRecord]:
    row = ledger.find_run(name)
    found = read_as(GateRecord, reports.stages_of(row, ledger).get("gate"))
    if found is None:
        raise NotApproved(f"{row.id} has no verdict yet")
    return row.id, found


def suite_of(name: str, decided: GateRecord) -> SuiteSpec:
    """The suite as the gate read it then."""
    if decided.inputs is None:
        raise UsageError(
            f"{name} was evaluated by an older version, which did not keep its suite; evaluate it "
            "again"
        )
    return SuiteSpec.model_validate_json((Path(decided.inputs.path) / "suite.json").read_text())
