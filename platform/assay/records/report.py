"""The scorecard as a document: the gate's decision with all that a person or an auditor needs
beside it."""

from pydantic import Field, JsonValue

from assay.records.evaluations.selftest import SelftestRecord
from assay.records.gate import EvaluationRecord, Scorecard
from assay.records.record import Record
from assay.records.releases.release import Approval

REPORT_VERSION = 1


class Example(Record):
    """One answer that counts against a limit, beside the base model's answer to the same
    question."""

    id: str
    prompt: str
    target: str
    response: str
    base_response: str | None
    base_was_right: bool | None
    """None when the base model was not evaluated on this item."""
    score: float | None = Field(None, exclude_if=lambda score: score is None)
    """Of a metric with more scores than right and wrong."""
    base_score: float | None = Field(None, exclude_if=lambda score: score is None)
    remark: str = Field("", exclude_if=lambda remark: not remark)
    """What was said for the score, such as a judge's reasons."""


class WrongAnswers(Record):
    """The answers that count against one limit."""

    task: str
    metric: str
    count: int
    examples: tuple[Example, ...]
    """The first few, those that the base model had right before all others; of a metric with scores
    in between, those that lie furthest below the base model's."""


class Line(Record):
    """One line of a drawing."""

    name: str
    points: tuple[tuple[float, float], ...]
    chosen: bool = False
    """For the trials of a sweep: whether this one was chosen."""


class Curve(Record):
    """Something to draw: how a training's loss went, or how those of a sweep's trials did."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    note: str = ""
    """What it was computed with, in words."""


class TrialLine(Record):
    """One trial of a sweep, as its table has it."""

    name: str
    learning_rate: float
    loss: float | None
    """On the selection split, where the trial was last looked at."""
    error: float | None
    """Standard error of `loss`."""
    num_steps: int
    num_tokens: int
    outcome: str
    chosen: bool


class SweepLines(Record):
    """What a sweep tried, and what the choice cost."""

    trials: tuple[TrialLine, ...]
    seconds: float
    num_steps: int
    num_tokens: int


class Figure(Record):
    """One measured number."""

    name: str
    value: float
    unit: str


class Report(Record):
    """The whole scorecard document: what `assay report --json` prints and the HTML file shows."""

    schema_version: int = REPORT_VERSION
    """Raised when a field changes its meaning or goes away; new fields may come without."""
    name: str
    """The run's id, or the name of an evaluation without a run."""
    subject: str
    """What was evaluated, in words."""
    bytes_known: bool
    """False for a model behind a URL: its answers were seen, its bytes were not."""
    scorecard: Scorecard
    scorecard_digest: str
    """What an approval is bound to."""
    candidate: EvaluationRecord
    base: EvaluationRecord | None
    champion: EvaluationRecord | None
    wrong_answers: tuple[WrongAnswers, ...]
    service: tuple[Figure, ...]
    """What the service did under load; empty where the suite does not limit it."""
    compression: tuple[Figure, ...] = Field((), exclude_if=lambda found: not found)
    """How far the compressed model is from the merged one; empty where nothing was compressed."""
    curves: tuple[Curve, ...]
    sweep: SweepLines | None = None
    """None where nothing was swept."""
    approvals: tuple[Approval, ...]
    selftest: SelftestRecord | None
    """The newest self-test of this suite; None when there was none."""
    digests: dict[str, str]
    """Everything that the scorecard speaks of, by name, with its SHA-256."""
    stages: dict[str, JsonValue]
    """Each finished stage's own record."""
