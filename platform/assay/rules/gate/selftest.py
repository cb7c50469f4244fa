"""The gate, tested on itself: models of known quality are made from stored answers, and decided
many times.

Each draw takes the task's clusters of items anew, with replacement, so that it stands for other
questions of the same kind. A model of known quality comes from replacing answers, each with the
same probability, by the worst (or the best) that a score can be. A model as good as the one it is
compared with comes from exchanging the two, cluster by cluster, by the toss of a coin. Every draw
is decided by the code that decides a release.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

from assay.records.evaluations.selftest import LimitSelftest, Outcomes, Planted, Rate
from assay.records.gate import Evaluation, LimitResult, Outcome, Sample, TaskResult
from assay.rules.gate.attempts import corrected_confidence
from assay.rules.gate.evidence import LOWER_IS_BETTER
from assay.rules.gate.verdict import evaluate_limits, overall
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.spec.gate import Limit, SuiteSpec
from assay.spec.values.metrics import CORPUS_WIDE, RIGHT

if TYPE_CHECKING:
    from numpy.random import Generator

# Shares of answers that are spoilt, from none to nearly every second.
SPOILT = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)

# Of each bound of a rate. A suite's self-test has some ten rates, and should not be alarmed by
# chance.
RATE_CONFIDENCE = 0.995

# A model that is good enough should pass in this share of the draws.
WANTED_POWER = 0.8

Scores = dict[str, float]


def selftest_limits(
    suite: SuiteSpec, candidate: Evaluation, base: Evaluation | None, *, draws: int, seed: int
) -> tuple[LimitSelftest, ...]:
    """Every limit of the suite on its own, in its order. The same seed gives the same rates. A
    comparison with the champion is tested on the base model's answers."""
    results: list[LimitSelftest] = []
    for task, limits in suite.limits.items():
        for limit in limits:
            stored = _Stored.of(suite, task, limit, candidate, base)
            # A seed of its own for each limit: one more limit leaves the others' rates as they are.
            results.append(_selftest_limit(stored, draws, (seed, len(results))))
    return tuple(results)


def selftest_suite(
    suite: SuiteSpec, candidate: Evaluation, base: Evaluation | None, *, draws: int, seed: int
) -> tuple[Planted, ...]:
    """The verdict of the whole suite on the candidate when a share of all its answers is spoilt."""
    stored = []
    for name, limits in suite.limits.items():
        stored.append(_Stored.of(suite, name, limits[0], candidate, base))

    def decide(corrupted: float, rng: "Generator") -> Outcome:
        firsts, seconds = [], []
        for task in stored:
            worst: Scores = {}
            for limit in suite.limits[task.name]:
                worst |= task.extreme(limit, worst=True)
            first, second = task.draw(rng, shift=corrupted, towards=worst)
            firsts.append(first)
            seconds.append(second)
        ours = _evaluation(candidate, firsts)
        other = _evaluation(base, seconds) if base else None
        confidence = corrected_confidence(suite)
        return overall(evaluate_limits(suite, ours, other, other, confidence=confidence))

    planted = []
    for corrupted in SPOILT:
        rng = _generator(seed, round(1000 * corrupted))
        outcomes = [decide(corrupted, rng) for _ in range(draws)]
        planted.append(_planted(corrupted, _outcomes(outcomes)))
    return tuple(planted)


def faults_of(limits: Sequence[LimitSelftest]) -> tuple[str, ...]:
    """Every missed promise, with the limit that misses it."""
    found = []
    for limit in limits:
        name = f"{limit.task} {limit.metric} {limit.requirement}"
        found += [f"{name}: {fault}" for fault in limit.faults]
    return tuple(found)


class _Drawn(NamedTuple):
    """What a decision reads of an item: thousands are made, and a full record would take most of
    the time."""

    id: str
    scores: Scores
    cluster: str | None
    error: None = None
    slices: Mapping[str, str] = MappingProxyType({})
    unscored: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class _Stored:
    """One limit's task with the answers that are drawn from."""

    suite: SuiteSpec
    name: str
    limit: Limit
    digest: str
    lower_is_better: tuple[str, ...]
    ours: tuple[Sample, ...]
    theirs: tuple[Sample, ...]
    """The base model's answers in the order of `ours`; the candidate's own where there is no
    base."""
    clusters: tuple[tuple[int, ...], ...]
    candidate: Evaluation
    base: Evaluation | None

    @classmethod
    def of(
        cls,
        suite: SuiteSpec,
        task: str,
        limit: Limit,
        candidate: Evaluation,
        base: Evaluation | None,
    ) -> "_Stored":
        result = candidate.results_of(task)[0]
        ours = {item.id: item for item in result.answered}
        theirs = ours
        if base:
            theirs = _answered(base, task)
            # A pair takes an answer on both sides.
            ours = {key: item for key, item in ours.items() if key in theirs}
        return cls(
            suite,
            task,
            limit,
            result.digest,
            result.lower_is_better,
            tuple(ours.values()),
            tuple(theirs[key] for key in ours),
            _clusters(list(ours.values())),
            candidate,
            base,
        )

    def draw(
        self,
        rng: "Generator",
        *,
        shift: float = 0.0,
        towards: Mapping[str, float] | None = None,
        equal: bool = False,
    ) -> tuple[TaskResult, TaskResult]:
        """Other questions of this kind, answered by a model of which a share `shift` of the answers
        has the scores `towards`, and by the one it is compared with. `equal` makes both as good as
        each other beforehand."""
        chosen = rng.integers(len(self.clusters), size=len(self.clusters)).tolist()
        exchanged = [False] * len(chosen)
        if equal:
            exchanged = (rng.random(len(chosen)) < 0.5).tolist()
        pairs = []
        for place, (number, exchange) in enumerate(zip(chosen, exchanged, strict=True)):
            for index in self.clusters[number]:
                first, second = self.ours[index], self.theirs[index]
                if exchange:
                    first, second = second, first
                # A cluster that is drawn twice counts as two: other questions of the same kind.
                cluster = None if first.cluster is None else str(place)
                pairs.append((first, second, cluster))
        replaced = rng.random(len(pairs)) < shift
        ours, theirs = [], []
        for number, (first, second, cluster) in enumerate(pairs):
            name, scores = str(number), first.scores
            if replaced[number]:
                scores = {**scores, **(towards or {})}
            ours.append(_Drawn(name, scores, cluster))
            theirs.append(_Drawn(name, second.scores, cluster))
        return self._result(ours), self._result(theirs)

    def as_evaluated(self) -> tuple[TaskResult, TaskResult]:
        """The stored answers as they are."""
        return self._result(self.ours), self._result(self.theirs)

    def decide(self, sides: tuple[TaskResult, TaskResult]) -> LimitResult:
        """What the gate says of the limit alone."""
        alone = self.suite.model_copy(
            update={"limits": {self.name: (self.limit,)}, "improvements": "all"}
        )
        other = None
        if self.base and self.limit.reference:
            other = _evaluation(self.base, [sides[1]])
        ours = _evaluation(self.candidate, [sides[0]])
        # The suite's own correction, although the limit is alone here: a release is decided so.
        confidence = corrected_confidence(self.suite)
        (result,) = evaluate_limits(alone, ours, other, other, confidence=confidence)
        return result

    def extreme(self, limit: Limit, *, worst: bool) -> Scores:
        """The worst, or the best, that an answer can be in the sense of a limit's metric."""
        # Whatever the metric is, its score moves from the good end to the bad one.
        bad, good = 0.0, 1.0
        if not worst:
            bad, good = good, bad
        if limit.metric == "hallucination_rate":
            return {"abstained": bad}
        if limit.metric == "over_abstention":
            return {"abstained": good}
        if limit.metric == "ece":
            known = [name for name in RIGHT if name in self.ours[0].scores]
            right = known[0] if known else "exact_match"
            return {"confidence": 1.0, right: bad}
        if limit.metric == "macro_f1":
            return {"exact_match": bad}
        low, high = self._range(limit)
        lower_is_better = limit.metric in LOWER_IS_BETTER or limit.metric in self.lower_is_better
        return {limit.metric: high if worst == lower_is_better else low}

    def mean(self, items: Sequence[Sample]) -> float:
        """The mean of the score that the limit's metric is made of."""
        (name,) = self.extreme(self.limit, worst=True)
        return sum(item.scores.get(name, 0.0) for item in items) / len(items)

    def _range(self, limit: Limit) -> tuple[float, float]:
        if limit.range is not None:
            return limit.range
        if limit.metric == "penalized_score":
            t = self.suite.settings(self.name).penalty_threshold
            return -t / (1 - t), 1.0
        return 0.0, 1.0

    def _result(self, items: Sequence["Sample | _Drawn"]) -> TaskResult:
        drawn = cast("tuple[Sample, ...]", tuple(items))
        # Without validation: thousands are made.
        return TaskResult.model_construct(
            task=self.name, digest=self.digest, items=drawn, lower_is_better=self.lower_is_better
        )


def _selftest_limit(stored: _Stored, draws: int, seed: tuple[int, int]) -> LimitSelftest:
    limit, worst = stored.limit, stored.extreme(stored.limit, worst=True)

    def rates(
        number: int, make: Callable[["Generator"], tuple[TaskResult, TaskResult]]
    ) -> Outcomes:
        rng = _generator(*seed, number)
        return _outcomes([stored.decide(make(rng)).outcome for _ in range(draws)])

    on_limit = equal = None
    if (way := _onto_limit(stored)) is not None:
        shift, towards = way
        compared = limit.reference is not None
        on_limit = rates(0, partial(stored.draw, shift=shift, towards=towards, equal=compared))
    if limit.reference is not None:
        equal = rates(1, partial(stored.draw, equal=True))
    planted = []
    for number, corrupted in enumerate(SPOILT, start=2):
        draw = partial(stored.draw, shift=corrupted, towards=worst)
        planted.append(_planted(corrupted, rates(number, draw)))
    result = stored.decide(stored.as_evaluated())
    return LimitSelftest(
        task=stored.name,
        metric=limit.metric,
        requirement=result.requirement,
        on_limit=on_limit,
        equal=equal,
        planted=tuple(planted),
        faults=_faults(stored, result.outcome, on_limit, equal, planted),
    )


def _answered(evaluation: Evaluation, task: str) -> dict[str, Sample]:
    """The samples of a task that have an answer, by their ids."""
    answered: dict[str, Sample] = {}
    for result in evaluation.results_of(task):
        answered |= {item.id: item for item in result.answered}
    return answered


def _clusters(items: Sequence[Sample]) -> tuple[tuple[int, ...], ...]:
    """The places of the samples that are evidence only together."""
    members: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        cluster = item.id if item.cluster is None else f"cluster {item.cluster}"
        members.setdefault(cluster, []).append(index)
    return tuple(tuple(places) for places in members.values())


def _onto_limit(stored: _Stored) -> tuple[float, Scores] | None:
    """The share of answers to replace, and by what, for a model that lies exactly on the limit.
    None where no such model can be made, or where every model meets the limit."""
    limit = stored.limit
    if limit.metric in CORPUS_WIDE or (limit.reference is not None and stored.base is None):
        return None
    to_worst, to_best = stored.extreme(limit, worst=True), stored.extreme(limit, worst=False)
    (worst,), (best,) = to_worst.values(), to_best.values()
    if limit.reference is not None:
        # Both answer alike to begin with, see `draw`, so each has the mean of the two.
        mean = (stored.mean(stored.ours) + stored.mean(stored.theirs)) / 2
        towards, room = to_best, abs(best - mean)
        if limit.no_worse_than:
            towards, room = to_worst, abs(mean - worst)
        margin = limit.margin or 0.0
        if room < margin:
            return None
        # Without a margin there may be no room either, and nothing to replace.
        return (margin / room if margin else 0.0), towards
    threshold = limit.at_most if limit.at_least is None else limit.at_least
    assert threshold is not None  # the suite sees to it
    # It is counted from the abstentions, of which more is better.
    wanted = 1 - threshold if limit.metric == "hallucination_rate" else threshold
    if wanted in (worst, best):
        return None
    mean = stored.mean(stored.ours)
    if abs(mean - best) <= abs(wanted - best):
        return abs(mean - wanted) / abs(mean - worst), to_worst
    return abs(wanted - mean) / abs(best - mean), to_best


def _faults(
    stored: _Stored,
    outcome: Outcome,
    on_limit: Outcomes | None,
    equal: Outcomes | None,
    planted: Sequence[Planted],
) -> tuple[str, ...]:
    """What is promised and not kept. A rate misses its promise when its whole interval does."""
    promised, limit = 1 - corrected_confidence(stored.suite), stored.limit
    found = []
    if on_limit and on_limit.passes.lower > promised:
        found.append(
            f"a model exactly on the limit passes in {on_limit.passes.share:.1%} of the draws, not "
            f"{promised:.1%}"
        )
    if on_limit and on_limit.fails.lower > promised:
        found.append(
            f"a model exactly on the limit fails in {on_limit.fails.share:.1%} of the draws, not "
            f"{promised:.1%}"
        )
    if equal and limit.no_worse_than and equal.fails.lower > promised:
        found.append(
            f"a model that is no worse fails in {equal.fails.share:.1%} of the draws, not "
            f"{promised:.1%}"
        )
    if equal and limit.no_worse_than and equal.passes.upper < WANTED_POWER:
        few = f"a model that is no worse passes in only {equal.passes.share:.1%} of the draws"
        found.append(
            f"{few}; it takes more items, a wider margin, or a `floor` where the base model is weak"
        )
    if outcome == "PASS" and planted[0].passes.upper < WANTED_POWER:
        few = (
            f"a model as good as this one passes in only {planted[0].passes.share:.1%} of the draws"
        )
        found.append(f"{few}; the task wants more items")
    return tuple(found)


def _outcomes(found: Sequence[Outcome]) -> Outcomes:
    return Outcomes(
        passes=_rate(found.count("PASS"), len(found)), fails=_rate(found.count("FAIL"), len(found))
    )


def _planted(corrupted: float, outcomes: Outcomes) -> Planted:
    return Planted(corrupted=corrupted, passes=outcomes.passes, fails=outcomes.fails)


def _rate(count: int, draws: int) -> Rate:
    return Rate(
        count=count,
        draws=draws,
        lower=clopper_pearson_lower(count, draws, RATE_CONFIDENCE),
        upper=clopper_pearson_upper(count, draws, RATE_CONFIDENCE),
    )


def _evaluation(evaluation: Evaluation, tasks: Sequence[TaskResult]) -> Evaluation:
    return Evaluation.model_construct(
        artifact_digest=evaluation.artifact_digest,
        model_name=evaluation.model_name,
        tasks=tuple(tasks),
        seconds=0.0,
    )


def _generator(*seed: int) -> "Generator":
    from numpy.random import default_rng

    return default_rng(seed)
