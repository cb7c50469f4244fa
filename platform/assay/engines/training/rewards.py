"""What online training can reward: functions of an answer, by name."""

import json
import re
from collections.abc import Callable

from assay.spec.objective import RewardFunctionSpec
from assay.text import normalized


def reward(spec: RewardFunctionSpec, answer: str, wanted: str, num_tokens: int) -> float:
    """Between 0 and 1: how well `answer`, which is `num_tokens` long, does by this reward. `wanted`
    is the data's answer."""
    return _REWARDS[spec.name](spec, answer, wanted, num_tokens)


def _exact_match(spec: RewardFunctionSpec, answer: str, wanted: str, num_tokens: int) -> float:
    return float(_plain(answer) == _plain(wanted))


def _contains(spec: RewardFunctionSpec, answer: str, wanted: str, num_tokens: int) -> float:
    return float(_plain(wanted) in _plain(answer))


def _length(spec: RewardFunctionSpec, answer: str, wanted: str, num_tokens: int) -> float:
    """1 at `target_tokens`, 0 at nothing and at twice as many or more."""
    assert spec.target_tokens is not None
    return max(0.0, 1 - abs(num_tokens - spec.target_tokens) / spec.target_tokens)


def _regex(spec: RewardFunctionSpec, answer: str, wanted: str, num_tokens: int) -> float:
    assert spec.pattern is not None
    return float(re.search(spec.pattern, answer) is not None)


def _json_valid(spec: RewardFunctionSpec, answer: str, wanted: str, num_tokens: int) -> float:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


_REWARDS: dict[str, Callable[[RewardFunctionSpec, str, str, int], float]] = {
    "exact_match": _exact_match,
    "contains": _contains,
    "length": _length,
    "regex": _regex,
    "json_valid": _json_valid,
}


def _plain(text: str) -> str:
    """Without case, outer punctuation and double spaces, in usual widths."""
    return " ".join(normalized(text).lower().split()).strip(" .,!?;:\"'")
