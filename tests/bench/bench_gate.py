"""How often the gate lets through what it should not: 10,000 draws at the margin for every method
that it offers, and a sweep of trials of which none is better. Exits with 1 when an error rate is
shown to be above 5 %.

Each candidate drawn here is exactly as bad as a limit just forbids, so every pass is a false one.
`python bench_gate.py [DRAWS]`; numpy and scipy alone, some two minutes on one core.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from assay.engines.evaluation.harness import block_size
from assay.rules.statistics.calibration import calibration_bounds
from assay.rules.statistics.means import mean_p
from assay.rules.statistics.paired import MOST_EXACT, paired_p
from assay.rules.statistics.power import smallest_detectable, smallest_detectable_difference
from assay.rules.statistics.proportions import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    tango_score,
)
from assay.rules.statistics.quantiles import quantile_upper

ALPHA, CONFIDENCE = 0.05, 0.95
SIZES = (50, 200, 1000)
MARGIN = 0.05
NUM_TRIALS = 16
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Row(NamedTuple):
    """One simulation."""

    method: str
    case: str
    n: int
    passes: int
    draws: int
    is_offered: bool = True
    """Whether the gate decides by it; the others are shown beside."""
    exact: float | None = None
    """The same for all possible results, each with its chance, where these can be added up."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("draws", type=int, nargs="?", default=10_000, help="of each simulation")
    draws = parser.parse_args().draws
    random, began, missed = np.random.default_rng(2026), time.monotonic(), 0
    print(
        f"false passes at the margin, {draws} draws, of candidates that must not pass; allowed "
        "5.0%\n"
    )
    print(f"{'method':<34}{'case':<44}{'n':>6}{'passed':>9}  {'95% interval':<16}{'exact':>8}")
    for simulate in (
        shares,
        pairs,
        scores,
        clusters,
        calibration,
        percentiles,
        attempts,
        families,
        sweeps,
    ):
        for row in simulate(draws, random):
            low = clopper_pearson_lower(row.passes, row.draws, 0.975)
            high = clopper_pearson_upper(row.passes, row.draws, 0.975)
            verdict = ""
            if row.is_offered and (low > ALPHA or (row.exact or 0.0) > ALPHA):
                missed, verdict = missed + 1, "  MISSED"
            elif not row.is_offered:
                verdict = "  (not offered)"
            share = row.passes / row.draws
            exact = "" if row.exact is None else f"{row.exact:.2%}"
            seen = f"{share:>9.2%}  {f'{low:.2%} to {high:.2%}':<16}{exact:>8}"
            print(f"{row.method:<34}{row.case:<44}{row.n:>6}{seen}{verdict}", flush=True)
    print_power()
    print_curtailment(random)
    print(f"\n{missed} bars missed, {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


def print_power() -> None:
    """How good a model must be for the gate to pass it 8 times in 10."""
    print("\nwhat passes 8 times in 10")
    for n in SIZES[:2]:
        rate = smallest_detectable(n, 0.85, CONFIDENCE, direction="at_least")
        shown = f"a true share of {rate:.1%}" if rate else "nothing"
        print(f"  {n:>4} items, at_least 85%: {shown}")
        for discordant in (0.1, 0.2):
            difference = smallest_detectable_difference(n, MARGIN, discordant, CONFIDENCE)
            shown = (
                "nothing"
                if difference is None
                else f"a true difference of {100 * difference:+.1f} points"
            )
            print(
                f"  {n:>4} pairs, margin {MARGIN:.0%}, {discordant:.0%} of the items differ: "
                f"{shown}"
            )


def print_curtailment(random: np.random.Generator, draws: int = 2000) -> None:
    """How many of its items a task with `stop_early` asks, on average, in blocks as the gate makes
    them."""
    print("\nwhat `stop_early` asks of `at_least 80%`, by the true share")
    for n in SIZES:
        passing = np.array([clopper_pearson_lower(k, n, CONFIDENCE) >= 0.8 for k in range(n + 1)])
        failing = np.array([clopper_pearson_upper(k, n, CONFIDENCE) < 0.8 for k in range(n + 1)])
        outcomes = np.where(passing, 1, np.where(failing, -1, 0))
        looks = np.arange(block := block_size(n, 16), n + block, block).clip(max=n)
        shown = []
        for share in (0.5, 0.7, 0.8, 0.9, 0.97):
            right = (random.random((draws, n)) < share).cumsum(axis=1)[:, looks - 1]
            settled = outcomes[right] == outcomes[right + n - looks]
            shown.append(f"{share:.0%}: {looks[settled.argmax(axis=1)].mean() / n:.0%}")
        print(f"  {n:>4} items   {'   '.join(shown)}")


def shares(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """`at_least` and `at_most` of a share, at the share that the limit names."""
    for n in SIZES:
        for limit, kind in ((0.85, "at_least 85%"), (0.05, "at_most 5%")):
            counts = random.binomial(n, limit, draws)
            if kind.startswith("at_least"):
                passes = np.array(
                    [clopper_pearson_lower(k, n, CONFIDENCE) >= limit for k in range(n + 1)]
                )
            else:
                passes = np.array(
                    [clopper_pearson_upper(k, n, CONFIDENCE) <= limit for k in range(n + 1)]
                )
            exact = float(binom.pmf(np.flatnonzero(passes), n, limit).sum())
            yield Row("Clopper-Pearson", kind, n, int(passes[counts].sum()), draws, exact=exact)


def pairs(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """`no_worse_than` for items that are right or wrong; few and many items on which the models
    differ."""
    methods: list[tuple[str, bool, Callable[[int, int, int], bool]]] = [
        ("exact, ordered by Tango's score", True, passes_pairs),
        ("Tango's score alone", False, lambda b, c, n: tango_score(b, c, n, -MARGIN) >= 1.6449),
        ("Wald", False, lambda b, c, n: wald_lower(b, c, n) >= -MARGIN),
    ]
    for n in SIZES:
        for discordant in (MARGIN, 0.08, 0.3):
            gain, loss = (discordant - MARGIN) / 2, (discordant + MARGIN) / 2
            table = random.multinomial(n, [gain, loss, 1 - gain - loss], draws)
            for name, is_offered, rule in methods:
                if is_offered or n == 50:
                    case = f"margin {MARGIN:.0%}, {discordant:.0%} of the items differ"
                    count, exact = passed(table, n, gain, loss, rule)
                    yield Row(name, case, n, count, draws, is_offered, exact)


def passed(
    table: Ints, n: int, gain: float, loss: float, rule: Callable[[int, int, int], bool]
) -> tuple[int, float]:
    """How many results pass, and what share of all possible ones: each number of losses has a
    fewest of gains."""
    fewest, least = [], 0
    losses = np.arange(max(int(table[:, 1].max()), int(binom.ppf(1 - 1e-9, n, loss))) + 1)
    for c in losses:  # more losses take more gains
        while least + c <= n and not rule(least, int(c), n):
            least += 1
        fewest.append(least)
    gains = np.array(fewest)
    chance = binom.pmf(losses, n, loss) * binom.sf(gains - 1, n - losses, gain / (1 - loss))
    return int((table[:, 0] >= gains[table[:, 1]]).sum()), float(chance.sum())


@cache
def passes_pairs(b: int, c: int, n: int) -> bool:
    assert n <= MOST_EXACT
    return paired_p(b, c, n, -MARGIN) <= ALPHA


def wald_lower(b: int, c: int, n: int) -> float:
    difference = (b - c) / n
    return float(difference - 1.6449 * np.sqrt(max(0.0, (b + c) / n - difference**2) / n))


def scores(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """`no_worse_than` for scores: differences with a mean of exactly -margin."""
    shapes: list[tuple[str, Callable[[int], Floats]]] = [
        ("rare, total losses", lambda n: -(random.random(n) < MARGIN).astype(float)),
        (
            "beta(8, 2) scores, 5 points lower",
            lambda n: random.beta(8, 2, n) - random.beta(8, 2, n) - MARGIN,
        ),
    ]
    for n in SIZES:
        for shape, draw in shapes:
            p_values = [
                mean_p(draw(n).clip(-1, 1).tolist(), None, -MARGIN, lowest=-1, highest=1)
                for _ in range(draws)
            ]
            yield Row("paired t and Gaffke", shape, n, sum(p <= ALPHA for p in p_values), draws)


def clusters(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """The same for items of a common source, which go wrong together; and if they were taken for
    independent."""
    for n, size in ((50, 5), (200, 10)):
        names = [index // size for index in range(n)]
        found = naive = 0
        for _ in range(draws):
            common = np.repeat(random.normal(0, 0.15, n // size), size)
            differences = (common + random.normal(-MARGIN, 0.15, n)).clip(-1, 1).tolist()
            found += mean_p(differences, names, -MARGIN, lowest=-1, highest=1) <= ALPHA
            naive += mean_p(differences, None, -MARGIN, lowest=-1, highest=1) <= ALPHA
        case = f"{n // size} sources of {size} items"
        yield Row("paired clustered t and Gaffke", case, n, found, draws)
        yield Row("the same, clusters ignored", case, n, naive, draws, is_offered=False)


def calibration(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """`at_most` of the expected calibration error; fewer draws, for each takes a bound."""
    fewer = max(1, draws // 10)
    for n in SIZES:
        found = 0
        for _ in range(fewer):
            sure = np.repeat([0.55, 0.95], n // 2)
            right = (random.random(n) < sure - 0.10).astype(float)
            found += (
                calibration_bounds(sure.tolist(), right.tolist(), None, CONFIDENCE).upper <= 0.10
            )
        yield Row("signed calibration gaps", "ece at_most 10%, off by 10 points", n, found, fewer)


def percentiles(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """`at_most` of a percentile of waiting times."""
    for n in SIZES[1:]:
        limit = float(-np.log(0.05))
        found = sum(
            quantile_upper(random.exponential(1, n).tolist(), 0.95, CONFIDENCE) <= limit
            for _ in range(draws)
        )
        yield Row("order statistics", "ttft_p95 at its limit", n, found, draws)


def attempts(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """Five candidates one after the other on the same items: whether any of them passes."""
    n, budget, limit = 200, 5, 0.85
    counts = random.binomial(n, limit, (draws, budget))
    for corrected in (True, False):
        at = 1 - ALPHA / budget if corrected else CONFIDENCE
        passes = np.array([clopper_pearson_lower(k, n, at) >= limit for k in range(n + 1)])
        name = "attempts: 5, corrected" if corrected else "attempts: 5, uncorrected"
        yield Row(
            name,
            "any of 5 candidates at_least 85%",
            n,
            int(passes[counts].any(axis=1).sum()),
            draws,
            corrected,
        )


def families(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """`improvements: any` over four tasks, in none of which the candidate is better."""
    n, num_tasks = 200, 4
    table = random.multinomial(n, [0.1, 0.1, 0.8], (draws, num_tasks))
    p_values = {
        (b, c): paired_p(b, c, n, 0.0)
        for b, c in {(int(b), int(c)) for b, c, _ in table.reshape(-1, 3)}
    }
    smallest = np.array([min(p_values[int(b), int(c)] for b, c, _ in tasks) for tasks in table])
    yield Row(
        "Holm over 4 tasks",
        "any better_than, none is",
        n,
        int((smallest <= ALPHA / num_tasks).sum()),
        draws,
    )
    yield Row(
        "no correction",
        "any better_than, none is",
        n,
        int((smallest <= ALPHA).sum()),
        draws,
        is_offered=False,
    )


def sweeps(draws: int, random: np.random.Generator) -> Iterator[Row]:
    """The best of 16 trials on the selection split goes to the gate; none is better than the base
    model."""
    n = 200
    found = {"sealed": 0, "selection": 0}
    for _ in range(draws):
        right = {split: random.random((NUM_TRIALS + 1, n)) < 0.7 for split in found}
        best = 1 + int(right["selection"][1:].sum(axis=1).argmax())
        for split, answers in right.items():
            gains = int((answers[best] & ~answers[0]).sum())
            losses = int((answers[0] & ~answers[best]).sum())
            found[split] += is_better(gains, losses, n)
    case = f"best of {NUM_TRIALS} trials, better_than base"
    yield Row("gate on the sealed split", case, n, found["sealed"], draws)
    yield Row("gate on the selection split", case, n, found["selection"], draws, is_offered=False)


@cache
def is_better(gains: int, losses: int, n: int) -> bool:
    return gains > losses and paired_p(gains, losses, n, 0.0) <= ALPHA


if __name__ == "__main__":
    sys.exit(main())
