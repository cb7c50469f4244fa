"""A judge: a model behind an OpenAI-compatible API that reads answers, for abstentions or by a
rubric.

It is asked at temperature 0, and what it said once is kept by all that the request holds, so that
the same answer has the same score, whichever model gave it. A judge that fails, or whose reply
holds no score, gives none: its failures are nobody's bad answers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assay import secrets_file
from assay.engines.evaluation.client import Endpoint, Reply, Request, content_of, request_all
from assay.errors import PlaceError
from assay.records.gate import Sample
from assay.records.record import digest_of
from assay.spec.suite.judge import JudgeSpec
from assay.spec.values.templates import DEFAULT_PROMPT

# Rises when the same judge would be asked otherwise, or read otherwise, than before.
VERSION = 1

QUESTION = """\
A question was put to an assistant. Say whether the assistant declined to answer it.

ABSTAINED: it says that it does not know, cannot tell, or that the question has no answer, and \
gives no answer besides.
ANSWERED: it gives an answer, right or wrong, even if it also says that it is not sure.

Question: {question}
Assistant: {response}

Reply with one word, ABSTAINED or ANSWERED."""
WORDS = {"ABSTAINED": True, "ANSWERED": False}
MAX_TOKENS = 512  # a model that thinks aloud comes to its word late
MAX_SCORING_TOKENS = 1024
IN_FLIGHT = 8
MAX_REMARK = 400

# Of a question, an answer and a reference together; what is longer is not sent.
MAX_CHARACTERS = 200_000

ONCE_MORE = (
    "Your reply must end in a line of its own: SCORE: and a whole number from {} to {}. Give that "
    "line."
)
_SCORE = re.compile(r"^\W*SCORE\W*?(-?\d+)(?:\s*/\s*\d+)?\W*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """What a judge is to score."""

    question: str
    text: str
    reference: str = ""


@dataclass(frozen=True)
class Judged:
    """What a judge said of one answer."""

    score: int | None
    """On the judge's scale; None where there is none."""
    error: str = ""
    """Why there is none."""
    is_unread: bool = False
    """Whether the judge did reply, but with no score."""
    remark: str = ""
    """What it said before the score, shortened."""


def judge_digest(judge: JudgeSpec) -> str:
    """SHA-256 over all that a judge's scores depend on."""
    said = judge.model_dump(mode="json", include={"url", "model", "rubric", "scale", "prompt"})
    return digest_of([VERSION, said, None if judge.prompt else DEFAULT_PROMPT])


def abstentions(
    judge: JudgeSpec, items: Sequence[Sample], answers: Path | None
) -> list[bool | None]:
    """Whether each item's response is an abstention; None where the judge gave neither word, or
    failed. Raises `PlaceError` when its API key is not there."""
    requests = map(_ask, items)
    return list(map(_verdict, request_all(_endpoint(judge), list(requests), answers=answers)))


def scores(judge: JudgeSpec, answers: Sequence[Answer], folder: Path | None) -> list[Judged]:
    """What the judge says of each answer by its rubric. A reply without a score is answered once,
    by asking for the line that is missing. `folder` keeps replies, for all models that are judged.
    Raises `PlaceError` when the judge's API key is not there."""
    endpoint = _endpoint(judge)
    file = folder / f"{judge_digest(judge)[:32]}.jsonl" if folder else None
    prompts = [_prompt(judge, answer) for answer in answers]
    distinct = []
    for prompt in dict.fromkeys(prompts):
        if prompt is not None:
            distinct.append([_user(prompt)])
    replies = request_all(endpoint, [_scoring(chat) for chat in distinct], answers=file)
    unread = {}
    for number, (chat, reply) in enumerate(zip(distinct, replies, strict=True)):
        if not reply.error and _score_in(reply, judge) is None:
            unread[number] = [
                *chat,
                {"role": "assistant", "content": content_of(reply)},
                _user(ONCE_MORE.format(*judge.scale)),
            ]
    again = request_all(endpoint, [_scoring(chat) for chat in unread.values()], answers=file)
    second = dict(zip(unread, again, strict=True))
    found = {}
    for number, (chat, reply) in enumerate(zip(distinct, replies, strict=True)):
        found[chat[0]["content"]] = _judged(second.get(number, reply), judge)
    too_long = Judged(
        None, f"question, answer and reference have more than {MAX_CHARACTERS:,} characters"
    )
    return [too_long if prompt is None else found[prompt] for prompt in prompts]


def _endpoint(judge: JudgeSpec) -> Endpoint:
    key = "none"
    if judge.api_key_env:
        key = secrets_file.value(judge.api_key_env)
    if not key:
        raise PlaceError(
            f"the suite's judge needs an API key in {judge.api_key_env}, which neither the place's "
            "secrets nor the environment have"
        )
    return Endpoint(judge.url.rstrip("/"), judge.model, IN_FLIGHT, key)


def _ask(item: Sample) -> Request:
    content = QUESTION.format(question=item.prompt, response=item.response)
    return Request(
        "chat/completions",
        {"messages": [_user(content)], "temperature": 0, "max_tokens": MAX_TOKENS},
    )


def _verdict(reply: Reply) -> bool | None:
    """The last of the two words that stands in the reply."""
    if reply.error:
        return None
    text = content_of(reply).upper()
    # The last of the words counts: a model that thinks aloud names both before it decides.
    found = sorted((text.rfind(word), verdict) for word, verdict in WORDS.items() if word in text)
    if found:
        return found[-1][1]
    return None


def _prompt(judge: JudgeSpec, answer: Answer) -> str | None:
    """What is asked; None where it would be too long."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(answer.question) + len(answer.text) + len(answer.reference) > MAX_CHARACTERS:
        return None
    template = ImmutableSandboxedEnvironment(keep_trailing_newline=True).from_string(
        judge.prompt or DEFAULT_PROMPT
    )
    lowest, highest = judge.scale
    return template.render(
        question=answer.question,
        answer=answer.text,
        reference=answer.reference,
        rubric=judge.rubric,
        lowest=lowest,
        highest=highest,
        # No answer can hold its own digest, so none can pretend to have ended.
        fence=f"[answer {digest_of([answer.question, answer.text])[:12]}]",
    )


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _scoring(messages: list[dict[str, str]]) -> Request:
    body = {"messages": messages, "temperature": 0, "seed": 0, "max_tokens": MAX_SCORING_TOKENS}
    return Request("chat/completions", body)


def _judged(reply: Reply, judge: JudgeSpec) -> Judged:
    if reply.error:
        return Judged(None, f"the judge failed: {reply.error}")
    score = _score_in(reply, judge)
    if score is None:
        end = content_of(reply).strip()[-80:]
        return Judged(None, f"the judge's reply ends in no score: {end!r}", is_unread=True)
    said = " ".join(_SCORE.sub("", content_of(reply)).split())
    return Judged(score, remark=said[:MAX_REMARK])


def _score_in(reply: Reply, judge: JudgeSpec) -> int | None:
    """The score of the reply's last line that has one, if it is on the scale."""
    lines = _SCORE.findall(content_of(reply))
    if not lines:
        return None
    lowest, highest = judge.scale
    if lowest <= (score := int(lines[-1])) <= highest:
        return score
    return None
