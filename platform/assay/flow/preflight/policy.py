"""Whether a spec is up to the place's policy, as far as that can be known before it runs."""

from collections.abc import Iterator, Sequence

from assay.errors import Problem
from assay.flow.preflight.places import Places
from assay.loader.compose import variables_named
from assay.loader.references import SuiteFile
from assay.rules.release.policy import limit_faults, spec_faults
from assay.spec.gate import Limit
from assay.spec.place.policy import PolicySpec
from assay.spec.spec import Spec


def check_policy(
    policy: PolicySpec, spec: Spec, suites: Sequence[SuiteFile], places: Places
) -> Iterator[Problem]:
    """What the place does not allow, each where the spec says it."""
    limits: dict[str, tuple[Limit, ...]] = {}
    variables = list(variables_named(spec))
    for file in suites:
        limits |= file.suite.limits
        judge = file.suite.judge
        if judge is not None and judge.api_key_env:
            variables.append(judge.api_key_env)
    faults = [*spec_faults(policy, spec, variables)]
    if len(suites) == len(spec.gate.suite):  # or a suite that cannot be read is told instead
        faults += limit_faults(policy, limits)
    for fault in faults:
        yield places.problem(fault.location, "policy", fault.message, fault.hint)
