"""Whether a spec, and what came of it, is up to the place's policy: floors that no spec lowers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os.path import normpath
from pathlib import PurePosixPath

from assay.errors import NotApproved
from assay.records.gate import LimitResult, Scorecard
from assay.spec.approval import ApprovalSpec, folded_name
from assay.spec.block import Block
from assay.spec.gate import Limit
from assay.spec.model import ModelSpec
from assay.spec.place.policy import FloorSpec, PolicySpec
from assay.spec.spec import Spec

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class PolicyFault:
    """One thing that the policy does not allow, and where the spec says it."""

    location: Location
    message: str
    hint: str


def spec_faults(policy: PolicySpec, spec: Spec, variables: Sequence[str]) -> Iterator[PolicyFault]:
    """What is wrong with a spec. `variables` are the environment variables that it and its suites
    name."""
    yield from _model_faults(policy, spec)
    yield from _variable_faults(policy, variables)
    yield from _approval_faults(policy, spec.approval)
    given = set(map(_path, spec.gate.suite))
    for wanted in policy.suites:
        if _path(wanted) not in given:
            message = f"the place's policy asks for the suite {wanted}"
            yield PolicyFault(("gate", "suite"), message, "add it to gate.suite")


def limit_faults(
    policy: PolicySpec, limits: Mapping[str, Sequence[Limit]]
) -> Iterator[PolicyFault]:
    """Limits that the policy asks for, and that the gate's suites (task to its `limits`) lack."""
    for task, floors in policy.limits.items():
        for floor in floors:
            if not any(_is_as_strict(limit, floor) for limit in limits.get(task, ())):
                message = f"the place's policy asks for a hard limit: {_in_words(task, floor)}"
                yield PolicyFault(("gate", "suite"), message, "add it to a suite of this gate")


def scorecard_faults(policy: PolicySpec, scorecard: Scorecard) -> Iterator[str]:
    """Limits that the policy asks for, and that the gate has not decided."""
    for task, floors in policy.limits.items():
        for floor in floors:
            met = any(_meets(result, task, floor) for result in scorecard.limits)
            if not met:
                yield f"no hard limit on its scorecard is met that says {_in_words(task, floor)}"
            elif floor.digest is not None and scorecard.task_digests.get(task) != floor.digest:
                yield f"task {task} is not the one that the policy asks for"


def check_age(policy: PolicySpec, run: str, scorecard: Scorecard, now: float) -> None:
    """Refuses with NotApproved what was evaluated too long ago; `now` is in seconds since the
    epoch."""
    most = policy.max_age.evaluation
    age = now - scorecard.deployed_at
    if most is not None and age > most:
        raise NotApproved(
            f"run {run} was evaluated too long ago: its candidate was deployed "
            f"{age / 3600:.1f} hours ago, and the place's policy allows {most / 3600:.1f}; run "
            "the spec again"
        )


def check_reviewer_of_place(policy: PolicySpec, reviewer: str, starters: Collection[str]) -> None:
    """Refuses with NotApproved an approval that the policy does not let somebody give."""
    person = folded_name(reviewer)
    if policy.reviewers and person not in _folded(policy.reviewers):
        raise NotApproved(
            f"{reviewer} cannot approve: the reviewers of this place are "
            f"{', '.join(policy.reviewers)} (`assay policy show`)"
        )
    if not policy.allow_self_approval and person in _folded(starters):
        raise NotApproved(
            f"{reviewer} cannot approve: they started this run, and the place's policy allows no "
            "self-approval, whatever the spec says"
        )


def strict_approval(policy: PolicySpec, said: ApprovalSpec, *, is_first: bool) -> ApprovalSpec:
    """What a spec says on approvals, made as strict as the policy. `is_first`: nobody has the
    traffic yet. Nothing is validated anew: what can never be met is refused as a shortfall."""
    reviewers = said.reviewers
    if policy.reviewers:
        allowed = _folded(policy.reviewers)
        reviewers = tuple(name for name in reviewers if folded_name(name) in allowed)
    required = max(said.required, policy.required)
    if is_first and "first_release" in policy.two_persons:
        required = max(required, 2)
    on_soft_miss = said.required_on_soft_miss
    if "soft_miss" in policy.two_persons:
        on_soft_miss = max(on_soft_miss, 2)
    most = policy.max_age.approval
    return said.model_copy(
        update={
            "reviewers": reviewers,
            "required": required,
            "required_on_soft_miss": on_soft_miss,
            "expires": said.expires if most is None else min(said.expires, most),
            "allow_self_approval": said.allow_self_approval and policy.allow_self_approval,
        }
    )


def _model_faults(policy: PolicySpec, spec: Spec) -> Iterator[PolicyFault]:
    if not policy.models:
        return
    for location, model in _models(spec, ()):
        source = normpath(model.source)  # no pattern is meant to reach what is above its folder
        if not any(fnmatchcase(source, pattern) for pattern in policy.models):
            message = f"the place's policy allows models from {', '.join(policy.models)} alone"
            yield PolicyFault((*location, "source"), message, "an admin may allow more")


def _models(block: object, location: Location) -> Iterator[tuple[Location, ModelSpec]]:
    """Every model that a spec names, wherever it does."""
    if isinstance(block, ModelSpec):
        yield location, block
    elif isinstance(block, Block):
        for name in type(block).model_fields:
            yield from _models(getattr(block, name), (*location, name))
    elif isinstance(block, tuple):
        for index, one in enumerate(block):
            yield from _models(one, (*location, index))


def _variable_faults(policy: PolicySpec, variables: Sequence[str]) -> Iterator[PolicyFault]:
    if policy.env is None:
        return
    for name in variables:
        if not any(fnmatchcase(name, pattern) for pattern in policy.env):
            allowed = ", ".join(policy.env) or "none"
            message = f"the place's policy lets specs name the environment variables {allowed}"
            yield PolicyFault((), f"{message}, and not {name}", "an admin may allow more")


def _approval_faults(policy: PolicySpec, said: ApprovalSpec) -> Iterator[PolicyFault]:
    strict = strict_approval(policy, said, is_first=False)
    num_people = len(_folded(strict.reviewers))
    if num_people < strict.required:
        message = f"the place's policy asks for {strict.required} reviewers"
        if policy.reviewers:
            message += f" out of {', '.join(policy.reviewers)}"
        yield PolicyFault(
            ("approval", "reviewers"), f"{message}, and this names {num_people}", "name more"
        )
    if said.allow_self_approval and not policy.allow_self_approval:
        message = "the place's policy allows no self-approval"
        yield PolicyFault(("approval", "allow_self_approval"), message, "leave it out")


def _is_as_strict(limit: Limit, floor: FloorSpec) -> bool:
    if limit.metric != floor.metric or limit.level != "hard":
        return False
    if floor.at_least is not None:
        return limit.at_least is not None and limit.at_least >= floor.at_least
    return (
        limit.at_most is not None and floor.at_most is not None and limit.at_most <= floor.at_most
    )


def _meets(result: LimitResult, task: str, floor: FloorSpec) -> bool:
    """Whether a decided limit is the one that the policy asks for, or a stricter one. One of a
    family does not count: another of it may stand in its place."""
    is_same = (result.task, result.metric, result.kind) == (task, floor.metric, "task")
    is_alone = result.reference is None and result.family is None and result.level == "hard"
    if not is_same or not is_alone or result.outcome != "PASS":
        return False
    if floor.at_least is not None:
        return result.requirement.startswith(">") and result.limit >= floor.at_least
    assert floor.at_most is not None  # the policy has one of both
    return result.requirement.startswith("<") and result.limit <= floor.at_most


def _in_words(task: str, floor: FloorSpec) -> str:
    name = "at_most" if floor.at_least is None else "at_least"
    bound = f"{name}: {getattr(floor, name):g}"
    return f"{task}: {{metric: {floor.metric}, {bound}}}"


def _path(file: str) -> str:
    return PurePosixPath(file).as_posix()


def _folded(names: Collection[str]) -> set[str]:
    return set(map(folded_name, names))
