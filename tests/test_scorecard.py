import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from assay.errors import IntegrityError
from assay.records.gate import (
    Attempt,
    ContaminationHit,
    ContaminationRecord,
    GateRecord,
    ParityPair,
    ParityRecord,
    SliceResult,
)
from assay.records.releases.release import Approval
from assay.records.report import Curve, Figure, Line, SweepLines, TrialLine
from assay.reporting.document import report
from assay.reporting.html import render
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.stages import gate
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from evaluations import decide, evaluation, items, settings_in, write

GOLDEN = Path(__file__).parent / "golden" / "scorecard.json"
SCHEMA = Path(__file__).parents[1] / "evals" / "scorecard.schema.json"

SUITE = SuiteSpec.model_validate(
    {
        "limits": {
            "facts": [{"at_least": 0.8}, {"metric": "over_abstention", "at_most": 0.1}],
            "elements": {"no_worse_than": "base", "margin": 0.1, "level": "soft"},
        }
    }
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def decided(settings: Settings, said: str = "", asked: str = "") -> GateRecord:
    """A candidate that knows more facts than the base model, and fewer elements."""
    ours = {
        "facts": items([1.0] * 57 + [0.0] * 3, said=said, asked=asked),
        "elements": items([1.0, 0.0] * 30),
    }
    base = {
        "facts": items([0.0] * 20 + [1.0] * 40, said=said),
        "elements": items([1.0] * 45 + [0.0] * 15),
    }
    return decide(SUITE, evaluation("candidate", ours), evaluation("base", base), settings)


def test_the_document_is_as_it_was_published(settings: Settings) -> None:
    write("facts-1a2b3c", decided(settings), settings)
    said = json.loads(report("facts", settings=settings, num_examples=2).model_dump_json())
    said["stages"] = sorted(said["stages"])
    found = _rounded(_without_home(said, str(settings.home)))
    assert found == json.loads(GOLDEN.read_text()), (
        f"not as in {GOLDEN.name}: {json.dumps(found, indent=1)}"
    )


def test_the_schema_describes_the_document(settings: Settings) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    write("facts-1a2b3c", decided(settings), settings)
    check = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    said = json.loads(report("", settings=settings).model_dump_json())
    assert list(check.iter_errors(said)) == []
    assert list(check.iter_errors({**said, "added": "by a later version"})) == []
    del said["scorecard"]["outcome"]
    assert [error.message for error in check.iter_errors(said)] == [
        "'outcome' is a required property"
    ]


class Page(HTMLParser):
    """What a browser would make of it: elements, attributes, texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "</div></td><script>alert(1)</script><img src=x onerror=alert(2)>\u202etxet\u0000 & \"'{{ 7 * "
    "7 }}"
)


def test_what_a_model_says_cannot_act(settings: Settings) -> None:
    write("facts-1a2b3c", decided(settings, said=HOSTILE, asked=HOSTILE), settings)
    words = Approval(
        run="facts-1a2b3c",
        decision="approve",
        reviewer=HOSTILE,
        reason=HOSTILE,
        artifact_digest="",
        scorecard_digest="",
        given_at=0,
    )
    Ledger(settings.ledger_url).add_approval(words)
    html = render(report("", settings=settings))
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not {name for name in page.attributes if name.startswith("on")}
    assert not page.attributes & {"src", "href", "srcset", "action", "xlink:href"}, (
        "it asks for nothing"
    )
    assert "<script>alert(1)</script>" in page.text, "it is shown as it was said"
    assert "49" not in page.text.split("{{")[1][:20]
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "⟨U+202E⟩" in page.text


def test_the_verdict_comes_first_and_every_limit_has_its_row(settings: Settings) -> None:
    write("facts-1a2b3c", decided(settings), settings)
    html = render(report("", settings=settings))
    text = Page(html.partition("<body>")[2]).text.split()
    assert text[:5] == ["Assay", "scorecard", "·", "evals/facts.yaml", "PASS"]
    assert html.count('class="plot"><svg') == 3
    assert "1 soft limit is not" in html
    assert "was not tested on itself" in html
    assert html.count("was right") == 13, (
        "3 facts and the 10 elements that are shown: those come first"
    )
    for digest in report("", settings=settings).digests.values():
        assert digest in html


def test_everything_that_a_scorecard_can_tell_is_shown(settings: Settings) -> None:
    write("facts-1a2b3c", decided(settings), settings)
    plain = report("", settings=settings)
    hit = ContaminationHit(
        task="facts", item="What is asked?", training="What was trained.", similarity=0.91
    )
    pair = ParityPair(
        first="merged",
        second="served",
        num_probes=8,
        num_tokens=400,
        mean_abs_logprob=0.0123,
        max_abs_logprob=0.4,
        top1_agreement=0.985,
        top1_agreed=394,
    )
    limit = plain.scorecard.limits[0].model_copy(
        update={
            "champion_observed": 0.77,
            "num_clusters": 12,
            "slices": (
                SliceResult(
                    field="topic", value="rivers", num_items=9, observed=0.5, lower=0.2, upper=0.8
                ),
            ),
        }
    )
    speed = limit.model_copy(
        update={
            "kind": "service",
            "task": "service",
            "metric": "ttft_p95",
            "unit": "seconds",
            "observed": 0.31,
        }
        | {
            "requirement": "<= 500 ms",
            "limit": 0.5,
            "lower": 0.3,
            "upper": 0.35,
            "bound": 0.35,
            "slices": (),
        }
    )
    card = plain.scorecard.model_copy(
        update={
            "limits": (limit, speed),
            "champion_digest": "c" * 64,
            "attempt": Attempt(number=2, budget=5, confidence=0.99),
            "contamination": ContaminationRecord(
                train_digest="t" * 64,
                task_digests={},
                num_items=60,
                num_examples=500,
                exact=(),
                near=(hit,),
                ngram=13,
                similarity=0.8,
            ),
            "parity": ParityRecord(artifact_digest="a" * 64, probes_digest="p" * 64, pairs=(pair,)),
        }
    )
    losses = tuple(
        Line(name=f"lr {n}", points=((1.0, 3.0), (2.0, 1.0 + n)), chosen=n == 1) for n in range(2)
    )
    tried = tuple(
        TrialLine(
            name=f"{rate:g}",
            learning_rate=rate,
            loss=loss,
            error=0.1,
            num_steps=10,
            num_tokens=4115,
            outcome=outcome,
            chosen=rate == 1e-3,
        )
        for rate, loss, outcome in (
            (1e-4, 2.5, "stopped"),
            (1e-3, 0.5, "finished"),
            (1e-2, None, "failed"),
        )
    )
    full = plain.model_copy(
        update={
            "scorecard": card,
            "bytes_known": False,
            "service": (Figure(name="time to first token, p95", value=312.0, unit="ms"),),
            "curves": (Curve(title="sweep", x_label="step", y_label="loss", lines=losses),),
            "sweep": SweepLines(trials=tried, seconds=75.0, num_steps=30, num_tokens=12_345),
        }
    )
    text = " ".join(Page(render(full)).text.split())
    for told in (
        "its bytes were not",
        "attempt 2 of 5",
        "0.99 for each of 5 attempts",
        "60 in 12 clusters",
        "77.0%",
        "topic = rivers",
        "0 exact hits, 1 near",
        "What was trained.",
        "merged → served",
        "98.50%",
        "310 ms",
        "time to first token, p95",
        "312 ms",
        "2 trials; chosen: lr 1",
        "3 trials, 30 steps, 12,345 tokens, 75 s",
        "0.500 ± 0.100",
        "stopped early",
    ):
        assert told in text, told


def test_another_verdict_of_the_same_answers_is_never_had(settings: Settings) -> None:
    first = decided(settings)
    for _ in range(20):
        assert decided(settings).scorecard == first.scorecard


def test_an_edited_scorecard_is_found_out(settings: Settings) -> None:
    record = decided(settings)
    store = ArtifactStore(settings.home / "artifacts")
    gate.verify(record, store)
    card = record.scorecard.model_dump()
    card["limits"][0]["observed"] = 0.99
    with pytest.raises(IntegrityError):
        gate.verify(GateRecord.model_validate({**record.model_dump(), "scorecard": card}), store)


def test_a_report_without_its_evidence_says_so(settings: Settings) -> None:
    record = decided(settings)
    write("facts-1a2b3c", record, settings)
    file = Path(record.candidate.evidence.path) / "evaluation.json"
    file.write_text(file.read_text().replace('"response":"no"', '"response":"yes"'))
    with pytest.raises(IntegrityError, match="SHA-256"):
        report("", settings=settings)


def _without_home(said: Any, home: str) -> Any:
    """The document with its folder, and its digests in the order in which they come: equal ones
    stay equal."""
    text = json.dumps(said).replace(home, "HOME")
    for number, digest in enumerate(dict.fromkeys(re.findall(r"\b[0-9a-f]{64}\b", text)), 1):
        text = text.replace(digest, f"digest {number}")
    return json.loads(text)


def _rounded(said: Any) -> Any:
    """Without the last digits, in which processors may differ."""
    if isinstance(said, float):
        return round(said, 6)
    if isinstance(said, dict):
        return {key: _rounded(value) for key, value in said.items()}
    return [_rounded(value) for value in said] if isinstance(said, list) else said


def test_of_graded_answers_those_are_shown_that_fell_furthest_below_the_base_models(
    settings: Settings,
) -> None:
    suite = SuiteSpec.model_validate(
        {"limits": {"text": {"metric": "rougeL", "no_worse_than": "base", "margin": 0.1}}}
    )
    ours = {
        "text": tuple(
            item.model_copy(update={"remarks": {"rougeL": "a reason"}})
            for item in items([0.9, 0.2, 0.5, 1.0], metric="rougeL")
        )
    }
    base = {"text": items([0.8, 0.1, 1.0, 1.0], metric="rougeL")}
    write(
        "text-1a2b3c",
        decide(suite, evaluation("candidate", ours), evaluation("base", base), settings),
        settings,
    )
    found = report("text", settings=settings)
    (wrong,) = found.wrong_answers
    assert [(example.score, example.base_score) for example in wrong.examples] == [
        (0.5, 1.0),
        (0.9, 0.8),
        (0.2, 0.1),
    ]
    assert "<small>0.50 a reason</small>" in render(found)
