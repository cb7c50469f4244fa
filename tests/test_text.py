"""Letters of every script: compared, cut into words, shown in a terminal."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from assay.text import normalized, padded, printable, width, without_punctuation, word_weight, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＰＡＲＩＳ", "PARIS"),
        ("１９８７年", "1987年"),
        ("巴黎。", "巴黎."),
        ("北京，中国", "北京,中国"),
        ("「巴黎」", "\u201c巴黎\u201d"),
        ("Bogota\u0301", "Bogot\u00e1"),
        ("ﬁne", "fine"),
        ("Qwen 模型", "Qwen模型"),
        ("　巴黎　", "巴黎"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
    ],
)
def test_the_same_in_other_letters_is_the_same(one: str, other: str) -> None:
    assert normalized(one) == normalized(other)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_left_alone(text: str) -> None:
    assert normalized(text) == text


@given(st.text())
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)


def test_punctuation_of_every_script_goes() -> None:
    assert without_punctuation("「北京」、上海。¿Qué? «oui» a-b $5") == "北京上海Qué oui ab 5"


def test_where_there_are_no_spaces_each_letter_is_a_word() -> None:
    assert words("The 首都 is 北京！") == ("the", "首", "都", "is", "北", "京")
    assert words("東京タワー") == ("東", "京", "タ", "ワ", "ー")
    assert words("서울은 수도") == ("서울은", "수도")
    assert word_weight("京") < word_weight("seoul") == word_weight("서울은") == 1


HOSTILE = {
    "\x1b[2J": "\\u001b[2J",
    "\x1b]0;title\x07": "\\u001b]0;title\\u0007",
    "\x9b31m": "\\u009b31m",
    "\u202etxt.exe": "\\u202etxt.exe",
    "\r> approved": "\\u000d> approved",
    "\U000e0041": "\\udb40\\udc41",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_would_steer_a_terminal_is_shown_as_its_code(text: str, shown: str) -> None:
    assert printable(f"a{text}b") == f"a{shown}b"


@given(st.text(st.characters()))
def test_nothing_that_steers_is_left_and_nothing_else_is_touched(text: str) -> None:
    shown = printable(text)
    assert not [
        char for char in shown if unicodedata.category(char) in ("Cc", "Cs") and char not in "\t\n"
    ]
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()
    assert json.loads(f'"{shown}"') == text if not set('"\\\t\n') & set(text) else True


@given(st.text(st.sampled_from("abc京都ＡÀé한글、。ー (1)")))
def test_wide_letters_take_two_columns(text: str) -> None:
    assert width(text) == cell_len(text)
    assert width(padded(text, 40)) == max(40, width(text))
