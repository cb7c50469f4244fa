"""How far limits on a judge's scores can be trusted: as far as the judge was seen to agree with
people."""

from collections.abc import Sequence

from assay.records.evaluations.judge import JudgeAgreement
from assay.records.gate import LimitResult
from assay.spec.suite.judge import JudgeSpec


def trusted(
    results: Sequence[LimitResult],
    judge: JudgeSpec,
    judge_digest: str,
    measured: JudgeAgreement | None,
) -> tuple[LimitResult, ...]:
    """The decided limits; those on the metric `judge` are INCONCLUSIVE while the judge of this
    digest was not measured, or does not agree with people as the suite demands."""
    fault = judge_fault(judge, judge_digest, measured)
    found = []
    for result in results:
        found.append(_with_trust(result, fault, measured) if _is_judged(result) else result)
    return tuple(found)


def judge_fault(judge: JudgeSpec, judge_digest: str, measured: JudgeAgreement | None) -> str:
    """Why nothing can rest on a judge, in a sentence; empty when something can."""
    if measured is None:
        return "the judge was never measured on people's labels: `assay gate selftest` does so"
    if measured.judge_digest != judge_digest:
        return "another judge was measured: `assay gate selftest` measures this one"
    if measured.within > judge.agreement_within:
        return (
            "the judge was measured with another `agreement_within`: `assay gate selftest` "
            "measures it anew"
        )
    demands = (
        ("agreement", judge.min_agreement, measured.agreement, measured.agreement_lower),
        ("kappa", judge.min_kappa, measured.kappa, measured.kappa_lower),
    )
    for name, least, observed, lower in demands:
        if least is not None and (lower is None or lower < least):
            return _too_low(name, least, observed, lower, measured)
    return ""


def _too_low(
    name: str, least: float, observed: float | None, lower: float | None, measured: JudgeAgreement
) -> str:
    if observed is None or lower is None:
        return f"the judge has no {name}: all {measured.num_labels} labels and scores are one"
    return (
        f"the judge's {name} with {measured.num_labels} labels of people is {observed:.3f}; with "
        f"{100 * measured.confidence:g}% confidence at least {lower:.3f}, required {least:.3f}"
    )


def _is_judged(result: LimitResult) -> bool:
    return result.kind == "task" and result.metric == "judge"


def _with_trust(result: LimitResult, fault: str, measured: JudgeAgreement | None) -> LimitResult:
    said = {"outcome": "INCONCLUSIVE", "reason": f"{fault}; its scores: {result.reason}"}
    if not fault and measured is not None:
        agreed = f"{measured.num_agreed} of {measured.num_labels} labels of people"
        at_least = f"at least {measured.agreement_lower:.1%}"
        said = {"reason": f"{result.reason}; the judge agrees with {agreed}, {at_least}"}
    return LimitResult.model_validate({**result.model_dump(), **said})
