"""The `gate:` block, and the suite file that it names."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from assay.spec.block import Block, Fraction

Probability = Annotated[float, Field(gt=0, lt=1)]


class GateSpec(Block):
    """Which suite weighs the candidate."""

    suite: str
    """Path of the suite file, relative to the folder where `assay` runs."""

    baseline: Literal["base", "none"] = "base"
    """What the candidate is compared with: the base model, weighed by the same suite, or nothing."""

    num_concurrent: int = Field(16, ge=1)
    """Requests in flight to the candidate."""


class Limit(Block):
    """One requirement. It is met when the confidence bound of the metric meets it."""

    metric: str = "exact_match"
    """`exact_match` or another per-item metric of the task; `hallucination_rate` (share of the task's
    unanswerable questions that were answered) or `over_abstention` (share of the task's answerable
    questions that were not)."""

    at_least: Fraction | None = None
    """The lower confidence bound must reach this."""

    at_most: Fraction | None = None
    """The upper confidence bound must not exceed this."""

    no_worse_than: Literal["base"] | None = None
    """The candidate may fall behind the base model by `margin` at most, item by item."""

    margin: Fraction | None = None
    """For `no_worse_than`."""

    level: Literal["hard", "soft"] = "hard"
    """A soft limit that is missed does not fail the gate; the approver must give a reason."""

    @model_validator(mode="after")
    def _exactly_one_bound(self) -> "Limit":
        said = [name for name in ("at_least", "at_most", "no_worse_than") if getattr(self, name) is not None]
        if len(said) != 1:
            raise ValueError("a limit has exactly one of at_least, at_most and no_worse_than")
        if (self.margin is not None) != (self.no_worse_than is not None):
            raise ValueError("no_worse_than and margin go together")
        return self


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, dict | Limit) else value


class SuiteSpec(Block):
    """What a candidate must show. Tasks are lm-eval YAML files in the folder named like the suite file."""

    confidence: Probability = 0.95
    """Confidence of every bound, one-sided."""

    limits: dict[str, Annotated[tuple[Limit, ...], BeforeValidator(_one_or_many), Field(min_length=1)]] = Field(
        min_length=1
    )
    """Task name to its limit, or limits. The task `heldout` is the spec's `data.gate` split."""
