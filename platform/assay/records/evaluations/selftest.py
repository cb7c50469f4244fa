"""What a suite's self-test found: how often it lets a bad model through, and how often it stops a
good one."""

from assay.records.record import Record


class Rate(Record):
    """How often something happened in independent draws, with its exact two-sided 99% interval."""

    count: int
    draws: int
    lower: float
    upper: float

    @property
    def share(self) -> float:
        """The observed share."""
        return self.count / self.draws


class Outcomes(Record):
    """How often the gate said PASS and FAIL; the remaining draws were inconclusive."""

    passes: Rate
    fails: Rate


class Planted(Outcomes):
    """What the gate says of the evaluated model when a part of its answers is spoilt."""

    corrupted: float
    """Share of the answers that were replaced by the worst possible."""


class LimitSelftest(Record):
    """One limit, tested on itself."""

    task: str
    metric: str
    requirement: str
    on_limit: Outcomes | None
    """A model that lies exactly on the limit: it should pass, and fail, in 1 - confidence of the
    draws at most. None when no such model can be made from the answers."""
    equal: Outcomes | None
    """A model that is as good as the one it is compared with, and answers otherwise as often as the
    evaluated one; None for a limit that compares nothing."""
    planted: tuple[Planted, ...]
    """The evaluated model as it is (nothing spoilt), and ever worse."""
    faults: tuple[str, ...]
    """The promises that are missed, in words."""


class NoisedModel(Record):
    """A model whose weights were really noised, deployed, and evaluated through the engine."""

    noise: float
    """Standard deviation of the noise, as a share of each weight matrix's own; 0 for the same model
    once more."""
    artifact_digest: str
    outcome: str
    """The suite's verdict on it."""
    changed_answers: float
    """Share of the items that were answered otherwise than the first time."""
    missed: tuple[str, ...]
    """The limits that it does not meet, as `task metric`."""


class SelftestRecord(Record):
    """A suite's self-test. It is remembered by the suite's digest and shown in every scorecard of
    that suite."""

    suite: str
    suite_digest: str
    artifact_digest: str
    """The model whose answers were drawn from."""
    base_digest: str | None
    confidence: float
    """Of each bound, corrected for the suite's attempts."""
    draws: int
    limits: tuple[LimitSelftest, ...]
    planted: tuple[Planted, ...]
    """The verdict of the whole suite, every task spoilt at once."""
    noised: tuple[NoisedModel, ...] = ()
    at: float
    """Seconds since the epoch."""
    faults: tuple[str, ...]
    """Every promise that is missed; empty when all are kept."""
