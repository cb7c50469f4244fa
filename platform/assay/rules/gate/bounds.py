"""How far what was seen can be trusted: bounds of a share, a score, or a difference of two."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from assay.records.gate import SliceResult
from assay.rules.gate.answers import is_right
from assay.rules.gate.evidence import Claim, NoEvidence, Pair, Scored
from assay.rules.statistics.calibration import calibration_bounds
from assay.rules.statistics.macro_f1 import macro_f1_bounds
from assay.rules.statistics.means import items_needed_for_mean, mean_bounds
from assay.rules.statistics.paired import paired_lower
from assay.rules.statistics.power import pairs_needed
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.spec.values.metrics import RIGHT
from assay.text import normalized, without_punctuation

End = Literal["lower", "upper"]


@dataclass(frozen=True)
class Bounds:
    """What was seen of a share, a score or a difference, and how far it can be trusted."""

    observed: float
    lower: float
    upper: float
    method: str
    seen: str
    """In words, such as `87 of 90 items`."""
    num_clusters: int | None = None
    unit: Literal["share", "score"] = "score"

    def end(self, which: End) -> float:
        """The lower or the upper bound."""
        if which == "lower":
            return self.lower
        return self.upper


def score_bounds(claim: Claim, scored: Scored) -> Bounds:
    """Of what a limit's metric came to on one model, by the method that the metric takes."""
    if claim.limit.metric == "ece":
        return _ece_bounds(claim, scored)
    if claim.limit.metric == "macro_f1":
        return _macro_f1_bounds(claim, scored)
    return bounds_of(scored, claim.confidence)


def bounds_of(scored: Scored, confidence: float) -> Bounds:
    """Of a share by Clopper and Pearson, of any other mean by `rules.statistics.means`."""
    n = len(scored.values)
    if scored.is_share:
        k = round(scored.total)
        return Bounds(
            k / n,
            clopper_pearson_lower(k, n, confidence),
            clopper_pearson_upper(k, n, confidence),
            "Clopper-Pearson",
            f"{k} of {n} items",
            unit="share",
        )
    found = mean_bounds(
        list(scored.values.values()),
        [scored.clusters[item] for item in scored.values],
        confidence,
        lowest=scored.lowest,
        highest=scored.highest,
    )
    seen, method, num_clusters = f"mean {found.mean:.3f} of {n} items", "t and Gaffke", None
    if found.num_clusters < n:
        num_clusters = found.num_clusters
        seen += f" in {num_clusters} clusters"
        method = f"clustered {method}"
    return Bounds(found.mean, found.lower, found.upper, method, seen, num_clusters)


def difference_bounds(pair: Pair, confidence: float) -> Bounds:
    """Of the difference, candidate minus reference: exact for shares, by paired scores
    otherwise."""
    if pair.are_shares:
        return _difference_of_shares(pair, confidence)
    ours, theirs = pair.ours, pair.theirs
    n, differences = len(ours.values), pair.differences
    # Two scores of one range are at most the whole range apart, in either direction.
    widest = ours.highest - ours.lowest
    found = mean_bounds(
        list(differences.values()),
        [ours.clusters[item] for item in differences],
        confidence,
        lowest=-widest,
        highest=widest,
    )
    seen = f"mean {ours.mean:.3f} of {n} items, {pair.name} {theirs.mean:.3f}"
    method, num_clusters = "paired t and Gaffke", None
    if found.num_clusters < n:
        num_clusters = found.num_clusters
        seen += f", in {num_clusters} clusters"
        method = "paired clustered t and Gaffke"
    return Bounds(found.mean, found.lower, found.upper, method, seen, num_clusters)


def pairs_wanted(pair: Pair, bounds: Bounds, wanted: float, confidence: float) -> int | None:
    """How many samples would show a difference of `wanted`, better side up; None where none
    would."""
    n = len(pair.ours.values)
    if pair.are_shares:
        better, worse = pair.better_and_worse
        return pairs_needed(better, worse, n, -wanted, confidence)
    if pair.ours.lower_is_better:
        return items_needed_for_mean(n, -bounds.observed, -bounds.upper, wanted)
    return items_needed_for_mean(n, bounds.observed, bounds.lower, wanted)


def slices(claim: Claim, scored: Scored) -> tuple[SliceResult, ...]:
    """The same bounds for each part of the samples."""
    items = claim.case.samples(claim.task)
    found = []
    members: dict[tuple[str, str], list[str]] = {}
    for item in items:
        for field, value in item.slices.items():
            members.setdefault((field, value), []).append(item.id)
    for (field, value), ids in sorted(members.items()):
        bounds = bounds_of(scored.part(ids), claim.confidence)
        part = SliceResult(
            field=field,
            value=value,
            num_items=len(ids),
            observed=bounds.observed,
            lower=bounds.lower,
            upper=bounds.upper,
        )
        found.append(part)
    return tuple(found)


def _difference_of_shares(pair: Pair, confidence: float) -> Bounds:
    n, name = len(pair.ours.values), pair.name
    differences = Counter(pair.differences.values())
    more, fewer = differences[1], differences[-1]
    better, worse = pair.better_and_worse
    seen = (
        f"{pair.ours.total:g} of {n} items, {name} {pair.theirs.total:g} "
        f"({better} better, {worse} worse)"
    )
    # The upper bound of a difference is the lower bound of its opposite, turned round.
    lower = paired_lower(more, fewer, n, confidence)
    upper = -paired_lower(fewer, more, n, confidence)
    method = "exact, ordered by Tango's score"
    return Bounds((more - fewer) / n, lower, upper, method, seen, unit="share")


def _ece_bounds(claim: Claim, scored: Scored) -> Bounds:
    """Of the expected calibration error, from each item's confidence and whether it was right."""
    items = claim.case.samples(claim.task)
    rights = []
    for item in items:
        right = is_right(item)
        if right is not None:
            rights.append(right)
    if len(rights) < len(items):
        raise NoEvidence(
            f"nothing says which items are right: there is no score {' or '.join(RIGHT)}"
        )
    clusters = [scored.clusters[item.id] for item in items]
    found = calibration_bounds(list(scored.values.values()), rights, clusters, claim.confidence)
    seen = (
        f"{sum(rights):g} of {len(items)} items right, with a mean confidence of {scored.mean:.1%}"
    )
    method = "signed calibration gaps, t and Gaffke"
    return Bounds(found.mean, found.lower, found.upper, method, seen)


def _macro_f1_bounds(claim: Claim, scored: Scored) -> Bounds:
    """Of the mean F1 over the classes. A right answer is its target, whatever its case and marks;
    any other is a class by its own wording, so that what is no class at all counts as one that is
    never right."""
    items = claim.case.samples(claim.task)
    if any(scored.clusters[item.id] != item.id for item in items):
        raise NoEvidence(
            "macro_f1 has bounds where every sample stands for itself; take cluster_by out"
        )
    targets, answers = [], []
    for item in items:
        target = _class(item.target)
        targets.append(target)
        is_target = scored.values[item.id] == 1
        answers.append(target if is_target else _class(item.response))
    found = macro_f1_bounds(targets, answers, claim.confidence)
    seen = (
        f"a mean F1 of {found.observed:.1%} over {found.num_classes} classes in {len(items)} "
        "samples"
    )
    method = "Clopper and Pearson for each class"
    return Bounds(found.observed, found.lower, found.upper, method, seen)


def _class(text: str) -> str:
    return without_punctuation(normalized(text)).casefold().strip()
