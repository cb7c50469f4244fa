"""Limits on the service, on contamination and on parity."""

from typing import Any

import pytest

from assay.records.gate import (
    ContaminationHit,
    ContaminationRecord,
    LimitResult,
    ParityPair,
    ParityRecord,
    ServiceMeasurement,
)
from assay.rules.gate.measurements import (
    evaluate_contamination,
    evaluate_parity,
    joined_contamination,
)
from assay.rules.gate.service import evaluate_service
from assay.rules.statistics.proportions import clopper_pearson_upper
from assay.spec.suite.measured import ContaminationSpec, ParitySpec, ServiceSpec


def measured(**changes: Any) -> ServiceMeasurement:
    fields: dict[str, Any] = {
        "num_requests": 400,
        "num_concurrent": 8,
        "num_failed": 0,
        "num_completed": 400,
        "prompt_tokens": 1,
        "output_tokens": 1,
        "seconds": 60.0,
        "ttft_s": tuple(0.1 + index / 2000 for index in range(400)),  # 100 to 300 ms
        "inter_token_s": tuple(0.02 + index / 40_000 for index in range(400)),
        "window_tokens_per_s": (100.0, 110.0, 95.0, 105.0, 101.0, 99.0),
        "num_engines": 1,
        "peak_memory_bytes": 70,
        "memory_bytes": 100,
    }
    return ServiceMeasurement(**(fields | changes))


def decide(found: ServiceMeasurement | None, **limits: Any) -> LimitResult:
    (result,) = evaluate_service(ServiceSpec.model_validate(limits), found, 0.95)
    return result


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        ({"ttft_p50": "250ms"}, "PASS"),
        ({"ttft_p50": "202ms"}, "INCONCLUSIVE"),
        ({"ttft_p50": "150ms"}, "FAIL"),
        ({"ttft_p95": "500ms"}, "PASS"),
        ({"ttft_p95": "250ms"}, "FAIL"),
        ({"ttft_p99": "500ms"}, "PASS"),
        ({"inter_token_p95": "50ms"}, "PASS"),
        ({"inter_token_p95": "25ms"}, "FAIL"),
        ({"output_tokens_per_s": 90}, "PASS"),
        ({"output_tokens_per_s": 101}, "INCONCLUSIVE"),
        ({"output_tokens_per_s": 500}, "FAIL"),
        ({"error_rate": "1%"}, "PASS"),
        (
            {"error_rate": "0.1%"},
            "INCONCLUSIVE",
        ),  # 400 requests without an error show 0.7%, not 0.1%
        ({"completion_rate": "95%"}, "PASS"),
        ({"peak_memory": "80%"}, "PASS"),
        ({"peak_memory": "60%"}, "FAIL"),
    ],
)
def test_a_service_limit_is_decided_by_its_bound(limit: dict[str, Any], outcome: str) -> None:
    result = decide(measured(), **limit)
    assert (result.outcome, result.kind, result.task) == (outcome, "service", "service")
    assert result.lower is not None
    assert result.observed is not None
    assert result.upper is not None
    assert result.lower <= result.observed <= result.upper


def test_it_is_said_how_many_requests_an_error_rate_takes() -> None:
    result = decide(measured(), error_rate="0.1%")
    assert result.bound == clopper_pearson_upper(0, 400, 0.95)
    assert "about 2,995 requests would settle it" in result.reason


def test_a_request_without_an_answer_takes_for_ever() -> None:
    few = measured(ttft_s=measured().ttft_s[:390])  # 10 of 400 got none
    assert decide(few, ttft_p95="500ms").outcome == "PASS"
    many = decide(measured(ttft_s=measured().ttft_s[:370]), ttft_p95="10s")
    assert (many.outcome, many.observed, many.bound) == ("FAIL", None, None)


@pytest.mark.parametrize(
    ("found", "limit", "said"),
    [
        (None, {"ttft_p95": 1}, "was not measured"),
        (
            measured(ttft_s=(0.1,) * 40, num_requests=40),
            {"ttft_p95": 1},
            "it takes 59 requests or more",
        ),
        (
            measured(window_tokens_per_s=(900.0,) * 4),
            {"output_tokens_per_s": 1},
            "send more requests",
        ),
        (measured(num_requests=0, ttft_s=()), {"error_rate": "1%"}, "no requests were sent"),
        (measured(num_requests=0, ttft_s=()), {"ttft_p95": 1}, "nothing was measured"),
        (measured(ttft_s=(float("nan"),) * 400), {"ttft_p95": 1}, "no number"),
        (measured(peak_memory_bytes=None), {"peak_memory": "99%"}, "cannot be read"),
        (measured(num_failed=500), {"error_rate": "100%"}, "impossible"),
    ],
)
def test_what_was_not_measured_well_enough_is_inconclusive(
    found: ServiceMeasurement | None, limit: dict[str, Any], said: str
) -> None:
    result = decide(found, **limit)
    assert result.outcome == "INCONCLUSIVE"
    assert said in result.reason


def test_throughput_is_for_each_engine() -> None:
    assert decide(measured(num_engines=2), output_tokens_per_s=90).outcome == "FAIL"


def hit(text: str, similarity: float) -> ContaminationHit:
    return ContaminationHit(task="facts", item=text, training=text, similarity=similarity)


def contamination(**changes: Any) -> ContaminationRecord:
    fields: dict[str, Any] = {
        "train_digest": "train",
        "task_digests": {"facts": "digest"},
        "num_items": 100,
        "num_examples": 1000,
        "exact": (),
        "near": (hit("what is a duck?", 0.9),),
        "ngram": 13,
        "similarity": 0.8,
    }
    return ContaminationRecord(**(fields | changes))


def test_an_exact_hit_fails_and_a_near_one_is_listed() -> None:
    (clean,) = evaluate_contamination(ContaminationSpec(), contamination(), {"facts": "digest"})
    assert (clean.outcome, clean.metric, clean.level) == ("PASS", "exact", "hard")
    found = contamination(exact=(hit("what is a goose?", 1.0),))
    (dirty,) = evaluate_contamination(ContaminationSpec(), found, {"facts": "digest"})
    assert dirty.outcome == "FAIL"
    assert "what is a goose?" in dirty.reason
    assert evaluate_contamination(ContaminationSpec(exact="list"), found, {"facts": "digest"}) == ()
    both = evaluate_contamination(
        ContaminationSpec(near="fail"), contamination(), {"facts": "digest"}
    )
    assert [result.outcome for result in both] == ["PASS", "FAIL"]


def test_a_check_of_other_items_says_nothing() -> None:
    (result,) = evaluate_contamination(ContaminationSpec(), contamination(), {"facts": "another"})
    assert result.outcome == "INCONCLUSIVE"
    assert (
        evaluate_contamination(ContaminationSpec(), None, {"facts": "digest"}) == ()
    )  # no training data is known


def test_the_data_of_several_training_runs_counts_as_one() -> None:
    found = joined_contamination(
        [contamination(), contamination(exact=(hit("what is a goose?", 1.0),))]
    )
    assert (found.num_examples, len(found.near)) == (2000, 2)
    (result,) = evaluate_contamination(ContaminationSpec(), found, {"facts": "digest"})
    assert result.outcome == "FAIL"
    mixed = joined_contamination(
        [contamination(), contamination(task_digests={"facts": "another"})]
    )
    (unknown,) = evaluate_contamination(ContaminationSpec(), mixed, {"facts": "digest"})
    assert unknown.outcome == "INCONCLUSIVE"


def pair(
    first: str, second: str, agreement: float, distance: float = 0.01, num_probes: int = 64
) -> ParityPair:
    return ParityPair.model_validate(
        {
            "first": first,
            "second": second,
            "num_probes": num_probes,
            "num_tokens": 100 * num_probes,
            "mean_abs_logprob": distance,
            "max_abs_logprob": 1.0,
            "top1_agreement": agreement,
            "top1_agreed": round(agreement * 100 * num_probes),
            "probe_abs_logprob": (distance,) * num_probes,
        }
    )


def test_parity_is_judged_over_the_whole_way() -> None:
    steps = (
        pair("compressed", "served", 1.0),
        pair("merged", "served", 0.7),
        pair("adapter", "merged", 1.0),
    )
    found = ParityRecord(artifact_digest="model", probes_digest="probes", pairs=steps)
    (result,) = evaluate_parity(ParitySpec(top1_agreement=0.9), found, "model", 0.95)
    assert (result.outcome, result.level) == ("FAIL", "soft")
    assert "merged against served" in result.reason
    (lax,) = evaluate_parity(ParitySpec(top1_agreement=0.5), found, "model", 0.95)
    assert lax.outcome == "PASS"


def test_parity_in_nats_has_a_bound() -> None:
    found = ParityRecord(
        artifact_digest="model",
        probes_digest="probes",
        pairs=(pair("merged", "served", 1.0, 0.05),),
    )
    (near,) = evaluate_parity(ParitySpec(logprob_difference=0.052), found, "model", 0.95)
    (far,) = evaluate_parity(ParitySpec(logprob_difference=0.2), found, "model", 0.95)
    assert (near.outcome, far.outcome, far.unit) == ("INCONCLUSIVE", "PASS", "nats")


@pytest.mark.parametrize(
    "found", [None, ParityRecord(artifact_digest="another", probes_digest="", pairs=())]
)
def test_parity_that_was_not_measured_on_this_model(found: ParityRecord | None) -> None:
    results = evaluate_parity(
        ParitySpec(top1_agreement=0.1, logprob_difference=9), found, "model", 0.95
    )
    assert [result.outcome for result in results] == ["INCONCLUSIVE"] * 2
