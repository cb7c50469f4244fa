"""What would change in production if a run were promoted: bytes, settings, suite, and answers."""

from collections.abc import Iterator
from dataclasses import dataclass

from assay.errors import AssayError, UsageError
from assay.flow.evaluation.compare import suite_of
from assay.flow.release.checks import Evaluated, evaluated
from assay.loader.diff import Change, differences
from assay.records.evaluations.comparison import ComparedLimit
from assay.records.gate import Evaluation, EvaluationRecord, Sample, TaskResult
from assay.records.releases.release import Champion
from assay.reporting.wrong_answers import counts_against
from assay.rules.gate.compare import compare
from assay.settings import Settings
from assay.stages.gate import read_evaluation
from assay.store.artifacts import open_store
from assay.store.ledger import Ledger

NUM_EXAMPLES = 10


@dataclass(frozen=True)
class ChangedAnswer:
    """One answer that the champion gave right and the candidate does not."""

    id: str
    prompt: str
    target: str
    response: str
    champion_response: str


@dataclass(frozen=True)
class ChangedAnswers:
    """How one limit's answers differ."""

    task: str
    metric: str
    num_samples: int
    """That both have answered."""
    num_worse: int
    num_better: int
    worse: tuple[ChangedAnswer, ...]
    """The first few."""


@dataclass(frozen=True)
class Changes:
    """From the champion to a candidate."""

    champion: Champion | None
    settings: tuple[Change, ...] = ()
    """Of the spec, after defaults."""
    champion_suite: str = ""
    """Digest of the suite that the champion was evaluated by, with its tasks and data."""
    limits: tuple[ComparedLimit, ...] = ()
    """A is the candidate, B the champion."""
    answers: tuple[ChangedAnswers, ...] = ()
    note: str = ""
    """Why the answers cannot be compared; empty when they can."""

    @property
    def num_worse(self) -> int:
        """Over all limits; an answer that counts against two is counted twice."""
        return sum(one.num_worse for one in self.answers)


def changes_of(run: str, settings: Settings, ledger: Ledger) -> Changes:
    """What a run's candidate would change. Raises `NotApproved` for a run without a verdict, and
    `IntegrityError` where its own answers were changed."""
    it, champion = evaluated(run, ledger), ledger.champion()
    if champion is None:
        return Changes(None, note="nobody has the traffic, so there is nothing to compare with")
    if champion.run == it.run and champion.artifact_digest == it.scorecard.artifact_digest:
        return Changes(champion, note="this is what has the traffic")
    try:
        before = evaluated(champion.run, ledger)
    except AssayError as error:
        return Changes(champion, note=f"the champion cannot be compared: {error}")
    found = Changes(
        champion,
        settings=tuple(differences(before.spec, it.spec)),
        champion_suite=before.scorecard.suite_digest,
    )
    try:
        return _with_answers(found, it, before, settings)
    except UsageError as error:
        return _noted(found, str(error))


def _with_answers(found: Changes, it: Evaluated, before: Evaluated, settings: Settings) -> Changes:
    assert found.champion is not None
    record = _champion_record(it, before, found.champion)
    if record is None:
        return _noted(found, "the champion was evaluated anew since it got the traffic")
    store = open_store(settings)
    for kept in (it.gate.candidate.evidence, record.evidence, it.gate.inputs):
        if kept is not None:
            store.verify(kept)
    ours, theirs = read_evaluation(it.gate.candidate), read_evaluation(record)
    suite = suite_of(it.run, it.gate)
    tasks = _same_tasks(ours, theirs)
    limits = {task: limit for task, limit in suite.limits.items() if task in tasks}
    if not limits:
        return _noted(found, "the champion has not answered the same samples")
    common = suite.model_copy(update={"limits": limits})
    return Changes(
        found.champion,
        found.settings,
        found.champion_suite,
        limits=compare(common, ours, theirs, suite.confidence),
        answers=tuple(_changed(it, ours, theirs, tasks)),
    )


def _champion_record(
    it: Evaluated, before: Evaluated, champion: Champion
) -> EvaluationRecord | None:
    """The champion's answers: those that the gate has asked for beside the candidate's, or those of
    its own gate."""
    for record in (it.gate.champion, before.gate.candidate):
        if record is not None and record.artifact_digest == champion.artifact_digest:
            return record
    return None


def _same_tasks(ours: Evaluation, theirs: Evaluation) -> set[str]:
    """Tasks that both have answered in the same form."""
    digests = {task.task: task.digest for task in theirs.tasks}
    return {task.task for task in ours.tasks if digests.get(task.task) == task.digest}


def _changed(
    it: Evaluated, ours: Evaluation, theirs: Evaluation, tasks: set[str]
) -> Iterator[ChangedAnswers]:
    """One for each limit on a task that both have answered."""
    mine = {task.task: task for task in ours.tasks}
    former = {task.task: task for task in theirs.tasks}
    for limit in it.scorecard.limits:
        if limit.kind == "task" and limit.task in tasks:
            yield _of_limit(mine[limit.task], former[limit.task], limit.metric)


def _of_limit(ours: TaskResult, theirs: TaskResult, metric: str) -> ChangedAnswers:
    before = {sample.id: sample for sample in theirs.items}
    is_lower_better = metric in ours.lower_is_better
    worse: list[ChangedAnswer] = []
    num_better = num_both = 0
    for sample in ours.items:
        other = before.get(sample.id)
        if other is None or sample.error is not None or other.error is not None:
            continue
        num_both += 1
        is_bad = counts_against(sample, metric, lower_is_better=is_lower_better)
        was_bad = counts_against(other, metric, lower_is_better=is_lower_better)
        if is_bad and not was_bad:
            worse.append(_answer(sample, other))
        num_better += was_bad and not is_bad
    return ChangedAnswers(
        ours.task, metric, num_both, len(worse), num_better, tuple(worse[:NUM_EXAMPLES])
    )


def _answer(sample: Sample, other: Sample) -> ChangedAnswer:
    return ChangedAnswer(sample.id, sample.prompt, sample.target, sample.response, other.response)


def _noted(found: Changes, note: str) -> Changes:
    return Changes(found.champion, found.settings, found.champion_suite, note=note)
