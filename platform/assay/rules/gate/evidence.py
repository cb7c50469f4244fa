"""What a limit is decided on: the scores of a task's samples on one model, or on two.

Nothing here guesses. A score that is missing, no number or outside of what is possible is no
evidence, and a limit without evidence is INCONCLUSIVE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from assay.records.gate import Evaluation, Reference, Sample, TaskResult
from assay.rules.gate.answers import score_of
from assay.rules.gate.early_stopping import ABSTENTION_METRICS, completed
from assay.rules.gate.wording import NAMES
from assay.spec.gate import Limit, SuiteSpec
from assay.spec.values.metrics import CORPUS_WIDE, METRICS

MADE_OF = {"ece": "confidence", "macro_f1": "exact_match"}
"""The score of each sample that a metric of all samples is made of."""
LOWER_IS_BETTER = tuple(metric.name for metric in METRICS if metric.lower_is_better)
"""Metrics of which less is better; a task's file may name others. Of every other one more is
better."""

CANDIDATE = "the candidate"

References = Mapping[Reference, Evaluation]


class NoEvidence(Exception):
    """There is nothing to decide on; the message says why."""


@dataclass(frozen=True)
class Case:
    """All that a decision is made of."""

    suite: SuiteSpec
    candidate: Evaluation
    references: References

    @property
    def limits(self) -> list[tuple[str, Limit]]:
        """Every limit with its task, in the suite's order."""
        found = []
        for task, limits in self.suite.limits.items():
            for limit in limits:
                found.append((task, limit))
        return found

    def results(self, task: str) -> list[TaskResult]:
        """What the candidate did on a task: one result, unless something went wrong."""
        return self.candidate.results_of(task)

    def samples(self, task: str) -> list[Sample]:
        """What the candidate was asked of a task, each sample once."""
        return distinct(self.results(task)[0])

    def num_unasked(self, task: str) -> int:
        """How many of the task's samples the candidate was not asked."""
        return sum(len(result.unasked) for result in self.results(task))

    def lower_is_better(self, task: str, metric: str) -> bool:
        """Whether less of the metric is better, by the house's list or the task's own file."""
        named_by_task = any(metric in result.lower_is_better for result in self.results(task))
        return named_by_task or metric in LOWER_IS_BETTER

    def asked_alone(self, task: str) -> "Case":
        """As if there were no other samples than those that the candidate was asked."""
        ids: set[str] = set()
        for result in self.results(task):
            ids.update(item.id for item in result.items)
        references = {}
        for name, found in self.references.items():
            references[name] = _cut(found, task, ids)
        return Case(self.suite, _cut(self.candidate, task, ids), references)

    def completed(self, task: str, metric: str, value: float) -> "Case":
        """As if every other answer had this score."""
        tasks = tuple(completed(result, metric, value) for result in self.results(task))
        return replace(self, candidate=self.candidate.model_copy(update={"tasks": tasks}))


@dataclass(frozen=True)
class Claim:
    """One limit of a case, and how sure its decision must be."""

    case: Case
    task: str
    limit: Limit
    confidence: float

    @property
    def lower_is_better(self) -> bool:
        """Whether less of the limit's metric is better."""
        return self.case.lower_is_better(self.task, self.limit.metric)

    @property
    def threshold(self) -> float:
        """The number that the bound is compared with."""
        limit = self.limit
        if limit.reference is not None:
            margin = limit.margin or 0.0
            if self.lower_is_better != (limit.better_than is not None):
                return margin
            # Not `-margin`: that is -0.0 without a margin, which would be shown as "-0.0%".
            return 0.0 - margin
        threshold = limit.at_least if limit.at_most is None else limit.at_most
        assert threshold is not None  # the spec sees to it
        return threshold


@dataclass(frozen=True)
class Scored:
    """One task on one model: each item's score, and what it counts as evidence together with."""

    values: dict[str, float]
    clusters: dict[str, str]
    task_digest: str
    lowest: float
    highest: float
    lower_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether every item stands alone and its score is 0 or 1: then there are exact counts."""
        stands_alone = len(set(self.clusters.values())) == len(self.values)
        return stands_alone and set(self.values.values()) <= {0.0, 1.0}

    @property
    def total(self) -> float:
        """The sum of the scores: of a share, how many are right."""
        return sum(self.values.values())

    @property
    def mean(self) -> float:
        """The mean score."""
        return self.total / len(self.values)

    def part(self, ids: Sequence[str]) -> "Scored":
        """The same of these samples alone."""
        values, clusters = {}, {}
        for item in ids:
            values[item] = self.values[item]
            clusters[item] = self.clusters[item]
        return replace(self, values=values, clusters=clusters)


@dataclass(frozen=True)
class Pair:
    """The same samples of a task on the candidate and on what it is compared with."""

    ours: Scored
    theirs: Scored
    reference: Reference

    @property
    def name(self) -> str:
        """What the other model is, in words."""
        return NAMES[self.reference]

    @property
    def are_shares(self) -> bool:
        """Whether both are counts of right answers."""
        return self.ours.is_share and self.theirs.is_share

    @property
    def differences(self) -> dict[str, float]:
        """Of each sample, candidate minus reference."""
        theirs = self.theirs.values
        return {item: value - theirs[item] for item, value in self.ours.values.items()}

    @property
    def better_and_worse(self) -> tuple[int, int]:
        """On how many samples the candidate is the better one, and on how many the worse."""
        more = fewer = 0
        for difference in self.differences.values():
            more += difference > 0
            fewer += difference < 0
        if self.ours.lower_is_better:
            return fewer, more
        return more, fewer


def read(claim: Claim, evaluation: Evaluation, whose: str) -> Scored:
    """The scores of the claim's task on one model; NoEvidence when there are none to trust."""
    result = _result(evaluation, claim.task, whose)
    items = _answered(result, whose)
    values, clusters = {}, {}
    for item, value in zip(items, _values(claim, items, whose), strict=True):
        values[item.id] = value
        # A name of its own, so that no cluster can be called like a sample that stands alone.
        clusters[item.id] = item.id if item.cluster is None else f"cluster {item.cluster}"
    lowest, highest = _range(claim)
    return Scored(values, clusters, result.digest, lowest, highest, claim.lower_is_better)


def read_pair(claim: Claim) -> Pair:
    """The candidate and the limit's reference on the same samples; NoEvidence when there is no
    such pair."""
    reference, case = claim.limit.reference, claim.case
    assert reference is not None
    ours = read(claim, case.candidate, CANDIDATE)
    if reference not in case.references:
        raise NoEvidence(
            f"the {NAMES[reference]} was not evaluated, so there is nothing to compare with"
        )
    return _paired(claim, ours, reference)


def means_beside(claim: Claim, ours: Scored) -> dict[Reference, float | None]:
    """Of each reference its share or mean, where it was evaluated on the same samples."""
    means: dict[Reference, float | None] = {}
    for reference in claim.case.references:
        means[reference] = None
        try:
            pair = _paired(claim, ours, reference)
        except NoEvidence:
            continue
        # The mean of what such a metric is made of is not the metric.
        if claim.limit.metric not in CORPUS_WIDE:
            means[reference] = pair.theirs.mean
    return means


def distinct(result: TaskResult) -> list[Sample]:
    """The items, each once: a question asked twice is no more evidence than asked once. Its first
    answer counts."""
    # A dict keeps the last of equal keys, so the first answers are put in last.
    return list({item.id: item for item in reversed(result.items)}.values())[::-1]


def _cut(evaluation: Evaluation, task: str, ids: set[str]) -> Evaluation:
    tasks = []
    for result in evaluation.results_of(task):
        items = tuple(item for item in result.items if item.id in ids)
        tasks.append(result.model_copy(update={"items": items, "unasked": ()}))
    return evaluation.model_copy(update={"tasks": tuple(tasks)})


def _paired(claim: Claim, ours: Scored, reference: Reference) -> Pair:
    """Pairs need the same task and the same items on both sides."""
    name = NAMES[reference]
    theirs = read(claim, claim.case.references[reference], f"the {name}")
    if ours.task_digest != theirs.task_digest:
        raise NoEvidence(f"the {name} was evaluated on another version of the task")
    lacking = ours.values.keys() - theirs.values.keys()
    surplus = theirs.values.keys() - ours.values.keys()
    if lacking or surplus:
        raise NoEvidence(
            f"the items differ: {len(lacking)} of the candidate's {len(ours.values)} are missing "
            f"on the {name}, {len(surplus)} of the {name}'s {len(theirs.values)} on the candidate"
        )
    return Pair(ours, theirs, reference)


def _result(evaluation: Evaluation, task: str, whose: str) -> TaskResult:
    results = evaluation.results_of(task)
    if not results:
        raise NoEvidence(f"task {task} was not evaluated on {whose}")
    if len(results) > 1:
        raise NoEvidence(f"task {task} was evaluated twice on {whose}")
    return results[0]


def _answered(result: TaskResult, whose: str) -> list[Sample]:
    items = distinct(result)
    if not items:
        raise NoEvidence(f"task {result.task} has no items on {whose}")
    if unanswered := [item for item in items if item.error is not None]:
        raise NoEvidence(
            f"{len(unanswered)} of {len(items)} items got no answer on {whose} "
            f"({unanswered[0].error}); they are no wrong answers, and evaluating again asks for "
            "them alone"
        )
    return items


def _values(claim: Claim, items: list[Sample], whose: str) -> list[float]:
    metric = claim.limit.metric
    score = MADE_OF.get(metric, "abstained" if metric in ABSTENTION_METRICS else metric)
    if unscored := [item.unscored[score] for item in items if score in item.unscored]:
        raise NoEvidence(
            f"{len(unscored)} of {len(items)} items have no score {score} on {whose}: {unscored[0]}"
        )
    threshold = claim.case.suite.settings(claim.task).penalty_threshold
    values, known_names = [], set[str]()
    for item in items:
        known_names.update(item.scores)
        value = score_of(item, score, threshold)
        if value is not None:
            values.append(float(value))
    if len(values) < len(items):
        known = ", ".join(sorted(known_names)) or "none"
        missing = len(items) - len(values)
        raise NoEvidence(
            f"{missing} of {len(items)} items have no score {score} on {whose}; there is: {known}"
        )
    if metric in ABSTENTION_METRICS:
        _check_yes_or_no(values, score, whose)
    else:
        _check_range(values, score, whose, _range(claim))
    if metric == "hallucination_rate":
        return [1 - value for value in values]
    return values


def _check_yes_or_no(values: list[float], score: str, whose: str) -> None:
    # NaN is in no tuple of numbers, so it is strange here too.
    if strange := sum(value not in (0, 1) for value in values):
        raise NoEvidence(
            f"{strange} of {len(values)} items have a score {score} on {whose} that is not 0 or 1"
        )


def _check_range(
    values: list[float], score: str, whose: str, possible: tuple[float, float]
) -> None:
    lowest, highest = possible
    # Every comparison with NaN is false: `value < lowest` would let it through.
    if strange := sum(not lowest <= value <= highest for value in values):
        raise NoEvidence(
            f"{strange} of {len(values)} items have a score {score} on {whose} that is not within "
            f"{lowest:g} to {highest:g}; a limit's `range` says what is possible"
        )


def _range(claim: Claim) -> tuple[float, float]:
    if claim.limit.range is not None:
        return claim.limit.range
    if claim.limit.metric == "penalized_score":
        # A wrong answer costs t / (1 - t), so that answering pays from a confidence of t on.
        threshold = claim.case.suite.settings(claim.task).penalty_threshold
        return -threshold / (1 - threshold), 1.0
    return 0.0, 1.0
