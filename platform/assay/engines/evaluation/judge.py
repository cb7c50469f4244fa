"""A judge: a model behind an OpenAI-compatible API that reads whether an answer is an abstention."""

import os
from collections.abc import Sequence
from pathlib import Path

from assay.engines.evaluation.client import Endpoint, Reply, Request, content_of, request_all
from assay.errors import PlaceError
from assay.records.gate import Sample
from assay.spec.gate import JudgeSpec

QUESTION = """\
A question was put to an assistant. Say whether the assistant declined to answer it.

ABSTAINED: it says that it does not know, cannot tell, or that the question has no answer, and gives no answer besides.
ANSWERED: it gives an answer, right or wrong, even if it also says that it is not sure.

Question: {question}
Assistant: {response}

Reply with one word, ABSTAINED or ANSWERED."""
WORDS = {"ABSTAINED": True, "ANSWERED": False}
MAX_TOKENS = 512  # a model that thinks aloud comes to its word late
IN_FLIGHT = 8


def abstentions(judge: JudgeSpec, items: Sequence[Sample], answers: Path | None) -> list[bool | None]:
    """Whether each item's response is an abstention; None where the judge gave neither word, or failed. Raises
    `PlaceError` when its API key is not there."""
    key = os.environ.get(judge.api_key_env) if judge.api_key_env else "none"
    if key is None:
        raise PlaceError(f"the suite's judge needs an API key in {judge.api_key_env}, which is not set")
    endpoint = Endpoint(judge.url.rstrip("/"), judge.model, IN_FLIGHT, key)
    return [_verdict(reply) for reply in request_all(endpoint, [_ask(item) for item in items], answers=answers)]


def _ask(item: Sample) -> Request:
    content = QUESTION.format(question=item.prompt, response=item.response)
    messages = [{"role": "user", "content": content}]
    return Request("chat/completions", {"messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS})


def _verdict(reply: Reply) -> bool | None:
    """The last of the two words that stands in the reply."""
    if reply.error:
        return None
    text = content_of(reply).upper()
    found = sorted((text.rfind(word), verdict) for word, verdict in WORDS.items() if word in text)
    return found[-1][1] if found else None
