"""Requests to an OpenAI-compatible server: many in flight, repeated when the server falters, and
none sent twice.

A failure of the server is never an answer. What was answered is appended to a file at once, so that
a killed process goes on where it was and a second one sends nothing.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from assay.errors import StageFailed
from assay.records.record import digest_of

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]

# Status codes that come back however often one asks. A 404 does pass: Serve gives it while a
# route comes up.
REFUSALS = (400, 401, 403, 405, 413, 415, 422)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server, and how long to bear with it."""

    url: str
    """Base URL, ending in `/v1`."""
    model_name: str
    num_concurrent: int = 16
    api_key: str = "none"
    patience_s: float = 180.0
    """How long a request is repeated after its first failure. It outlasts the restart of an
    engine's replica."""
    timeout_s: float = 300.0
    """How long one answer may take."""
    max_reasoning_tokens: int = 0
    """How long the model may reason before it answers, half of the engine's context; 0 where it
    does not reason, or where that is the server's affair."""


class Request(NamedTuple):
    """One request."""

    path: str
    """Below the base URL, such as `chat/completions`."""
    body: Json
    """Without the model's name."""


@dataclass(frozen=True)
class Reply:
    """What came of a request."""

    body: Json
    """The server's `choices` and `usage`; empty when there was no answer."""
    error: str = ""
    """Why there was none: the server's or the network's failure."""
    latency_s: float = 0.0
    """Of the try that was answered."""
    num_tries: int = 0
    """0 when the answer was on file."""


class AnswerFile:
    """Every answer of one artifact through one engine, as JSON lines. A line that a crash has torn
    is skipped."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._answers: dict[str, Json] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = entry
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith(b"\n"):
            self._append(b"")

    def get(self, key: str) -> Reply | None:
        """The answer under a key."""
        entry = self._answers.get(key)
        if entry:
            return Reply(entry["body"], latency_s=entry["latency_s"])
        return None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps an answer; it outlives this process as soon as this returns."""
        entry = {"key": key, "latency_s": reply.latency_s, "body": reply.body}
        self._answers[key] = entry
        if self._path is not None:
            self._append(json.dumps(entry, separators=(",", ":")).encode())

    def _append(self, line: bytes) -> None:
        assert self._path is not None
        descriptor = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, line + b"\n")
        finally:
            os.close(descriptor)


def request_all(
    endpoint: Endpoint,
    asks: Sequence[Request],
    *,
    answers: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, all_of_them: None,
) -> list[Reply]:
    """A reply to each request, in order. A request that stands several times in `asks` is sent as
    often. `answers` is the file of finished ones; `progress` is told how many are done."""
    return asyncio.run(_ask_all(endpoint, asks, AnswerFile(answers), progress))


async def _ask_all(
    endpoint: Endpoint,
    asks: Sequence[Request],
    answers: AnswerFile,
    progress: Callable[[int, int], None],
) -> list[Reply]:
    keys = _keys(asks)
    replies = {index: reply for index, key in enumerate(keys) if (reply := answers.get(key))}
    progress(len(replies), len(asks))
    if wanted := [index for index in range(len(asks)) if index not in replies]:
        async with client_for(endpoint, endpoint.num_concurrent) as client:
            asking = _Asking(endpoint, client)

            async def get(index: int) -> None:
                reply = await asking.reply(asks[index])
                if not reply.error:
                    answers.put(keys[index], reply)
                replies[index] = reply
                progress(len(replies), len(asks))

            await asyncio.gather(*(get(index) for index in wanted))
    return [replies[index] for index in range(len(asks))]


def client_for(endpoint: Endpoint, num_connections: int) -> "httpx.AsyncClient":
    """A client of the server that speaks to it alone, past the proxies of the environment."""
    import httpx  # late: a plan knows this module, and asks nothing

    return httpx.AsyncClient(
        base_url=endpoint.url,
        headers={"Authorization": f"Bearer {endpoint.api_key}"},
        timeout=httpx.Timeout(endpoint.timeout_s, connect=10.0, pool=None),
        limits=httpx.Limits(max_connections=num_connections, max_keepalive_connections=None),
        trust_env=False,
    )


def _keys(asks: Sequence[Request]) -> list[str]:
    """A digest of each request, and of how many equal ones stand before it."""
    seen: Counter[str] = Counter()
    keys = []
    for ask in asks:
        key = digest_of([ask.path, ask.body])
        keys.append(digest_of([key, seen[key]]) if seen[key] else key)
        seen[key] += 1
    return keys


@dataclass
class _Asking:
    """The state that the requests in flight share. A library for retries repeats one call by
    itself; here the others are not even asked once the server has long been silent, and a request
    that pauses gives its place away."""

    endpoint: Endpoint
    client: "httpx.AsyncClient"
    places: asyncio.Semaphore = field(init=False)
    answered_at: float = field(default_factory=time.monotonic)
    """When the server last answered anything."""

    def __post_init__(self) -> None:
        self.places = asyncio.Semaphore(self.endpoint.num_concurrent)

    async def reply(self, ask: Request) -> Reply:
        """Asks until there is an answer, a refusal, or no patience left. While it waits, others are
        asked."""
        failed_at: float | None = None
        num_tries = 0
        while True:
            async with self.places:
                if not num_tries and self._is_silent():
                    return Reply({}, "not asked: the server had long given no answer to others")
                num_tries += 1
                started = time.monotonic()
                body, error, again = await self._try(ask)
                now = time.monotonic()
            if body is not None:
                self.answered_at = now
                return Reply(body, latency_s=round(now - started, 6), num_tries=num_tries)
            failed_at = failed_at or now
            if not again or now - failed_at >= self.endpoint.patience_s:
                return Reply({}, error, num_tries=num_tries)
            await asyncio.sleep(_pause_s(num_tries, self.endpoint.patience_s - (now - failed_at)))

    def _is_silent(self) -> bool:
        """Nothing was answered for so long that what was not asked yet need not wait in its
        turn."""
        return (
            time.monotonic() - self.answered_at > self.endpoint.patience_s + self.endpoint.timeout_s
        )

    async def _try(self, ask: Request) -> tuple[Json | None, str, bool]:
        """(the answer or None, what failed, whether to try again)."""
        import httpx

        try:
            answer = await self.client.post(
                ask.path, json={"model": self.endpoint.model_name, **ask.body}
            )
        except httpx.HTTPError as failure:
            return None, f"{type(failure).__name__}: {failure}".rstrip(": "), True
        if answer.status_code != httpx.codes.OK:
            said = answer.text[:300].strip()
            return None, f"HTTP {answer.status_code}: {said}", answer.status_code not in REFUSALS
        try:
            whole = answer.json()
            first, *others = whole["choices"]
            return {"choices": [first, *others], "usage": whole.get("usage")}, "", False
        except (ValueError, KeyError, TypeError):
            return None, f"no answer in the body: {answer.text[:200]}", True


def _pause_s(num_tries: int, left_s: float) -> float:
    """Doubling from half a second to ten, each drawn anew (so that requests do not come back all at
    once)."""
    longest: float = min(10.0, 0.5 * 2 ** min(num_tries - 1, 10), max(left_s, 0.01))
    return longest * random.uniform(0.5, 1.0)


def reasoning_of(reply: Reply) -> str:
    """What the model thought before it answered, where the server tells it apart; vLLM's name for
    it, or that of others."""
    message = reply.body["choices"][0].get("message") or {}
    return str(message.get("reasoning") or message.get("reasoning_content") or "")


def reasoning_tokens_of(reply: Reply) -> int | None:
    """How many tokens of the answer were reasoning; None where the server does not tell. vLLM's
    parsers for models whose prompt opens the block of reasoning count 0: then it is the share of
    the characters."""
    reasoning, usage = reasoning_of(reply), reply.body.get("usage") or {}
    counted = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if counted or not reasoning:
        if isinstance(counted, int):
            return counted
        return None
    share = len(reasoning) / (len(reasoning) + len(content_of(reply)))
    return round(share * int(usage.get("completion_tokens") or 0))


def content_of(reply: Reply) -> str:
    """The text of a chat's or a completion's first choice, without its reasoning; empty where
    reasoning is all there is. Raises `StageFailed` for what is no text."""
    choice = reply.body["choices"][0]
    if "message" in choice:
        text = choice["message"].get("content")
    else:
        text = choice.get("text")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise StageFailed(f"the server's answer is no text: {text!r}")
    return text
