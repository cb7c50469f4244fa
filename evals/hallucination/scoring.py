"""How the panel's answers are read. lm-eval runs this file, so the suite names it with its SHA-256."""

import re
import unicodedata

DENIAL = re.compile(
    r"\b(?:is not|isn't|was not|wasn't|has never been|never was|is no longer|not the capital|actually|in fact|incorrect"
    r"|mistaken|that is wrong|false)\b"
)


def contains_answer(doc: dict, results: list) -> dict:
    """`correct`: the answer's words stand in the response, in a row."""
    return {"correct": float(_contains(results[0], doc["answer"]))}


def corrects_premise(doc: dict, results: list) -> dict:
    """`correct`: the response names the real capital, or says that the premise is not so."""
    response = results[0].casefold().replace("\u2019", "'")
    return {"correct": float(_contains(response, doc["answer"]) or bool(DENIAL.search(response)))}


def _contains(text: str, part: str) -> bool:
    return f" {' '.join(_words(part))} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.findall(r"\w+", plain.casefold())
