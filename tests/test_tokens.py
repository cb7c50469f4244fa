"""Estimated tokens against what two real tokenizers made of the same texts."""

from pathlib import Path

import pytest

from assay.rules.planning.tokens import estimated_tokens

LISTS = Path(__file__).parent / "abstention"
QWEN, SMOLLM2 = 151_936, 49_152
COUNTED = {
    "zh": (2040, 4698),
    "en": (2070, 2279),
    "ja": (981, 2551),
    "de": (961, 1368),
    "fr": (1030, 1332),
    "es": (907, 1238),
}
"""Tokens of each list with the vocabularies of Qwen and of SmolLM2."""


@pytest.mark.parametrize("language", COUNTED)
def test_an_estimate_is_within_a_factor_of_one_and_a_half(language: str) -> None:
    text = (LISTS / f"{language}.txt").read_text(encoding="utf-8")
    for vocab_size, counted in zip((QWEN, SMOLLM2), COUNTED[language], strict=True):
        assert 1 / 1.5 < estimated_tokens(text, vocab_size) / counted < 1.5


def test_a_letter_of_chinese_is_no_quarter_of_a_token() -> None:
    assert estimated_tokens("我不知道这个国家的首都") == pytest.approx(11 * 0.69)
    assert estimated_tokens("我不知道这个国家的首都", SMOLLM2) == pytest.approx(11 * 1.8)
    assert estimated_tokens("a word and a longer representation") == 5 + (1 + (14 - 7) / 4)
    assert estimated_tokens("in 1987") == 1 + 4
    assert estimated_tokens("URGENT: <br/>") == 3 + 1 + 4
    assert estimated_tokens("") == 0


def test_no_letter_is_left_out_or_counted_twice() -> None:
    parts = (
        "中文",
        "かな",
        "한글",
        "。",
        "Русский",
        "עברית",
        "हिन्दी",
        "ไทย",
        "မြန်မာ",
        "é",
        "\U0001f642",
        "a1",
    )
    assert estimated_tokens("".join(parts)) == pytest.approx(sum(map(estimated_tokens, parts)))
