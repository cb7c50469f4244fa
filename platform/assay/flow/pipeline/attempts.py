"""Attempts at a sealed split, counted in the ledger."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import UsageError
from assay.records.gate import Attempt
from assay.records.record import digest_of
from assay.rules.gate.attempts import attempt_of, spent
from assay.spec.gate import SuiteSpec

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

MAKE_CANDIDATES = ("sweep", "train", "merge", "compress")
"""Stages after which there is another candidate."""


def begin_attempt(
    suite: SuiteSpec,
    tasks: Sequence[TaskFile],
    *,
    artifact_digest: str,
    engine: str,
    run: str,
    ledger: "Ledger",
) -> Attempt:
    """Counts the evaluation of a candidate, before it begins. The same bytes behind the same engine
    are one attempt, however often they are evaluated: their answers stand. Raises `UsageError` when
    the suite's budget is spent."""
    splits = {task.name: task.data_digest for task in tasks}
    subject = digest_of([artifact_digest, engine])
    number = ledger.add_attempt(
        sorted(set(splits.values())), subject, run=run, budget=suite.attempts
    )
    if number is None:
        raise UsageError(spent(_used(splits, ledger), suite.attempts or 0))
    return attempt_of(suite, number, splits)


def check_attempts_left(suite: SuiteSpec, tasks: Sequence[TaskFile], ledger: "Ledger") -> None:
    """Raises `UsageError` when no other candidate may be evaluated: told before one is made."""
    used = _used({task.name: task.data_digest for task in tasks}, ledger)
    if suite.attempts is not None and max(used.values(), default=0) >= suite.attempts:
        raise UsageError(spent(used, suite.attempts))


def _used(splits: dict[str, str], ledger: "Ledger") -> dict[str, int]:
    return {task: ledger.num_attempts(split) for task, split in splits.items()}
