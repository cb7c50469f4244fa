import pytest

from assay.rules.release.canary import verdict_on_step


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0, 0), (1000, 0), "advance"),
        ((0, 0), (1000, 10), "advance"),
        ((0, 0), (1000, 12), "hold"),
        ((0, 0), (1000, 30), "roll_back"),
        ((0, 0), (0, 0), "advance"),
        ((0, 0), (50, 1), "hold"),
        ((0, 0), (3, 3), "roll_back"),
        (
            (1000, 100),
            (2000, 100),
            "advance",
        ),  # errors from before the step are not held against it
        ((1000, 0), (1100, 50), "roll_back"),
        ((5000, 40), (10, 8), "roll_back"),  # the gateway was restarted
        ((0, 0), (2, 3), "roll_back"),
    ],
)
def test_a_step_is_judged_by_its_own_errors(
    before: tuple[int, int], after: tuple[int, int], expected: str
) -> None:
    assert verdict_on_step(before, after, 0.01) == expected


def test_any_share_of_errors_can_be_allowed() -> None:
    assert verdict_on_step((0, 0), (10, 10), 1.0) == "advance"
