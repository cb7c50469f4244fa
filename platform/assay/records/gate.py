"""What the gate saw, and what it decided."""

from typing import Literal

from pydantic import Field

from assay.records.artifact import Artifact
from assay.records.record import Record

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Level = Literal["hard", "soft"]
Reference = Literal["base", "champion"]

# Of the scorecard. It rises when a field changes its meaning or goes.
SCHEMA_VERSION = 2


class Sample(Record):
    """One question, and what the model made of it."""

    id: str
    """Digest of the question and its target; the same item has the same id for every model."""
    prompt: str
    target: str
    response: str
    scores: dict[str, float]
    """Per-item metrics, such as `exact_match` (0 or 1) and `abstained` (0 or 1). `confidence` is
    the probability that the model gave to its answer, where the engine tells it."""
    cluster: str | None = None
    """What the item has in common with others that are evidence only together; None for an item on
    its own."""
    slices: dict[str, str] = Field({})
    """Document field to its value, for the task's `slice_by`."""
    unscored: dict[str, str] = Field({}, exclude_if=lambda found: not found)
    """Metric to why the answer has no score of it, such as a judge that failed. No limit on that
    metric can be decided."""
    remarks: dict[str, str] = Field({}, exclude_if=lambda found: not found)
    """Metric to what was said for its score, such as a judge's reasons."""
    error: str | None = None
    """Why there is no answer, after all retries: a fault of the infrastructure. Then `scores` is
    empty, and no limit of the task can be decided."""
    latency_s: float | None = None
    """From the request to the whole answer."""
    reasoning_tokens: int | None = None
    """Tokens of reasoning before the answer, which `response` leaves out; None where the server
    tells none apart."""


class TaskResult(Record):
    """One task, evaluated on one model."""

    task: str
    digest: str
    """SHA-256 over the task's configuration, its settings in the suite, its functions and its
    data."""
    items: tuple[Sample, ...]
    lower_is_better: tuple[str, ...] = ()
    """Metrics of which the task says so."""
    files: dict[str, str] = Field({})
    """Task file, data files and functions, by their path as the suite names them, with their
    SHA-256."""
    unasked: tuple[str, ...] = ()
    """Ids of the items that were not asked, because no answer to them could have changed what the
    suite decides."""
    notes: dict[str, str] = Field({}, exclude_if=lambda found: not found)
    """Metric to what else is known of it, in words: BLEU of all answers together, what `auto`
    stands for."""

    @property
    def answered(self) -> list[Sample]:
        """The samples that have an answer."""
        return [item for item in self.items if not item.error]


class Evaluation(Record):
    """All tasks of a suite, evaluated on one model through its endpoint."""

    artifact_digest: str
    """The model's."""
    model_name: str
    tasks: tuple[TaskResult, ...]
    seconds: float

    def results_of(self, task: str) -> list[TaskResult]:
        """What came of a task: one result, unless something went wrong."""
        return [result for result in self.tasks if result.task == task]


class EvaluationRecord(Record):
    """An evaluation, kept as evidence in the artifact store under `evaluation.json`."""

    evidence: Artifact
    artifact_digest: str
    """The evaluated model's."""
    num_items: int
    seconds: float
    num_errors: int = 0
    """Items without an answer, or without the score that a judge owes them, after all retries."""
    num_reused: int = 0
    """Answers that stood already, for which no request was sent."""
    num_unasked: int = 0
    """Items that were not asked, because nothing depended on them any more."""
    num_reasoned: int = 0
    """Answers that began with reasoning."""
    reasoning_tokens: int = 0
    """Of all of them together; no part of the answers."""
    num_only_reasoned: int = 0
    """Answers that came to no end of their reasoning, and are empty."""


class ServiceMeasurement(Record):
    """The candidate under load, kept as evidence in the artifact store under `service.json`."""

    num_requests: int
    """Sent, without the warm-up."""
    num_concurrent: int
    num_failed: int
    """Requests that ended in an error or a time-out."""
    num_completed: int
    """Requests that were answered to their end: an end of the model's own, or the length that was
    asked for."""
    prompt_tokens: int
    """Of all requests."""
    output_tokens: int
    seconds: float
    ttft_s: tuple[float, ...]
    """Time to first token of each request that had one."""
    inter_token_s: tuple[float, ...]
    """Mean time between tokens after the first, of each request that had two or more."""
    window_tokens_per_s: tuple[float, ...]
    """Output tokens a second in windows of equal length that cover the measurement."""
    num_engines: int
    """GPUs, or replicas on CPU, that shared the load."""
    peak_memory_bytes: int | None = None
    """Highest memory of the engine's processes (on a GPU: of that GPU); None where it cannot be
    known."""
    memory_bytes: int | None = None
    """All there is of it."""


class ServiceRecord(Record):
    """A service measurement, kept as evidence."""

    evidence: Artifact
    artifact_digest: str
    """The measured model's."""
    num_requests: int
    seconds: float


class ContaminationHit(Record):
    """An item that stands in the training data."""

    task: str
    item: str
    """The item's text."""
    training: str
    """What it was found in, shortened."""
    similarity: float
    """1 for an exact hit; otherwise the share that both texts have in common."""
    ngram: str = ""
    """The words in a row that both have, where that was what was found."""


class ContaminationRecord(Record):
    """What was found of the suite's items in the training data."""

    train_digest: str
    """Of the training split."""
    task_digests: dict[str, str]
    """Task to the digest that was compared."""
    num_items: int
    num_examples: int
    """Training examples."""
    exact: tuple[ContaminationHit, ...]
    near: tuple[ContaminationHit, ...]
    """Without those that are exact."""
    ngram: int
    similarity: float


ModelForm = Literal["base", "adapter", "merged", "compressed", "served"]
"""The forms that a model takes on its way."""


class ParityPair(Record):
    """Two forms of one model, on the same probes."""

    first: ModelForm
    second: ModelForm
    num_probes: int
    num_tokens: int
    mean_abs_logprob: float
    """Mean absolute difference of the log-probability of the probes' tokens, in nats."""
    max_abs_logprob: float
    top1_agreement: float
    """Share of the tokens for which both have the same likeliest next token."""
    top1_agreed: int
    """The same as a count, of `num_tokens`."""
    probe_abs_logprob: tuple[float, ...] = ()
    """Mean absolute difference of each probe."""
    kl: float | None = None
    """Mean Kullback-Leibler divergence of `second` from `first` in nats, over what the engine tells
    of both."""


class ParityRecord(Record):
    """What is lost from training to serving, pair by pair along the way, and over the whole of
    it."""

    artifact_digest: str
    """Of the served model."""
    probes_digest: str
    pairs: tuple[ParityPair, ...]


class Attempt(Record):
    """Which evaluation of these items this is."""

    number: int
    """Counted from 1, over all candidates that were evaluated with them, failures included."""
    budget: int | None
    """How many there may be; None where the suite says nothing."""
    confidence: float
    """Confidence of each bound: the suite's, corrected for the budget."""
    splits: dict[str, str] = Field({})
    """Task to the digest of its items, by which the attempts are counted."""


class SliceResult(Record):
    """A part of a task's items; it decides nothing."""

    field: str
    value: str
    num_items: int
    observed: float
    lower: float
    upper: float


LimitKind = Literal["task", "service", "contamination", "parity"]


class LimitResult(Record):
    """One limit, decided."""

    task: str
    """The task; `service`, `contamination` or `parity` for what is none."""
    metric: str
    requirement: str
    """In words, such as `>= 85.0%` or `>= base - 10.0%`."""
    level: Level
    outcome: Outcome
    num_items: int
    """Items that were asked."""
    observed: float | None
    """Share, or difference to the base model."""
    bound: float | None
    """The one-sided confidence bound that was compared with the limit."""
    limit: float
    base_observed: float | None
    """The base model's share on the same items."""
    reason: str
    """One sentence for people."""
    kind: LimitKind = "task"
    method: str = ""
    """How the bounds were made, such as `Clopper-Pearson` or `Tango`."""
    lower: float | None = None
    """Lower one-sided bound of what `observed` says."""
    upper: float | None = None
    """The upper one."""
    confidence: float | None = None
    """Of each of both bounds, after all corrections."""
    unit: Literal["share", "score", "seconds", "tokens/s", "nats"] = "share"
    """Of `observed`, the bounds and the limit."""
    reference: Reference | None = None
    """What `observed` is the difference to."""
    champion_observed: float | None = None
    """The champion's share on the same items."""
    num_clusters: int | None = None
    """Where items were counted as clusters."""
    family: str | None = None
    """Limits of one family stand for each other: any of them is enough."""
    num_unasked: int = 0
    """Items that were not asked, because the outcome is the same however they are answered. `lower`
    and `upper` then reckon with the least and the most favourable answers to them; `observed` is of
    the items that were asked."""
    slices: tuple[SliceResult, ...] = ()


class SelfTest(Record):
    """What the gate's test of itself found for this suite."""

    false_alarm_rate: float
    false_alarm_upper: float
    """Upper confidence bound."""
    promised: float
    power: float | None = None
    """Share of the planted regressions that were stopped."""
    kept: bool
    """Whether the promises were kept."""
    at: float
    """Seconds since the epoch."""


class Scorecard(Record):
    """The gate's decision on one artifact, and what it rests on."""

    suite: str
    """Path of the suite file; several are joined by `, `."""
    suite_digest: str
    """Over the suite, its task files and their data."""
    artifact_digest: str
    base_digest: str | None
    confidence: float
    """The suite's, before any correction."""
    outcome: Outcome
    limits: tuple[LimitResult, ...]
    deployment_slot: str
    deployed_at: float
    replicas: tuple[str, ...]
    """Which replicas answered; the same ones are promoted."""
    schema_version: int = 1
    champion_digest: str | None = None
    attempt: Attempt | None = None
    task_digests: dict[str, str] = Field({})
    """Task to the digest of its configuration and data."""
    evidence: dict[str, str] = Field({})
    """What the decision rests on, with its digest in the artifact store: `candidate`, `base`,
    `champion` (their answers), `service` (the measurement) and `inputs` (the suite and the other
    records)."""
    contamination: ContaminationRecord | None = None
    parity: ParityRecord | None = None
    service: ServiceRecord | None = None
    selftest: SelfTest | None = None
    """The newest one of this suite; None when it was never tested."""

    @property
    def missed_soft_limits(self) -> tuple[LimitResult, ...]:
        """Soft limits that were not met: two approvers must agree, each with a reason."""
        return tuple(r for r in self.limits if r.level == "soft" and r.outcome != "PASS")


class GateRecord(Record):
    """The gate's decision, and the answers that it rests on."""

    scorecard: Scorecard
    candidate: EvaluationRecord
    base: EvaluationRecord | None
    champion: EvaluationRecord | None = None
    inputs: Artifact | None = None
    """What else the decision was made of, as the gate read it: `suite.json`, `tasks.json` (their
    digests), and `attempt.json`, `contamination.json`, `parity.json` and `service.json` where there
    are any."""
