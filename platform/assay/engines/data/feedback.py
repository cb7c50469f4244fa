"""What users said of answers, as training data: `ASSAY_HOME/feedback/NAME.jsonl`, a JSON object a
line:

    {"question": "…", "answer": "…", "correction": "…", "vote": 1, "model": "sha256:…",
     "voter": "…", "id": "…"}

`question` and `answer` are text, `vote` is 1, 0 or -1, `voter` says who, by a pseudonym;
`correction`, the `model`'s digest and `id` may be left out. Votes can be poisoned: each voter has
one for an answer, the last, and of one voter no more than `VOTES_OF_ONE` lines count. A correction
is a vote for what it says and, where `vote` is not 1, one against the answer. What a question is
answered with is what has most votes, if more are for it than against it, and nothing else has as
many.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assay.errors import InvalidInput, Problem, UsageError

FOLDER = "feedback"
VOTES_OF_ONE = 50
"""Lines of one voter that count, the first ones: beyond, somebody drives the data."""
MAX_PROBLEMS = 20


Votes = dict[str, dict[str, int]]
"""Of one question: by what it is answered with, the last vote of each voter."""


def digest(home: Path, name: str) -> str:
    """SHA-256 of the file. Raises `UsageError` where there is none."""
    with _file(home, name).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_examples(home: Path, name: str, target: Path) -> Path:
    """Writes what can be learned from it as prompts with completions, in the order of the first
    line of each question. Raises `InvalidInput` for broken lines."""
    found: dict[str, Votes] = {}
    num_of: dict[str, int] = {}
    for line in _lines(_file(home, name)):
        voter = line["voter"]
        num_of[voter] = num_of.get(voter, 0) + 1
        if num_of[voter] <= VOTES_OF_ONE:
            _count(line, found.setdefault(line["question"], {}))
    examples = [
        {"prompt": question, "completion": said}
        for question, votes in found.items()
        if (said := _learned(votes)) is not None
    ]
    if not examples:
        raise UsageError(f"feedback:{name}: no answer has more votes for it than against it")
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in examples)
    target.write_text("".join(lines), encoding="utf-8")
    return target


def _count(line: dict[str, Any], votes: Votes) -> None:
    voter, vote, correction = line["voter"], line["vote"], line.get("correction")
    if correction and correction != line["answer"]:
        votes.setdefault(correction, {})[voter] = 1
        vote = vote if vote == 1 else -1
    votes.setdefault(line["answer"], {})[voter] = vote


def _learned(votes: Votes) -> str | None:
    totals = {said: sum(by_voter.values()) for said, by_voter in votes.items()}
    best = max(totals, key=lambda said: totals[said])
    is_alone = list(totals.values()).count(totals[best]) == 1
    return best if totals[best] > 0 and is_alone else None


def _file(home: Path, name: str) -> Path:
    file = home / FOLDER / f"{name}.jsonl"
    if not file.is_file():
        raise UsageError(f"feedback:{name}: there is no {file}")
    return file


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    problems = []
    with file.open("rb") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            line, fault = _checked(text)
            if fault:
                problems.append(Problem(str(file), number, 1, "", "value", fault))
            else:
                yield line
    if problems:
        raise InvalidInput(problems[:MAX_PROBLEMS])


def _checked(text: bytes) -> tuple[dict[str, Any], str]:
    """The line, and what is wrong with it."""
    try:
        line = json.loads(text)
    except ValueError as error:
        return {}, f"this is not JSON: {error}"
    if not isinstance(line, dict):
        return {}, "expected an object"
    for key in ("question", "answer", "voter"):
        if not isinstance(line.get(key), str) or not line[key].strip():
            return {}, f"`{key}` must be text"
    if line.get("vote") not in (-1, 0, 1) or isinstance(line.get("vote"), bool):
        return {}, "`vote` must be 1, 0 or -1"
    if not isinstance(line.get("correction") or "", str):
        return {}, "`correction` must be text"
    return line, ""
