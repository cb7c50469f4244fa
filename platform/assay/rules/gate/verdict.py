"""The gate's decision: every limit of a suite against what was seen.

A limit is decided by bounds. It is PASS when the one-sided confidence bound meets it, FAIL when
even the opposite bound cannot, and INCONCLUSIVE otherwise, which never lets a candidate through.
"""

from collections.abc import Callable, Sequence
from typing import Any

from assay.records.gate import Evaluation, LimitResult, Outcome, Reference, TaskResult
from assay.rules.gate.early_stopping import can_stop
from assay.rules.gate.evidence import Case, Claim, NoEvidence, distinct
from assay.rules.gate.limits import Finding, evaluate, evaluate_part
from assay.rules.gate.wording import requirement
from assay.spec.gate import Limit, SuiteSpec

IMPROVEMENTS = "improvements"
"""The family of the `better_than` limits of which any one is enough."""


def evaluate_limits(
    suite: SuiteSpec,
    candidate: Evaluation,
    base: Evaluation | None,
    champion: Evaluation | None = None,
    *,
    confidence: float | None = None,
) -> tuple[LimitResult, ...]:
    """Decide every limit of the suite's tasks, in its order; `confidence` is the suite's when not
    said. What cannot be read (a task that was not evaluated, an item without an answer, a score
    that is missing or no number, items that differ) is INCONCLUSIVE, with the reason.

    For `no_worse_than` and `better_than`, `observed`, `bound` and `limit` are differences,
    candidate minus the other: the bound must reach -margin (exceed +margin), or, where lower is
    better, stay under +margin (-margin).
    """
    evaluated: dict[Reference, Evaluation] = {}
    if base is not None:
        evaluated["base"] = base
    if champion is not None:
        evaluated["champion"] = champion
    case = Case(suite, candidate, evaluated)
    level = suite.confidence if confidence is None else confidence
    claims = [(task, limit) for task, limit in case.limits if _stands_for_others(suite, limit)]

    def passes(claim: tuple[str, Limit], at: float) -> bool:
        return _decide(Claim(case, *claim, at)).outcome == "PASS"

    confidences = _holm(claims, level, passes)
    results = []
    for task, limit in case.limits:
        # By identity: two limits of a suite may be equal.
        if id(limit) in confidences:
            result = _decide(Claim(case, task, limit, confidences[id(limit)]), IMPROVEMENTS)
        else:
            result = _decide(Claim(case, task, limit, level))
        results.append(result)
    return tuple(results)


def overall(results: Sequence[LimitResult]) -> Outcome:
    """The verdict: hard limits alone decide, and without any there is nothing to pass. Of a family,
    one limit that is met is enough, and it fails only when all of it fails."""
    outcomes: set[Outcome] = set()
    families: dict[str, set[Outcome]] = {}
    for result in results:
        if result.level != "hard":
            continue
        if result.family is None:
            outcomes.add(result.outcome)
        else:
            families.setdefault(result.family, set()).add(result.outcome)
    outcomes.update(map(_of_family, families.values()))
    if "FAIL" in outcomes:
        return "FAIL"
    if outcomes == {"PASS"}:
        return "PASS"
    return "INCONCLUSIVE"


def is_settled(
    suite: SuiteSpec,
    result: TaskResult,
    base: Evaluation | None,
    champion: Evaluation | None,
    *,
    confidence: float,
) -> bool:
    """Whether every limit of a task, which the candidate has answered in part, has the same outcome
    whatever the other answers are. A task that may not be stopped early, or with an item that the
    server has failed, is never settled."""
    if not can_stop(suite, result.task):
        return False
    if any(item.error is not None for item in result.items):
        return False
    # Without validation: this is asked after every block of answers, and they are valid already.
    candidate = Evaluation.model_construct(
        artifact_digest="", model_name="", tasks=(result,), seconds=0.0
    )
    alone = suite.model_copy(update={"limits": {result.task: suite.limits[result.task]}})
    decided = evaluate_limits(alone, candidate, base, champion, confidence=confidence)
    # Without a bound there was no evidence.
    return all(limit.bound is not None for limit in decided)


def _of_family(outcomes: set[Outcome]) -> Outcome:
    if "PASS" in outcomes:
        return "PASS"
    if outcomes == {"FAIL"}:
        return "FAIL"
    return "INCONCLUSIVE"


def _stands_for_others(suite: SuiteSpec, limit: Limit) -> bool:
    return suite.improvements == "any" and limit.better_than is not None and limit.level == "hard"


def _holm(
    claims: Sequence[tuple[str, Limit]],
    confidence: float,
    passes: Callable[[tuple[str, Limit], float], bool],
) -> dict[int, float]:
    """The confidence at which each claim is decided, by the limit's identity: the whole error is
    shared by the claims that are not proven yet, until no more of them pass.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    confidences: dict[int, float] = {}
    left = list(claims)
    while left:
        at = 1 - (1 - confidence) / len(left)
        proven = [claim for claim in left if passes(claim, at)]
        if not proven:
            return confidences | {id(limit): at for _, limit in left}
        confidences |= {id(limit): at for _, limit in proven}
        left = [claim for claim in left if claim not in proven]
    return confidences


def _decide(claim: Claim, family: str | None = None) -> LimitResult:
    case, task, limit = claim.case, claim.task, claim.limit
    finding = _finding(claim)
    means = finding.means or {}
    reason = finding.reason
    notes = [result.notes.get(limit.metric) for result in case.results(task)]
    if notes and notes[0]:
        reason += f"; {notes[0]}"
    return LimitResult(
        task=task,
        metric=limit.metric,
        requirement=requirement(limit, claim.lower_is_better),
        level=limit.level,
        outcome=finding.outcome,
        num_items=finding.num_items,
        limit=claim.threshold,
        base_observed=means.get("base"),
        champion_observed=means.get("champion"),
        reason=reason,
        confidence=claim.confidence,
        reference=limit.reference,
        family=family,
        num_unasked=case.num_unasked(task),
        slices=finding.slices,
        **_of_bounds(finding),
    )


def _of_bounds(finding: Finding) -> dict[str, Any]:
    """The fields of a result that say what was seen, and how sure it is."""
    bounds = finding.bounds
    if bounds is None:
        return {"observed": None, "bound": None}
    return {
        "observed": bounds.observed,
        "bound": bounds.end(finding.shown),
        "method": bounds.method,
        "lower": bounds.lower,
        "upper": bounds.upper,
        "num_clusters": bounds.num_clusters,
        "unit": bounds.unit,
    }


def _finding(claim: Claim) -> Finding:
    try:
        if claim.case.num_unasked(claim.task):
            return evaluate_part(claim)
        return evaluate(claim)
    except NoEvidence as why:
        num_items = 0
        for result in claim.case.results(claim.task):
            num_items += len(distinct(result))
        return Finding("INCONCLUSIVE", str(why), None, num_items)
