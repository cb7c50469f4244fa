import random
from pathlib import Path

import pytest

from assay.records.gate import Sample
from assay.reporting.document import newest_selftest, report, summary
from assay.reporting.html import render
from assay.rules.gate.selftest import selftest_limits, selftest_suite
from assay.spec.gate import SuiteSpec
from assay.store.ledger import Ledger
from evaluations import decide, evaluation, items, settings_in, write


def suite(*limits: dict[str, object], **said: object) -> SuiteSpec:
    return SuiteSpec.model_validate({"limits": {"facts": list(limits)}, **said})


def shuffled(rights: int, n: int, seed: int = 0) -> list[float]:
    marks = [1.0] * rights + [0.0] * (n - rights)
    random.Random(seed).shuffle(marks)
    return marks


def answers(marks: list[float], cluster_size: int = 1, model: str = "candidate"):  # type: ignore[no-untyped-def]
    return evaluation(model, {"facts": items(marks, cluster_size=cluster_size)})


def test_a_sound_limit_keeps_its_promises() -> None:
    (limit,) = selftest_limits(
        suite({"at_least": 0.8}), answers(shuffled(95, 100)), None, draws=400, seed=1
    )
    assert limit.faults == ()
    assert limit.equal is None
    assert limit.on_limit is not None
    assert limit.on_limit.passes.share <= 0.08  # 5% are promised; the draws are 400
    assert limit.on_limit.fails.share <= 0.08
    passes = [point.passes.share for point in limit.planted]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] > 0.9
    assert passes[-1] == 0.0, "with two in five answers spoilt nothing passes"


def test_a_sound_comparison_keeps_its_promises() -> None:
    ours, base = answers(shuffled(38, 40, 1)), answers(shuffled(38, 40, 2), model="base")
    wanted = suite({"no_worse_than": "base", "margin": 0.25})
    (limit,) = selftest_limits(wanted, ours, base, draws=100, seed=2)
    assert limit.faults == ()
    assert limit.on_limit is not None
    assert limit.equal is not None
    assert limit.on_limit.passes.share <= 0.12  # 5% are promised; the draws are 100
    assert limit.equal.fails.share <= 0.05
    assert limit.equal.passes.share > 0.8
    assert limit.planted[-1].passes.share < limit.planted[0].passes.share


def test_the_same_seed_gives_the_same_rates() -> None:
    wanted, ours = suite({"at_least": 0.8}), answers(shuffled(90, 100))
    first = selftest_limits(wanted, ours, None, draws=100, seed=7)
    assert selftest_limits(wanted, ours, None, draws=100, seed=7) == first
    assert selftest_limits(wanted, ours, None, draws=100, seed=8) != first


def test_too_few_items_are_told_before_they_disappoint() -> None:
    wanted = suite({"no_worse_than": "base", "margin": 0.05})
    ours, base = answers(shuffled(21, 30, 1)), answers(shuffled(21, 30, 2), model="base")
    (limit,) = selftest_limits(wanted, ours, base, draws=100, seed=1)
    assert limit.equal is not None
    assert limit.equal.passes.upper < 0.8
    assert "it takes more items, a wider margin" in limit.faults[0]


def test_items_that_hang_together_are_found_out_where_nobody_said_so() -> None:
    # Ten copies of each answer. Counted as 300 items on their own, a model on the limit passes far
    # too often; with their clusters said, the bounds reckon with it.
    marks = [mark for mark in shuffled(24, 30) for _ in range(10)]
    clustered = items(marks, cluster_size=10)
    (honest,) = selftest_limits(
        suite({"at_least": 0.8}), evaluation("a", {"facts": clustered}), None, draws=100, seed=1
    )
    assert honest.on_limit is not None
    assert honest.on_limit.passes.lower <= 0.05


@pytest.mark.parametrize(
    ("limit", "scores", "on_limit"),
    [
        ({"metric": "hallucination_rate", "at_most": 0.1}, "abstained", True),
        ({"metric": "over_abstention", "at_most": 0.1}, "abstained", True),
        ({"metric": "brier", "at_most": 0.3}, "brier", True),
        ({"metric": "penalized_score", "at_least": 0.2}, "penalized_score", True),
        ({"metric": "exact_match", "at_least": 0.0}, "exact_match", False),  # every model is on it
        (
            {"no_worse_than": "base", "margin": 0.6},
            "exact_match",
            False,
        ),  # nothing can be that much worse
    ],
)
def test_every_kind_of_metric_can_be_spoilt(
    limit: dict[str, object], scores: str, on_limit: bool
) -> None:
    marks = shuffled(20, 40)
    found = tuple(
        Sample(id=str(i), prompt="", target="", response="", scores={scores: m})
        for i, m in enumerate(marks)
    )
    model, base = evaluation("a", {"facts": found}), evaluation("b", {"facts": found})
    (tested,) = selftest_limits(suite(limit), model, base, draws=100, seed=1)
    assert (tested.on_limit is not None) == on_limit
    if tested.on_limit:
        assert tested.on_limit.passes.share <= 0.12
    if tested.metric not in ("exact_match",):
        assert tested.planted[-1].fails.share >= tested.planted[0].fails.share


def test_the_whole_suite_is_stopped_when_enough_is_spoilt() -> None:
    wanted = suite({"at_least": 0.8}, {"metric": "over_abstention", "at_most": 0.2})
    planted = selftest_suite(wanted, answers(shuffled(96, 100)), None, draws=100, seed=1)
    assert planted[0].passes.share > 0.9
    assert planted[-1].passes.share == 0.0


def test_a_missed_promise_is_flagged_in_every_scorecard_of_the_suite(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    wanted = suite({"no_worse_than": "base", "margin": 0.05, "level": "soft"}, {"at_least": 0.5})
    ours, base = answers(shuffled(21, 30, 1)), answers(shuffled(21, 30, 2), model="base")
    decided = decide(wanted, ours, base, settings)
    write("facts-1a2b3c", decided, settings)
    assert "was not tested on itself" in render(report("", settings=settings))

    ledger, digest = Ledger(settings.ledger_url), decided.scorecard.suite_digest
    assert newest_selftest(digest, ledger) is None
    _remember(wanted, ours, base, digest, ledger)
    found = newest_selftest(digest, ledger)
    assert found is not None
    told = summary(found)
    assert told is not None
    assert told.kept is False
    assert "self-test misses a promise" in render(report("", settings=settings))
    assert "was not tested on itself" not in render(report("", settings=settings))


def _remember(wanted: SuiteSpec, ours, base, digest: str, ledger: Ledger) -> None:  # type: ignore[no-untyped-def]
    from assay.records.evaluations.selftest import SelftestRecord
    from assay.reporting.document import selftest_key
    from assay.rules.gate.selftest import faults_of

    limits = selftest_limits(wanted, ours, base, draws=100, seed=1)
    record = SelftestRecord(
        suite="evals/facts.yaml",
        suite_digest=digest,
        artifact_digest=ours.artifact_digest,
        base_digest=base.artifact_digest,
        confidence=0.95,
        draws=100,
        limits=limits,
        planted=selftest_suite(wanted, ours, base, draws=20, seed=1),
        at=1.0,
        faults=faults_of(limits),
    )
    ledger.open_run("selftest-1", name="(gate selftest)", spec="{}", started_by="anna")
    ledger.finish_stage(ledger.begin_stage("selftest-1", "selftest", selftest_key(digest)), record)
