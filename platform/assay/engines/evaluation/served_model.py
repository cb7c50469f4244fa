"""The served model as lm-eval knows models: what lm-eval asks becomes requests, and the replies
what lm-eval reads."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.engines.cluster.progress_file import tell
from assay.engines.data.chats.masks import answer_start
from assay.engines.data.chats.tokens import format_of
from assay.engines.evaluation.client import (
    Endpoint,
    Reply,
    Request,
    content_of,
    reasoning_of,
    reasoning_tokens_of,
    request_all,
)
from assay.engines.evaluation.logprobs import Pair, Score, score
from assay.errors import UsageError
from assay.loader.named import chat_templates
from assay.records.progress import Progress

# Stop sequences that OpenAI's API takes.
MAX_STOPS = 4
DEFAULT_MAX_GEN_TOKS = 256
LENGTHS = ("max_gen_toks", "max_tokens", "max_new_tokens", "max_completion_tokens")
"""What task files call the longest answer."""


@dataclass
class Asking:
    """What the language model that lm-eval sees has asked so far, and what went wrong."""

    endpoint: Endpoint
    tokenizer: str | None
    answers: Path | None
    progress_file: Path | None
    num_sent: int = 0
    reused: Counter[str] = field(default_factory=Counter)
    confident: set[str] = field(default_factory=set)
    """Tasks whose answers need a probability."""
    turns: dict[str, str] = field(default_factory=dict)
    """Task to the field of its documents that holds the chat up to the answer, where there is
    one."""
    blocks: dict[str, list[int]] = field(default_factory=dict)
    """Task to the documents that are being asked, in their order."""
    errors: dict[tuple[str, int], str] = field(default_factory=dict)
    """(task, document) to the server's failure."""
    latencies: dict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))
    logprobs: dict[tuple[str, int], float] = field(default_factory=dict)
    """(task, document) to the log-probability of the generated answer."""
    reasoning_limits: dict[str, int] = field(default_factory=dict)
    """Task to how long the suite lets the model reason, where it says so."""
    reasoning_tokens: dict[tuple[str, int], int] = field(default_factory=dict)
    """(task, document) to the tokens of reasoning before its answer."""

    def may_reason(self, task: str) -> int:
        """How many tokens an answer to a task may reason before it answers."""
        longest = self.endpoint.max_reasoning_tokens
        return min(longest, self.reasoning_limits.get(task, longest))

    def note(self, instance: Any, result: Reply | Score) -> None:
        """Keeps what is said of an item besides its answer."""
        key = self.key(instance)
        self.latencies[key] += result.latency_s
        if result.error:
            self.errors.setdefault(key, result.error)
        if isinstance(result, Reply) and result.body:
            num_tokens = reasoning_tokens_of(result)
            if num_tokens is not None:
                self.reasoning_tokens[key] = num_tokens
        # What was never tried stood in the file of answers, or failed before it was sent.
        self.num_sent += result.num_tries > 0
        self.reused[instance.task_name] += result.num_tries == 0 and not result.error

    def key(self, instance: Any) -> tuple[str, int]:
        """(task, document) of a request; lm-eval numbers the documents of a block anew."""
        return instance.task_name, self.blocks[instance.task_name][instance.doc_id]

    def progress(self, done: int, of_all: int) -> None:
        """Tells how far the asking is."""
        # Each word is a line on disk, and a suite has thousands of samples.
        if self.progress_file and (done % 10 == 0 or done == of_all):
            tell(self.progress_file, Progress(step=done, num_steps=of_all, text="evaluating"))


def language_model(asked: Asking) -> Any:
    """The served model as lm-eval knows models."""
    # The class is made here, because its base exists only once lm-eval is imported: that takes
    # seconds, and the command line shall not wait for them.
    from lm_eval.api.model import TemplateLM

    class Served(TemplateLM):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._words: Any = None

        @property
        def words(self) -> Any:
            if self._words is None:
                self._words = _load_tokenizer(asked.tokenizer)
            return self._words

        @property
        def eot_token_id(self) -> int:
            return int(self.words.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            first = self.words.bos_token_id
            return int(first if first is not None else self.words.eos_token_id)

        @property
        def tokenizer_name(self) -> str:
            return ""  # for lm-eval's cache of requests, which is not used

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return ChatText.of(chat_history, add_generation_prompt)

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            # A chat template writes the tokenizer's special tokens itself.
            if isinstance(string, ChatText) or add_special_tokens is not None:
                add_special_tokens = bool(add_special_tokens)
            elif self.words.bos_token and string.startswith(self.words.bos_token):
                add_special_tokens = False
            if add_special_tokens is None:
                return list(self.words.encode(string))
            return list(self.words.encode(string, add_special_tokens=add_special_tokens))

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return generate(asked, requests)

        def loglikelihood(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            pairs = [self._pair(*request.args[:2]) for request in requests]
            scores = _scores(asked, requests, pairs)
            return [(result.logprob, result.is_greedy) for result in scores]

        def _pair(self, context: str, continuation: str) -> Pair:
            if isinstance(context, ChatText):
                # Encoded as one text and cut, as lm-eval does: on its own, the first token of a
                # continuation may be another.
                text = context.rendered(self.words)
                before = self.words.encode(text, add_special_tokens=False)
                whole = self.words.encode(text + continuation, add_special_tokens=False)
                return Pair(tuple(before), tuple(whole[len(before) :]))
            if context == "":
                after = self.tok_encode(continuation, add_special_tokens=False)
                return Pair((self.prefix_token_id,), tuple(after))
            before, after = self._encode_pair(context, continuation)
            return Pair(tuple(before), tuple(after))

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            raise NotImplementedError  # `loglikelihood` asks in one go

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[float]:
            pairs = []
            for request in requests:
                tokens = self.tok_encode(request.args[0], add_special_tokens=False)
                pairs.append(Pair((self.prefix_token_id,), tuple(tokens)))
            scores = _scores(asked, requests, pairs)
            return [result.logprob for result in scores]

    return Served()


def _scores(asked: Asking, requests: Sequence[Any], pairs: Sequence[Pair]) -> list[Score]:
    scores = score(asked.endpoint, pairs, answers=asked.answers, progress=asked.progress)
    for request, result in zip(requests, scores, strict=True):
        asked.note(request, result)
    return scores


class ChatText(str):
    """A chat as JSON: lm-eval passes prompts on as strings. The server's own template renders
    it."""

    messages: list[dict[str, str]]
    add_generation_prompt: bool

    @classmethod
    def of(cls, messages: list[dict[str, str]], add_generation_prompt: bool) -> "ChatText":
        """The chat as what lm-eval passes on."""
        text = cls(json.dumps(messages, ensure_ascii=False))
        text.messages, text.add_generation_prompt = messages, add_generation_prompt
        return text

    def rendered(self, tokenizer: Any) -> str:
        """As the model sees it, by the template in the model's own folder (which the server uses
        too), up to where the words of an answer stand: a model that reasons has an empty block of
        reasoning before them, for it is the answer that is scored."""
        format = format_of(tokenizer)
        if self.add_generation_prompt:
            return answer_start(format, self.messages)
        return str(
            tokenizer.apply_chat_template(
                self.messages,
                tokenize=False,
                add_generation_prompt=False,
                continue_final_message=True,
                **chat_templates.arguments_of(Path(tokenizer.name_or_path)),
            )
        )


def _load_tokenizer(folder: str | None) -> Any:
    from transformers import AutoTokenizer

    if folder is None:
        raise UsageError(
            "a task compares log-probabilities, which takes the model's tokenizer: name its folder"
        )
    return AutoTokenizer.from_pretrained(folder)


def generate(asked: Asking, requests: Sequence[Any]) -> list[str]:
    """The answers in words, empty where the server failed."""
    asks = [_generation(request, asked) for request in requests]
    replies = request_all(asked.endpoint, asks, answers=asked.answers, progress=asked.progress)
    answers = []
    for request, reply in zip(requests, replies, strict=True):
        asked.note(request, reply)
        if reply.error:
            answers.append("")
            continue
        answers.append(_until(_answer(reply), request.args[1].get("until")))
        logprob = _logprob(reply)
        if logprob is not None:
            asked.logprobs.setdefault(asked.key(request), logprob)
    return answers


def _answer(reply: Reply) -> str:
    """What was answered; some parsers leave the empty lines between reasoning and answer."""
    content = content_of(reply)
    if reasoning_of(reply):
        return content.lstrip()
    return content


def _generation(request: Any, asked: Asking) -> Request:
    prompt, options = request.args[0], dict(request.args[1])
    body = _sampling(options)
    with_logprobs = request.task_name in asked.confident
    if not isinstance(prompt, ChatText):
        if with_logprobs:
            # Of so many other tokens at each place: the answer's own come with any number.
            body["logprobs"] = 0
        return Request("completions", {"prompt": str(prompt), **body})
    body["messages"] = prompt.messages
    turns = request.doc.get(asked.turns.get(request.task_name, ""))
    if turns:
        body["messages"] = _with_turns(prompt.messages, turns)
    if max_reasoning_tokens := asked.may_reason(request.task_name):
        # The length that the suite allows is the answer's. vLLM closes the reasoning when its own
        # length is used up. An engine refuses what is longer than its context, of which reasoning
        # may take half.
        context = 2 * asked.endpoint.max_reasoning_tokens
        longest = min(body["max_tokens"] + max_reasoning_tokens, context)
        body["max_tokens"] = max(body["max_tokens"], longest)
        body["thinking_token_budget"] = max_reasoning_tokens
        # It would cut the reasoning short; what is behind it is cut here, see `_until`.
        body.pop("stop", None)
    if with_logprobs:
        body["logprobs"] = True
    if not prompt.add_generation_prompt:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return Request("chat/completions", body)


def _sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """How an answer is drawn, in the words of OpenAI's API."""
    lengths = [options[name] for name in LENGTHS if options.get(name) is not None]
    temperature = 0.0
    if options.get("do_sample") is not False:
        temperature = float(options.get("temperature", 0.0) or 0.0)
    body: dict[str, Any] = {
        "max_tokens": int(lengths[0]) if lengths else DEFAULT_MAX_GEN_TOKS,
        "temperature": temperature,
        "seed": 0,
    }
    stops = _stops(options.get("until"))
    if stops:
        body["stop"] = stops[:MAX_STOPS]
    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        if name in options:
            body[name] = options[name]
    return body


def _with_turns(
    messages: Sequence[dict[str, str]], turns: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    """A prompt in which the question is a whole chat; a system message of the chat's own takes the
    place of the task's. Solved examples stay before it."""
    chat = []
    for turn in turns:
        chat.append({"role": str(turn["role"]), "content": str(turn["content"])})
    before = list(messages[:-1])
    if chat[0]["role"] == "system":
        before = [message for message in before if message["role"] != "system"]
        return [chat[0], *before, *chat[1:]]
    return [*before, *chat]


def _stops(until: Any) -> list[str]:
    if isinstance(until, str):
        return [until]
    return list(until or [])


def _until(text: str, until: Any) -> str:
    """The text up to the first stop sequence, of which the server was told some."""
    ends = [text.find(stop) for stop in _stops(until) if stop and stop in text]
    if ends:
        return text[: min(ends)]
    return text


def _logprob(reply: Reply) -> float | None:
    """Log-probability of the whole answer, where the server tells it."""
    said = reply.body["choices"][0].get("logprobs")
    if not said:
        return None
    if "content" in said:
        tokens = _of_the_answer(reply, said["content"])
    else:
        tokens = said["token_logprobs"]
    if tokens:
        return float(sum(tokens))
    return None


def _of_the_answer(reply: Reply, tokens: Sequence[Mapping[str, Any]]) -> list[float]:
    """The log-probabilities without those of the reasoning: of the fewest last tokens that hold the
    answer's text."""
    answer = content_of(reply).strip()
    first = 0
    if reasoning_of(reply):
        # From the end: the same words may stand in the reasoning too.
        first, tail = len(tokens), ""
        while first and answer not in tail:
            first -= 1
            tail = str(tokens[first].get("token", "")) + tail
    return [float(token["logprob"]) for token in tokens[first:]]
