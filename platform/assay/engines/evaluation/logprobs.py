"""Log-probabilities of given tokens, through an OpenAI-compatible completions API.

Two ways lead to them. `echo` sends prompt and continuation and reads the log-probabilities of the
prompt; every server has it, and it is slow. vLLM also tells the log-probabilities of any tokens
that are named (`logprob_token_ids`) at the place after a prompt. So a prompt is sent once for all
its one-token continuations, and once more for each further place at which longer ones part or go
on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assay.engines.evaluation.client import Endpoint, Json, Reply, Request, request_all

Tokens = tuple[int, ...]

PROMPTS_A_REQUEST = 8
ONE_TOKEN = {"max_tokens": 1, "temperature": 0, "logprobs": 1}
# vLLM's MAX_LOGPROB_TOKEN_IDS: so many tokens may be named in one request.
TOKENS_A_REQUEST = 128
# An engine that caches prefixes keeps whole blocks of so many tokens (vLLM on CPU; fewer on
# GPUs).
CACHED_TOKENS = 32
# What a prompt costs besides its tokens, and what a token costs when its log-probability is told,
# in tokens that are computed: 58 ms for 26 tokens through Serve, of which 54 are the engine's,
# and 92 against 58 ms for 28 tokens in the engine (vLLM on CPU, SmolLM2-135M). Log-probabilities
# of a prompt are never read from the cache. They decide how it is asked, not what comes of it.
COST_OF_ASKING, COST_OF_ECHO = 4.0, 1.6


@dataclass(frozen=True)
class Pair:
    """A continuation to be scored after a context."""

    context: Tokens
    continuation: Tokens


@dataclass(frozen=True)
class Score:
    """What the model makes of a continuation."""

    logprob: float = 0.0
    """Of the whole continuation, in nats."""
    is_greedy: bool = False
    """Whether each of its tokens is the model's likeliest."""
    error: str = ""
    """Why it could not be scored: then the rest says nothing."""
    latency_s: float = 0.0
    num_tries: int = 0


@dataclass(frozen=True)
class _Position:
    """What the model said at the place after some tokens."""

    logprobs: dict[int, float]
    likeliest: int
    reply: Reply


@dataclass(frozen=True)
class _Server:
    """Where it is asked, what it has answered before, and who is told how far it is."""

    endpoint: Endpoint
    answers: Path | None
    progress: Callable[[int, int], None]

    @property
    def prompts_a_request(self) -> int:
        """No more than may be in flight."""
        return min(PROMPTS_A_REQUEST, self.endpoint.num_concurrent)

    def ask(
        self, batches: Sequence[Sequence[Tokens]], more: Sequence[Json]
    ) -> dict[Tokens, tuple[Json | None, Reply]]:
        """Of each prompt what the server says of it, if it says anything, and the reply in which it
        does. A request is made for each batch, with `more` in its body; not more prompts are in
        flight than the endpoint says requests."""
        num_concurrent = self.endpoint.num_concurrent // self.prompts_a_request
        few = replace(self.endpoint, num_concurrent=num_concurrent)
        asks = []
        for batch, own in zip(batches, more, strict=True):
            asks.append(Request("completions", {"prompt": _prompt(batch), **ONE_TOKEN, **own}))
        replies = request_all(few, asks, answers=self.answers, progress=self.progress)
        found: dict[Tokens, tuple[Json | None, Reply]] = {}
        for batch, reply in zip(batches, replies, strict=True):
            # The API does not promise the order of the prompts.
            choices = sorted(reply.body.get("choices", ()), key=lambda choice: choice["index"])
            if len(choices) != len(batch):
                choices = [None] * len(batch)
            for prompt, choice in zip(batch, choices, strict=True):
                found[prompt] = choice, reply
        return found


def score(
    endpoint: Endpoint,
    pairs: Sequence[Pair],
    *,
    answers: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, all_of_them: None,
) -> list[Score]:
    """The score of each pair, in order. Raises nothing for a server that fails: the score has the
    error."""
    server = _Server(endpoint, answers, progress)
    scores: dict[int, Score] = {}
    by_place = _worth_asking_by_place(pairs)
    told = _ask_places(server, [pairs[index] for index in by_place])
    for index, result in zip(by_place, told, strict=True):
        if result is not None:
            scores[index] = result
    # What the server did not tell in the one way is asked for in the other.
    left = [index for index in range(len(pairs)) if index not in scores]
    echoed = _ask_echo(server, [pairs[index] for index in left])
    scores.update(zip(left, echoed, strict=True))
    return [scores[index] for index in range(len(pairs))]


def _worth_asking_by_place(pairs: Sequence[Pair]) -> list[int]:
    """Pairs that are asked cheaper place by place, once what they share is paid for."""
    groups: dict[Tokens, list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.context, []).append(index)
    chosen = []
    for context, group in groups.items():
        winning, total_gain = [], 0.0
        for index in group:
            gain = _gain_by_place(pairs[index])
            if gain > 0:
                winning.append(index)
                total_gain += gain
        # Asking for the context itself is what they share, and is paid once.
        if total_gain > COST_OF_ASKING + len(context):
            chosen += winning
    return sorted(chosen)


def _gain_by_place(pair: Pair) -> float:
    """What echoing a pair costs more than asking its places after the first, in tokens."""
    cached = len(pair.context) // CACHED_TOKENS * CACHED_TOKENS
    by_place = 0.0
    for place in _places(pair)[1:]:
        by_place += COST_OF_ASKING + len(place) - cached
    return COST_OF_ASKING + COST_OF_ECHO * len(pair.context + pair.continuation) - by_place


def _places(pair: Pair) -> list[Tokens]:
    """The tokens before each token of the continuation."""
    return [pair.context + pair.continuation[:length] for length in range(len(pair.continuation))]


def _ask_places(server: _Server, pairs: Sequence[Pair]) -> list[Score | None]:
    """The scores, place by place; None where the server does not tell what was asked for."""
    wanted: dict[Tokens, set[int]] = {}
    for pair in pairs:
        for place, token in zip(_places(pair), pair.continuation, strict=True):
            wanted.setdefault(place, set()).add(token)
    contexts = {pair.context for pair in pairs}
    places: dict[Tokens, _Position | None] = {}
    # Contexts first: what follows one finds it in the engine's cache.
    for is_context in (True, False):
        part = {}
        for place, tokens in wanted.items():
            if (place in contexts) == is_context:
                part[place] = tokens
        places |= _ask_at(server, part)
    scores = []
    for pair in pairs:
        positions = [places[place] for place in _places(pair)]
        scores.append(_from_places(pair, positions))
    return scores


def _ask_at(server: _Server, wanted: Mapping[Tokens, set[int]]) -> dict[Tokens, _Position | None]:
    """What the model says at each place of the wanted tokens; None where the server does not
    tell."""
    batches = _batches(wanted, server.prompts_a_request)
    more: list[Json] = []
    for batch in batches:
        tokens: set[int] = set()
        for place in batch:
            tokens |= wanted[place]
        # As ids: two tokens may have the same text, and a text is no key then.
        more.append({"logprob_token_ids": sorted(tokens), "return_tokens_as_token_ids": True})
    positions = {}
    for place, (choice, reply) in server.ask(batches, more).items():
        positions[place] = _read_place(choice, reply)
    return positions


def _prompt(batch: Sequence[Tokens]) -> list[int] | list[list[int]]:
    """As the API takes it: one prompt may stand alone."""
    prompts = [list(prompt) for prompt in batch]
    if len(prompts) == 1:
        return prompts[0]
    return prompts


def _read_place(choice: Json | None, reply: Reply) -> _Position | None:
    # A server that refuses does not know the field.
    if _is_refused(reply):
        return None
    if reply.error:
        return _Position({}, -1, reply)
    if choice is None:
        return None
    try:
        said = {}
        for name, value in choice["logprobs"]["top_logprobs"][0].items():
            said[_token_id(name)] = float(value)
        return _Position(said, _token_id(choice["logprobs"]["tokens"][0]), reply)
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _token_id(name: str) -> int:
    """`token_id:42` is 42."""
    return int(name.removeprefix("token_id:"))


def _from_places(pair: Pair, places: Sequence[_Position | None]) -> Score | None:
    there = []
    for place in places:
        if place is None:
            return None
        there.append(place)
    latency_s, num_tries = 0.0, 0
    for place in there:
        latency_s += place.reply.latency_s
        num_tries += place.reply.num_tries
    for place in there:
        if place.reply.error:
            return Score(error=place.reply.error, latency_s=latency_s, num_tries=num_tries)
    logprob, is_greedy = 0.0, True
    for place, token in zip(there, pair.continuation, strict=True):
        if token not in place.logprobs:
            return None
        logprob += place.logprobs[token]
        is_greedy = is_greedy and place.likeliest == token
    return Score(logprob, is_greedy, latency_s=latency_s, num_tries=num_tries)


def _ask_echo(server: _Server, pairs: Sequence[Pair]) -> list[Score]:
    distinct = list(dict.fromkeys(pair.context + pair.continuation for pair in pairs))
    size = server.prompts_a_request
    found = _ask_echo_in(_several(distinct, size), server)
    refused = [whole for whole, (_, reply) in found.items() if _is_refused(reply)]
    # Some servers take one prompt at a time, or refuse all of a batch for one that is too long.
    if refused and size > 1:
        found |= _ask_echo_in(_several(refused, 1), server)
    scores = []
    for pair in pairs:
        choice, reply = found[pair.context + pair.continuation]
        scores.append(_from_echo(pair, choice, reply))
    return scores


def _ask_echo_in(
    batches: Sequence[Sequence[Tokens]], server: _Server
) -> dict[Tokens, tuple[Json | None, Reply]]:
    return server.ask(batches, [{"echo": True}] * len(batches))


def _is_refused(reply: Reply) -> bool:
    # As `client` words it; 5xx and broken connections may be otherwise next time.
    return reply.error.startswith("HTTP 4")


def _from_echo(pair: Pair, choice: Json | None, reply: Reply) -> Score:
    if reply.error:
        return Score(error=reply.error, latency_s=reply.latency_s, num_tries=reply.num_tries)
    start, end = len(pair.context), len(pair.context) + len(pair.continuation)
    try:
        said = (choice or {})["logprobs"]
        own = list(map(float, said["token_logprobs"][start:end]))
        best = [max(top.values()) for top in said["top_logprobs"][start:end]]
    except (KeyError, TypeError, ValueError, AttributeError):
        own, best = [], []
    if len(own) != end - start:
        return Score(
            error="the server tells no log-probabilities of a prompt", num_tries=reply.num_tries
        )
    is_greedy = all(mine >= other for mine, other in zip(own, best, strict=True))
    return Score(sum(own), is_greedy, latency_s=reply.latency_s, num_tries=reply.num_tries)


def _several(prompts: Sequence[Tokens], count: int) -> list[Sequence[Tokens]]:
    return [prompts[first : first + count] for first in range(0, len(prompts), count)]


def _batches(wanted: Mapping[Tokens, set[int]], most: int) -> list[list[Tokens]]:
    """The places, so many to a request as it takes."""
    batches: list[list[Tokens]] = []
    named: set[int] = set()
    for place, tokens in wanted.items():
        if not batches or len(batches[-1]) == most or len(named | tokens) > TOKENS_A_REQUEST:
            batches.append([])
            named = set()
        batches[-1].append(place)
        named |= tokens
    return batches
