"""How the Chinese panel's answers are read. lm-eval runs this file, so the suite names it with its SHA-256."""

import re
import unicodedata

DENIAL = re.compile(
    "不是|並不是|并非|並非|不属于|不屬於|从未|從未|从来没|從來沒|未曾|没有成为|沒有成為|而是|才是|有误|有誤|错误|錯誤"
    "|不正确|不正確|不准确|不準確|误解|誤解|其实|其實|实际上|實際上|事实上|事實上|不成立|不符"
)
FIGURES = "0-9零一二三四五六七八九十百千万"


def contains_answer(doc: dict, results: list) -> dict:
    """`correct`: the answer, or another name of it, stands in the response."""
    return {"correct": float(_contains(results[0], doc))}


def corrects_premise(doc: dict, results: list) -> dict:
    """`correct`: the response names the real capital, or says that the premise is not so."""
    return {"correct": float(_contains(results[0], doc) or bool(DENIAL.search(_plain(results[0]))))}


def _contains(response: str, doc: dict) -> bool:
    text = _plain(response)
    return any(_stands_in(_plain(name), text) for name in (doc["answer"], *(doc.get("also") or ())))


def _stands_in(name: str, text: str) -> bool:
    """Numbers are whole ones: 57 does not stand in 570, nor 五十七 in 一百五十七."""
    if not re.fullmatch(f"[{FIGURES}]+", name):
        return name in text
    return re.search(f"(?<![{FIGURES}]){name}(?![{FIGURES}])", text) is not None


def _plain(text: str) -> str:
    """Usual widths, small letters, no spaces and no punctuation."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    return "".join(one for one in letters if unicodedata.category(one)[0] in "LNM")
