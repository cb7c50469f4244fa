"""Whether the people whom a spec names can let a candidate through at all."""

from collections.abc import Iterator, Sequence

from assay.errors import Problem
from assay.flow.preflight.places import Places
from assay.loader.references import SuiteFile
from assay.spec.approval import ApprovalSpec, folded_name


def check_people(
    approval: ApprovalSpec, suites: Sequence[SuiteFile], places: Places, user: str | None
) -> Iterator[Problem]:
    """Runs that would pass their gate, and that nobody could approve. `user` would start the run;
    None when that is not known."""
    reviewers = set(map(folded_name, approval.reviewers))
    at = ("approval", "reviewers")
    names: set[str] = set()
    for file in suites:
        names.update(soft_limits(file))
    soft = sorted(names)
    needed = max(approval.required, approval.required_on_soft_miss)
    if soft and len(reviewers) < needed:
        message = (
            f"the suite has soft limits ({', '.join(soft[:4])}); where one is missed {needed} must "
            "approve, and "
            f"{_count(reviewers)} named"
        )
        yield places.problem(
            at, "reviewers", message, f"name {needed} or more, or write required_on_soft_miss: 1"
        )
    if user is None or approval.allow_self_approval:
        return
    others = reviewers - {folded_name(user)}
    if others == reviewers:
        return
    if len(others) < approval.required:
        message = (
            f"{user} starts the run and may not approve it, which leaves {len(others)} of the "
            f"{approval.required}"
        )
        message += " who must"
        hint = "name somebody else; or, where you work alone, write allow_self_approval: true"
        yield places.problem(at, "reviewers", message, hint)
    elif soft and len(reviewers) >= needed > len(others):
        message = (
            f"{user} starts the run and may not approve it; where a soft limit "
            f"({', '.join(soft[:4])}) is missed "
            f"{needed} must, and that leaves {len(others)}"
        )
        hint = "name one more; or write required_on_soft_miss: 1, or allow_self_approval: true"
        yield places.problem(at, "reviewers", message, hint)


def soft_limits(file: SuiteFile) -> Iterator[str]:
    """The suite's soft limits by their names."""
    suite = file.suite
    for task, limits in suite.limits.items():
        for limit in limits:
            if limit.level == "soft":
                yield f"{task} {limit.metric}"
    if suite.service is not None and suite.service.level == "soft":
        yield "service"
    parity = suite.parity
    if parity is not None and parity.level == "soft":
        yield "parity"


def _count(reviewers: set[str]) -> str:
    if len(reviewers) == 1:
        return f"{len(reviewers)} is"
    return f"{len(reviewers)} are"
