"""The `gate:` block, and the suite files that it names."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from assay.spec.block import Block, Fraction, Paths, Score, later, refuse
from assay.spec.suite.judge import JudgeSpec
from assay.spec.suite.measured import ContaminationSpec, Level, ParitySpec, ServiceSpec
from assay.spec.values.patterns import check_pattern

HELD_OUT = "heldout"
"""The task that needs no file: it is made from the spec's `data.gate` split."""

Regex = Annotated[str, AfterValidator(check_pattern)]
"""A regular expression in the syntax of the `regex` library, of bounded size."""
Probability = Annotated[float, Field(gt=0, lt=1)]
Reference = Literal["base", "champion"]
"""What a candidate is compared with."""

LM_EVAL = "lm-eval:"
"""Before the name of one of lm-eval's own tasks, as a task's source."""


# In flight, where nothing else is said. With half as many vLLM on CPU answers a fifth fewer a
# second (measured).
REQUESTS_TO_A_REPLICA = 128


class GateSpec(Block):
    """Which suites evaluate the candidate, and beside what."""

    suite: Paths
    """Path of the suite file, or of several, relative to the folder where `assay` runs. Several
    count as one."""

    baseline: Literal["base", "champion", "none"] = "base"
    """What stands beside the candidate on the scorecard: the base model, the champion (the model
    that has the traffic; the base model before the first release), or nothing. What a limit
    compares with is evaluated too."""

    num_concurrent: int = Field(REQUESTS_TO_A_REPLICA, ge=1)
    """Requests in flight to each replica that is sure to be there (`serve.replicas.min`)."""


class Limit(Block):
    """One requirement. It is met when the confidence bound of the metric meets it."""

    metric: str = "exact_match"
    """`exact_match` or another per-sample score of the task's file; `bleu`, `chrf`, `rouge1`,
    `rouge2`, `rougeL`, `rougeLsum` or `token_f1` (a generated answer against the reference, 0 to
    1); `contains`, `regex`, `json_valid` or `json_schema` (0 or 1); `judge` (the score of the
    suite's judge, 0 to 1); `hallucination_rate` (share of the task's unanswerable questions that
    were answered), `over_abstention` (share of the task's answerable questions that were not),
    `penalized_score` (right +1, abstained 0, wrong -t/(1-t)), `brier` (of the answer's
    probability), `ece` (expected calibration error) or `macro_f1` (mean F1 of the classes, the
    answer being a class). `auto`, for which `heldout` stands when nothing is said, is `exact_match`
    where the answers are short and `rougeL` where they are long."""

    at_least: Score | None = None
    """The lower confidence bound must reach this."""

    at_most: Score | None = None
    """The upper confidence bound must not exceed this."""

    no_worse_than: Reference | None = None
    """The candidate may fall behind the `base` model or the `champion` by `margin` at most, item by
    item."""

    better_than: Reference | None = None
    """The candidate must be better than the `base` model or the `champion`, by more than `margin`,
    item by item."""

    margin: Fraction | None = None
    """For `no_worse_than`, and for `better_than` where it is not 0."""

    floor: Score | None = None
    """For `no_worse_than`: the candidate's own bound must reach this too (or stay under it, where
    lower is better). Without it, or a limit of the same metric with `at_least` or `at_most`, a
    comparison with a model that is itself bad is inconclusive."""

    range: tuple[float, float] | None = None
    """Lowest and highest score that an item can have; [0, 1] when not said. The bounds rest on
    it."""

    level: Level = "hard"
    """`hard`: nobody can override it. `soft`: when it is missed, a second approver must agree, each
    with a reason."""

    @property
    def reference(self) -> Reference | None:
        """What the candidate is compared with, if it is."""
        return self.no_worse_than or self.better_than

    @model_validator(mode="after")
    def _exactly_one_bound(self) -> "Limit":
        kinds = ("at_least", "at_most", "no_worse_than", "better_than")
        num_bounds = len([name for name in kinds if getattr(self, name) is not None])
        refuse(
            [
                (
                    num_bounds != 1,
                    "a limit has exactly one of at_least, at_most, no_worse_than and better_than",
                ),
                (
                    self.no_worse_than is not None and self.margin is None,
                    "no_worse_than and margin go together",
                ),
                (
                    self.margin is not None and self.reference is None,
                    "margin is for no_worse_than and better_than",
                ),
                (
                    self.floor is not None and self.no_worse_than is None,
                    "floor is for no_worse_than; at_least and at_most stand alone",
                ),
                (
                    self.range is not None and not self.range[0] < self.range[1],
                    "range is written [lowest, highest]",
                ),
                (
                    self.metric == "ece" and self.at_most is None and num_bounds == 1,
                    "at_most is the only limit for the metric ece, which belongs to no single item",
                ),
                (
                    self.metric == "macro_f1" and self.at_least is None and num_bounds == 1,
                    "at_least is the only limit for the metric macro_f1, which belongs to no "
                    "single item",
                ),
            ]
        )
        return self


class TaskSettings(Block):
    """How a task is asked. What is not said is as the task's own file has it."""

    source: str | None = None
    """A task file inside the folder named like the suite, or `lm-eval:NAME` for a task of lm-eval's
    own; NAME.yaml in that folder when not said."""

    num_fewshot: int | None = Field(None, ge=0)
    """Solved examples before each question."""

    apply_chat_template: bool = True
    """Whether the questions go through the served chat template, as a user's would."""

    temperature: float | None = Field(None, ge=0)
    """Sampling temperature of the answers; 0 takes the likeliest token."""

    max_gen_toks: int | None = Field(None, ge=1)
    """Longest answer, in tokens."""

    max_reasoning_toks: int | None = later(None, ge=1)
    """Longest reasoning before an answer, in tokens, of a model that reasons; half of the engine's
    context at most, and when not said."""

    max_items: int | None = Field(None, ge=1)
    """Ask this many items only: those whose digests come first, the same ones for every model."""

    cluster_by: str | None = None
    """A field of the documents: items with one value of it, such as the source text, are one
    cluster, and count as evidence together."""

    slice_by: tuple[str, ...] = ()
    """Fields of the documents by which the scorecard also shows the results; slices decide
    nothing."""

    abstention: Literal["matcher", "judge"] = "matcher"
    """What recognizes an abstention: the wording's matcher, or the suite's judge."""

    penalty_threshold: Probability = 0.5
    """t of `penalized_score`: how sure one must be for an answer to be worth its risk."""

    contains: tuple[str, ...] = later(())
    """For the metric `contains`: texts that must all stand in the answer; the reference when not
    said. Case and white space do not matter."""

    regex: Regex | None = later(None)
    """For the metric `regex`: a regular expression that must be found in the answer (`^` and `$`
    for all of it). A search that takes longer than a second gives no score."""

    json_schema: dict[str, Any] | str | None = later(None)
    """For the metric `json_schema`: a JSON schema, or a file of one inside the folder named like
    the suite. What it refers to must stand in it."""

    functions: dict[str, str] = Field({})
    """Python files that the task's `!function` may run, each with the SHA-256 of its bytes; any
    other is refused."""


def _one_or_many(value: Any) -> Any:
    if isinstance(value, dict | Limit):
        return [value]
    return value


class SuiteSpec(Block):
    """What a candidate must show. Tasks are lm-eval YAML files in the folder named like the suite
    file."""

    confidence: Probability = 0.95
    """Confidence of every bound, one-sided."""

    underpowered: Literal["refuse", "allow"] = later("refuse")
    """Whether a run may start whose items are too few to meet a limit, however well the model does:
    such a limit can only end inconclusive. `allow` is for trying things out."""

    attempts: int | None = Field(None, ge=1)
    """How many candidates may be evaluated with the same items, failed attempts included. Every
    bound is then made for this many: at confidence 1 - (1 - `confidence`) / `attempts`. After the
    last one the gate is inconclusive until the items are renewed. When not said, attempts are
    counted and shown, and no more."""

    limits: dict[
        str, Annotated[tuple[Limit, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
    ] = Field({})
    """Task name to its limit, or limits. The task `heldout` is the spec's `data.gate` split."""

    stop_early: bool = False
    """Ask no more of a task's items once no answer to the others could change an outcome. The
    verdict is the same, and a model that is clearly too bad is known after half of the requests;
    one that passes saves a few in a hundred, and the scorecard shows fewer answers. For scores that
    are 0 or 1, of items on their own; all else is asked whole."""

    improvements: Literal["all", "any"] = "all"
    """Whether every hard `better_than` limit must be met, or any one of them; for `any`, their
    confidence is corrected by Holm's method."""

    tasks: dict[str, TaskSettings] = Field({})
    """Task name to how it is asked, where that is not as its file has it."""

    service: ServiceSpec | None = None
    """Service limits; nothing is measured when not said."""

    contamination: ContaminationSpec = ContaminationSpec()
    """The check of the items against the training data."""

    parity: ParitySpec | None = None
    """Limits on what is lost between training and serving."""

    judge: JudgeSpec | None = None
    """The model that recognizes abstentions where a task says `abstention: judge`, and scores
    answers by a rubric for the metric `judge`."""

    @field_validator("limits", mode="before")
    @classmethod
    def _held_out_is_auto(cls, limits: Any) -> Any:
        """A limit on `heldout` that names no metric takes the one that fits the answers."""
        if not isinstance(limits, dict) or HELD_OUT not in limits:
            return limits
        said = limits[HELD_OUT]
        many = said if isinstance(said, list | tuple) else [said]
        named = []
        for limit in many:
            named.append({"metric": "auto", **limit} if isinstance(limit, dict) else limit)
        return {**limits, HELD_OUT: named}

    @model_validator(mode="after")
    def _hangs_together(self) -> "SuiteSpec":
        unlimited = sorted(self.tasks.keys() - self.limits.keys())
        asks_judge = any(task.abstention == "judge" for task in self.tasks.values())
        refuse(
            [
                (
                    not self.limits and self.service is None,
                    "a suite needs limits, or service limits: without either there is nothing to "
                    "decide",
                ),
                (bool(unlimited), f"tasks names {', '.join(unlimited)}, which has no limit"),
                (
                    self.judge is None and asks_judge,
                    "tasks asks for a judge; name its endpoint under `judge`",
                ),
                *self._judge_faults(),
            ]
        )
        return self

    @property
    def judged_tasks(self) -> tuple[str, ...]:
        """Tasks with a limit on the metric `judge`."""
        found = []
        for task, limits in self.limits.items():
            if any(limit.metric == "judge" for limit in limits):
                found.append(task)
        return tuple(found)

    def _judge_faults(self) -> list[tuple[bool, str]]:
        """A judge decides nothing before people's labels have shown how far it can be trusted."""
        if not self.judged_tasks:
            return []
        judge = self.judge
        if judge is None or judge.rubric is None:
            return [
                (
                    True,
                    "a limit names the metric judge; write `judge: {url, model, rubric, labels, "
                    "…}`",
                )
            ]
        unknown = judge.labels is None or (judge.min_agreement is None and judge.min_kappa is None)
        reason = (
            "limits on the metric judge need `judge.labels`, scores by people, and "
            "`judge.min_agreement` or "
            "`judge.min_kappa`: nobody knows else what the judge's scores are worth"
        )
        return [(unknown, reason)]

    def settings(self, task: str) -> TaskSettings:
        """How a task is asked."""
        return self.tasks.get(task, TaskSettings())

    @property
    def references(self) -> frozenset[Reference]:
        """What the suite's limits compare with."""
        found: set[Reference] = set()
        for limits in self.limits.values():
            for limit in limits:
                if limit.reference is not None:
                    found.add(limit.reference)
        return frozenset(found)
