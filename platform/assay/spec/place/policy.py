"""The policy of a place: floors that hold for every spec, whatever it says."""

from typing import Literal

from pydantic import Field, model_validator

from assay.spec.approval import folded_name
from assay.spec.block import Block, Duration, Score

HardCase = Literal["soft_miss", "first_release"]


class FloorSpec(Block):
    """A limit that every suite must have, as strict as this or stricter."""

    metric: str
    """What is measured; as a suite names it."""

    at_least: Score | None = None
    """The suite's own `at_least` may not be lower."""

    at_most: Score | None = None
    """The suite's own `at_most` may not be higher."""

    digest: str | None = None
    """The task's digest, as scorecards have it: another task of the same name does not count."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "FloorSpec":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("write either at_least or at_most")
        return self


class MaxAgeSpec(Block):
    """How old what a release rests on may be when traffic moves."""

    evaluation: Duration | None = None
    """Since the candidate was deployed to be evaluated; `7d`, for example."""

    approval: Duration | None = None
    """Since a reviewer's word; a spec's `approval.expires` may only be shorter."""


class PolicySpec(Block):
    """What a place demands. A place without a policy demands nothing beyond its specs."""

    identity: Literal["local", "tokens"] = "local"
    """`local`: who works is who they say (`--as`, `ASSAY_USER`, their login), and what the machine
    knows of them is kept beside it. `tokens`: a personal token says it."""

    reviewers: tuple[str, ...] = ()
    """Who may approve at all; whomever a spec names when not said."""

    allow_self_approval: bool = True
    """Whether a spec may let the person who started a run approve it."""

    required: int = Field(1, ge=1)
    """How many must approve every release; a spec may ask for more."""

    two_persons: tuple[HardCase, ...] = ()
    """Where two must approve: `soft_miss`, a soft limit was missed; `first_release`, there is no
    champion to go back to."""

    suites: tuple[str, ...] = ()
    """Suite files that every gate must have, as specs name them."""

    limits: dict[str, tuple[FloorSpec, ...]] = Field({})
    """Task to the hard limits that every gate must have on it."""

    max_age: MaxAgeSpec = MaxAgeSpec()
    """How old evaluations and approvals may be when traffic moves."""

    models: tuple[str, ...] = ()
    """Where models may come from, teachers too, with `*` for any letters: `hf:Qwen/*`; anywhere
    when not said."""

    env: tuple[str, ...] | None = None
    """Which environment variables specs and suites may name, with `*` for any letters, beyond what
    `ASSAY_SPEC_ENV` refuses; `[]` for none."""

    @model_validator(mode="after")
    def _enough_reviewers(self) -> "PolicySpec":
        people = {folded_name(name) for name in self.reviewers}
        needed = max(self.required, 2 if self.two_persons else 1)
        if self.reviewers and len(people) < needed:
            raise ValueError(f"{needed} must approve, and {len(people)} may")
        return self
