"""A suite's judge, measured on people's labels: once for each judge, labels and confidence, kept in
the ledger."""

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from assay.engines.evaluation import judge as judges
from assay.errors import StageFailed, UsageError
from assay.loader.named.free_text import JudgeLabel, read_labels
from assay.records.evaluations.judge import Disagreement, JudgeAgreement
from assay.records.record import digest_of, read_as
from assay.rules.gate.judging import judge_fault
from assay.rules.statistics.agreement import agreement
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.suite.judge import JudgeSpec
from assay.stages.evaluate import JUDGES

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

STAGE = "judge"
VERSION = 1
# Disagreements that a record keeps.
NUM_SHOWN = 10


def measured_judge(suite: SuiteSpec, root: Path, ledger: "Ledger") -> JudgeAgreement | None:
    """What is known of the suite's judge, with its labels as their file is now; None while it was
    not measured."""
    labels_digest = _labels_digest(suite, root)
    if suite.judge is None or labels_digest is None:
        return None
    found = ledger.record(_key(suite.judge, labels_digest, suite.confidence))
    if found:
        return read_as(JudgeAgreement, found.record)
    return None


def check_judge(suite: SuiteSpec, root: Path, ledger: "Ledger | None") -> None:
    """Raises `UsageError` when limits rest on a judge that was not measured, or not found good
    enough: every limit on it would be inconclusive, after all the training."""
    if not suite.judged_tasks:
        return
    assert suite.judge is not None  # the suite sees to it
    measured = measured_judge(suite, root, ledger) if ledger else None
    fault = judge_fault(suite.judge, judges.judge_digest(suite.judge), measured)
    if fault:
        raise UsageError(
            f"limits on the metric judge ({', '.join(suite.judged_tasks)}) cannot be decided: "
            f"{fault}"
        )


def measure_judge(
    suite: SuiteSpec, *, root: Path, settings: Settings, ledger: "Ledger"
) -> JudgeAgreement:
    """Has the judge score every label, and keeps how far it agrees. What it said before is not
    asked again. Raises `StageFailed` when the judge cannot be reached, and `InvalidInput` for
    labels that are none."""
    judge, labels_digest = suite.judge, _labels_digest(suite, root)
    if judge is None or judge.labels is None:
        raise UsageError("the suite has no judge with labels to measure it on")
    labels = read_labels(root / judge.labels, judge.scale)
    assert labels_digest is not None  # they were just read
    name = f"judge-{judges.judge_digest(judge)[:6]}"
    from assay.flow.place.identity import act  # a plan without a ledger has no need of its library

    starter = act(settings, ledger, "run").name
    ledger.open_run(name, name="(gate selftest)", spec='{"kind":"judge"}', started_by=starter)
    attempt = ledger.begin_stage(name, STAGE, _key(judge, labels_digest, suite.confidence))
    try:
        answers = []
        for label in labels:
            answers.append(judges.Answer(label.question, label.answer, label.reference))
        judged = judges.scores(judge, answers, settings.home / JUDGES)
        if failed := [one.error for one in judged if one.score is None and not one.is_unread]:
            raise StageFailed(
                f"{len(failed)} of {len(labels)} labels got no answer: {failed[0]}; measure again"
            )
        scores = [one.score for one in judged]
        record = _measured(judge, labels, scores, labels_digest, suite.confidence)
    except BaseException as error:
        ledger.fail_stage(attempt, str(error) or type(error).__name__)
        raise
    ledger.finish_stage(attempt, record)
    return record


def _measured(
    judge: JudgeSpec,
    labels: tuple[JudgeLabel, ...],
    scores: list[int | None],
    labels_digest: str,
    confidence: float,
) -> JudgeAgreement:
    """A reply without a score counts as the score that lies furthest from the label."""
    people = [label.label for label in labels]
    counted = []
    for label, score in zip(people, scores, strict=True):
        counted.append(_furthest(label, judge) if score is None else score)
    questions = [label.question for label in labels]
    found = agreement(
        people,
        counted,
        questions,
        scale=judge.scale,
        within=judge.agreement_within,
        confidence=confidence,
    )
    apart = sorted(
        range(len(labels)), key=lambda index: (-abs(people[index] - counted[index]), index)
    )
    differences = []
    for index in apart[:NUM_SHOWN]:
        if people[index] != scores[index]:
            differs = Disagreement(
                question=labels[index].question,
                answer=labels[index].answer,
                label=people[index],
                score=scores[index],
            )
            differences.append(differs)
    return JudgeAgreement(
        judge_digest=judges.judge_digest(judge),
        labels_digest=labels_digest,
        model=judge.model,
        num_labels=len(labels),
        num_questions=len(set(questions)),
        within=judge.agreement_within,
        confidence=confidence,
        num_agreed=found.num_agreed,
        num_unread=sum(score is None for score in scores),
        agreement_lower=found.lower,
        kappa=found.kappa,
        kappa_lower=found.kappa_lower,
        disagreements=tuple(differences),
        at=time.time(),
    )


def _furthest(label: int, judge: JudgeSpec) -> int:
    lowest, highest = judge.scale
    if label - lowest >= highest - label:
        return lowest
    return highest


def _labels_digest(suite: SuiteSpec, root: Path) -> str | None:
    """SHA-256 of the labels' file; None where there is none."""
    if suite.judge is None or suite.judge.labels is None:
        return None
    try:
        return hashlib.sha256((root / suite.judge.labels).read_bytes()).hexdigest()
    except OSError:
        return None


def _key(judge: JudgeSpec, labels_digest: str, confidence: float) -> str:
    read = [judges.judge_digest(judge), labels_digest, judge.agreement_within, confidence]
    return digest_of([STAGE, VERSION, *read])
