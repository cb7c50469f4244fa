"""Scores of free text against the libraries themselves, and what must not hang or pass."""

import json
import time
from pathlib import Path

import pytest
import sacrebleu
from numpy.random import default_rng
from rouge_score.rouge_scorer import RougeScorer
from transformers.data.metrics.squad_metrics import compute_f1

from assay.engines.evaluation import text_metrics
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.harness import evaluate
from assay.engines.evaluation.lm_tasks import Scoring, task_file
from assay.engines.evaluation.text_metrics import NAMES, ROUGE, corpus_score, scores_of
from assay.records.gate import Evaluation, LimitResult, Sample, TaskResult
from assay.rules.gate.verdict import evaluate_limits
from assay.rules.statistics.means import mean_bounds
from assay.spec.gate import SuiteSpec, TaskSettings
from assay.spec.values.metrics import TEXT_METRICS
from served import Counting, OpenAI
from servers import serving
from test_evaluation import write_task

PAIRS = [
    ("The cat sat on the mat.", ["A cat sat on a mat!", "There is a cat."]),
    (
        "We will refund you within 14 days.",
        ["You get a refund within two weeks.\nNo fee is charged."],
    ),
    ("An order_id is 12-34; see FAQ's page", ["the order id is 12-34, see the FAQs page"]),
    ("no", ["No."]),
    ("", ["something"]),
    ("completely different words", ["nothing shared here"]),
]


def one(name: str, response: str, references: list[str], **settings: object) -> float:
    scores, unscored = scores_of(
        response, references, [name], TaskSettings.model_validate(settings)
    )
    assert not unscored
    return scores[name]


def test_the_table_and_the_engine_know_the_same_metrics() -> None:
    assert {"auto", *NAMES} == set(TEXT_METRICS)


@pytest.mark.parametrize(("response", "references"), PAIRS)
def test_scores_are_the_libraries_own(response: str, references: list[str]) -> None:
    bleu = sacrebleu.sentence_bleu(response, references).score
    assert one("bleu", response, references) == pytest.approx(min(1, bleu / 100))
    chrf = sacrebleu.sentence_chrf(response, references).score
    assert one("chrf", response, references) == pytest.approx(chrf / 100)
    rouge = RougeScorer(list(ROUGE)).score_multi(references, response)
    for name in ROUGE:
        assert one(name, response, references) == pytest.approx(rouge[name].fmeasure)
    squad = max(compute_f1(reference, response) for reference in references)
    assert one("token_f1", response, references) == pytest.approx(squad)


def test_scripts_without_spaces_are_compared_letter_by_letter() -> None:
    wanted, said = "法国的首都是巴黎。", "巴黎是法国的首都"
    assert one("rouge1", said, [wanted]) == 1
    assert one("token_f1", "法国的首都是巴黎!", [wanted]) == 1
    assert 0.3 < one("bleu", said, [wanted]) < 0.9
    assert one("rougeL", "東京はとても大きいです", ["東京は大きいです"]) > 0.8
    assert one("rougeL", "Größe über alles", ["größe über alles"]) == 1


def test_corpus_scores_are_sacrebleus_and_name_their_settings() -> None:
    responses, references = [response for response, _ in PAIRS], [each for _, each in PAIRS]
    streams = [
        [each[0] for each in references],
        [each[1] if len(each) > 1 else None for each in references],
    ]
    said = corpus_score("bleu", responses, references)
    assert f"corpus BLEU {sacrebleu.corpus_bleu(responses, streams).score:.1f} (nrefs:var" in said
    assert "corpus chrF2" in corpus_score("chrf", responses, references)
    assert corpus_score("rougeL", responses, references) == ""


def test_contains_asks_for_the_reference_or_for_all_of_the_settings_texts() -> None:
    assert one("contains", "It is  Paris\nof course", ["paris of"]) == 1
    assert one("contains", "It is London", ["Paris", "london"]) == 1
    assert one("contains", "anything", [""]) == 0
    assert one("contains", "ticket 7 by Friday", ["x"], contains=["Friday", "TICKET"]) == 1
    assert one("contains", "ticket 7", ["x"], contains=["Friday", "ticket"]) == 0


def test_a_regular_expression_is_searched_for() -> None:
    assert one("regex", "your order ORD-123456.", ["x"], regex=r"ORD-\d{6}\b") == 1
    assert one("regex", "your order ORD-12345.", ["x"], regex=r"ORD-\d{6}\b") == 0


@pytest.mark.parametrize(
    ("metric", "settings", "response"),
    [
        ("regex", {"regex": "(x+x+)+y"}, "x" * 5000),
        ("json_schema", {"json_schema": {"pattern": "(x+x+)+y"}}, json.dumps("x" * 5000)),
        (
            "json_schema",
            {"json_schema": {"patternProperties": {"(x+x+)+y": {}}, "additionalProperties": False}},
            json.dumps({"x" * 5000: 1}),
        ),
    ],
)
def test_a_pattern_bomb_ends_and_is_no_score(
    metric: str, settings: object, response: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_metrics, "SEARCH_S", 0.1)
    started = time.monotonic()
    scores, unscored = scores_of(response, ["x"], [metric], TaskSettings.model_validate(settings))
    assert scores == {}
    assert "took longer than" in unscored[metric]
    assert time.monotonic() - started < 60  # without a limit it would take years


ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": r"^ORD-\d+$"},
        "items": {"$ref": "#/$defs/items"},
    },
    "patternProperties": {"^x-": {"type": "number"}},
    "additionalProperties": False,
    "required": ["id"],
    "$defs": {"items": {"type": "array", "items": {"type": "integer"}}},
}


@pytest.mark.parametrize(
    ("response", "is_json", "meets"),
    [
        ('{"id": "ORD-1", "items": [1, 2], "x-weight": 2.5}', 1, 1),
        ('{"id": "ORD-x"}', 1, 0),
        ('{"id": "ORD-1", "items": ["a"]}', 1, 0),
        ('{"id": "ORD-1", "x-weight": "heavy"}', 1, 0),
        ('{"id": "ORD-1", "more": 1}', 1, 0),
        ("[]", 1, 0),
        ('Here it is: {"id": "ORD-1"}', 0, 0),
        ('{"id": NaN}', 0, 0),
        ("", 0, 0),
    ],
)
def test_json_and_its_schema(response: str, is_json: float, meets: float) -> None:
    assert one("json_valid", response, ["x"]) == is_json
    assert one("json_schema", response, ["x"], json_schema=ORDER) == meets


@pytest.mark.parametrize(
    ("schema", "response", "why"),
    [
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "{}", "which is not in it"),
        ({"$ref": "#"}, "{}", "too deeply"),
        ({}, "[" * 100_000, "too deeply"),
    ],
)
def test_what_a_schema_cannot_decide_is_no_score(schema: object, response: str, why: str) -> None:
    scores, unscored = scores_of(
        response, ["x"], ["json_schema"], TaskSettings.model_validate({"json_schema": schema})
    )
    assert scores == {}
    assert why in unscored["json_schema"]


def test_texts_too_long_for_rouge_are_no_score() -> None:
    scores, unscored = scores_of(
        "a b " * 2000, ["b a " * 2000], ["rougeL", "token_f1"], TaskSettings()
    )
    assert scores == {"token_f1": 1.0}
    assert "too long" in unscored["rougeL"]


def test_a_tasks_answers_get_the_scores_that_limits_name(tmp_path: Path) -> None:
    path = write_task(tmp_path, metric_list=[{"metric": "exact_match"}, {"metric": "bleu"}])
    settings = TaskSettings(regex=r"\d\?$", cluster_by="source")
    task = task_file("facts", path, settings, Scoring(text_metrics=("bleu", "regex", "rougeL")))
    assert task.digest != task_file("facts", path, settings).digest
    with serving(OpenAI, Counting) as server:
        server.answer = lambda question: (
            f"the answer to {question}" if "7" in question else f"answer to {question}"
        )
        (result,) = evaluate(Endpoint(server.url, "tiny"), [task]).tasks
    right, other = result.items[6], result.items[7]
    assert right.scores == {"exact_match": 1, "rougeL": 1, "bleu": 1, "regex": 1}
    assert other.scores["exact_match"] == 0
    assert other.scores["rougeL"] == pytest.approx(10 / 11)
    assert 0 < other.scores["bleu"] < 1
    assert result.notes.keys() == {"bleu"}


def decided(scores: list[float], *, unscored: str = "", **limit: object) -> LimitResult:
    items = tuple(
        Sample(
            id=str(number),
            prompt="?",
            target="!",
            response="a",
            scores={"exact_match": 1.0}
            if unscored and not number
            else {"rougeL": score, "exact_match": 1.0},
            unscored={"rougeL": unscored} if unscored and not number else {},
            cluster=f"text {number // 5}",
        )
        for number, score in enumerate(scores)
    )
    result = TaskResult(task="facts", digest="d", items=items, notes={"rougeL": "a note"})
    evaluation = Evaluation(artifact_digest="m", model_name="m", tasks=(result,), seconds=1)
    suite = SuiteSpec.model_validate({"limits": {"facts": limit}})
    return evaluate_limits(suite, evaluation, None)[0]


def test_a_mean_of_text_scores_is_decided_by_its_clustered_bound_and_noted() -> None:
    scores = [0.5 + 0.02 * (number % 11) for number in range(200)]
    found = decided(scores, metric="rougeL", at_least=0.5)
    assert found.outcome == "PASS"
    assert found.method == "clustered t and Gaffke"
    assert found.num_clusters == 40
    assert found.reason.endswith("; a note")


def test_an_answer_without_a_score_leaves_that_metric_open_and_no_other() -> None:
    found = decided([0.9] * 200, unscored="too long", metric="rougeL", at_least=0.5)
    assert found.outcome == "INCONCLUSIVE"
    assert "1 of 200 items have no score rougeL on the candidate: too long" in found.reason
    assert (
        decided([0.9] * 200, unscored="too long", metric="exact_match", at_least=0.5).outcome
        == "PASS"
    )


@pytest.mark.parametrize("name", ["rougeL", "bleu"])
def test_the_bound_holds_for_answers_that_share_a_source(name: str) -> None:
    """200 sources with four answers each, which are good or bad together. Of 300 draws of 40
    sources 5 % may have a bound above the mean of all; 26 or more have less than 0.2 % chance."""
    rng, vocabulary = default_rng(11), [f"word{number}" for number in range(300)]
    scores = []
    for _ in range(200):
        kept = rng.beta(2, 1)
        reference = rng.choice(vocabulary, 20).tolist()
        answers = [" ".join(word for word in reference if rng.random() < kept) for _ in range(4)]
        scores.append([one(name, answer, [" ".join(reference)]) for answer in answers])
    truth = sum(map(sum, scores)) / 800
    clusters = [number // 4 for number in range(160)]
    missed = {"clustered": 0, "apart": 0}
    for _ in range(300):
        drawn = [score for source in rng.integers(0, 200, 40) for score in scores[source]]
        missed["clustered"] += mean_bounds(drawn, clusters, 0.95).lower > truth
        missed["apart"] += mean_bounds(drawn, None, 0.95).lower > truth
    assert missed["clustered"] < 26 <= missed["apart"]  # `cluster_by` is what keeps the promise
