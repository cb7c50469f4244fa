from pathlib import Path

import pytest

from assay.errors import IntegrityError, UsageError
from assay.flow.evaluation.compare import compare
from assay.records.evaluations.comparison import Comparison
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from evaluations import decide, evaluation, items, settings_in, write

SUITE = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def evaluated(settings: Settings, **models: list[float]) -> None:
    for name, marks in models.items():
        answers = evaluation(name, {"facts": items(marks)})
        write(name, decide(SUITE, answers, None, settings), settings)


def test_the_better_model_wins_with_its_confidence(settings: Settings) -> None:
    evaluated(settings, good=[1.0] * 38 + [0.0] * 2, bad=[1.0] * 25 + [0.0] * 15)
    (found,) = compare("good", "bad", settings=settings).limits
    assert (found.first, found.second, found.num_items) == (0.95, 0.625, 40)
    assert found.difference == pytest.approx(0.325)
    assert found.lower is not None
    assert found.upper is not None
    assert 0 < found.lower < 0.325 < found.upper
    assert found.winner == "A"
    assert found.confidence is not None
    assert found.confidence > 0.99
    (back,) = compare("bad", "good", settings=settings).limits
    assert (back.winner, back.confidence) == ("B", pytest.approx(found.confidence))
    assert back.lower == pytest.approx(-found.upper, abs=1e-4)


def test_a_small_difference_is_left_open(settings: Settings) -> None:
    evaluated(settings, one=[1.0] * 20 + [0.0] * 20, other=[1.0] * 21 + [0.0] * 19)
    (found,) = compare("one", "other", settings=settings).limits
    assert found.winner is None
    assert found.confidence is not None
    assert found.confidence < 0.95


def test_a_model_against_itself_has_no_winner_and_no_confidence(settings: Settings) -> None:
    evaluated(settings, one=[1.0] * 30 + [0.0] * 10)
    (found,) = compare("one", "one", settings=settings).limits
    assert (found.difference, found.winner, found.confidence) == (0.0, None, None)


def test_other_items_are_not_compared(settings: Settings) -> None:
    evaluated(settings, many=[1.0] * 40, few=[1.0] * 10)
    (found,) = compare("many", "few", settings=settings).limits
    assert (found.winner, found.difference) == (None, None)
    assert "the items differ" in found.reason


def test_what_has_nothing_in_common_is_refused(settings: Settings) -> None:
    evaluated(settings, facts=[1.0] * 10)
    other = SuiteSpec.model_validate({"limits": {"elements": {"at_least": 0.5}}})
    write(
        "elements",
        decide(other, evaluation("m", {"elements": items([1.0] * 10)}), None, settings),
        settings,
    )
    with pytest.raises(UsageError, match="no task in common"):
        compare("facts", "elements", settings=settings)


def test_changed_answers_are_found_out(settings: Settings) -> None:
    evaluated(settings, one=[1.0] * 10)
    evidence = next(file for file in (settings.home / "artifacts").rglob("evaluation.json"))
    evidence.write_text(evidence.read_text().replace('"yes"', '"no"'))
    with pytest.raises(IntegrityError):
        compare("one", "one", settings=settings)


def test_a_comparison_survives_its_json(settings: Settings) -> None:
    evaluated(settings, one=[1.0] * 10, two=[0.0] * 10)
    found = compare("one", "two", settings=settings, confidence=0.9)
    assert found.confidence == 0.9
    assert Comparison.model_validate_json(found.model_dump_json()) == found
