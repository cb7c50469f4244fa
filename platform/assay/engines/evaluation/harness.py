"""lm-eval: builds the questions of task files, and reads the answers. The asking in between is
`client`'s."""

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from assay.engines.cluster.progress_file import tell
from assay.engines.data.chat_masks import answer_start
from assay.engines.data.tokenize import format_of
from assay.engines.evaluation import task_files, templates, text_metrics
from assay.engines.evaluation.client import (
    Endpoint,
    Reply,
    Request,
    content_of,
    reasoning_of,
    reasoning_tokens_of,
    request_all,
)
from assay.engines.evaluation.judge import judge_digest
from assay.engines.evaluation.logprobs import Pair, Score, score
from assay.errors import UsageError
from assay.loader.named import chat_templates
from assay.records.gate import Sample, TaskResult
from assay.records.progress import Progress
from assay.records.record import digest_of
from assay.spec.gate import JudgeSpec, TaskSettings
from assay.text import normalized, without_punctuation

MAX_STOPS = 4
"""Stop sequences that OpenAI's API takes."""
DEFAULT_MAX_GEN_TOKS = 256
LENGTHS = ("max_gen_toks", "max_tokens", "max_new_tokens", "max_completion_tokens")
"""What task files call the longest answer."""
AS_THE_FILE_SAYS = TaskSettings()
BLOCKS = 8
"""In so many parts a task is asked that may be stopped early."""


@dataclass(frozen=True)
class TaskFile:
    """One task: its name, its file, how it is asked, and the digest of all of it."""

    name: str
    path: str
    digest: str
    settings: TaskSettings = AS_THE_FILE_SAYS
    wants_confidence: bool = False
    """Whether the log-probabilities of generated answers are asked for."""
    judge: JudgeSpec | None = None
    """Who reads the answers for abstentions; the matcher when not said."""
    text_metrics: tuple[str, ...] = ()
    """The gate's own scores that are made of the answers' text."""
    scoring_judge: JudgeSpec | None = None
    """Who scores the answers by a rubric; nobody when not said."""
    data_digest: str = ""
    """Over the task's data files alone, or all of the task where its data comes from a hub: what
    attempts are counted by, however else the items are asked."""


@dataclass(frozen=True)
class Answered:
    """The tasks' items, and how many requests that took."""

    tasks: tuple[TaskResult, ...]
    num_sent: int
    reused: Mapping[str, int]
    """Task to how many answers stood already."""


def task_file(
    name: str,
    path: Path,
    settings: TaskSettings = AS_THE_FILE_SAYS,
    *,
    wants_confidence: bool = False,
    judge: JudgeSpec | None = None,
    wanted_metrics: Sequence[str] = (),
    scoring_judge: JudgeSpec | None = None,
) -> TaskFile:
    """A task file with its digest; `wanted_metrics` are the scores that are made of the answers'
    text. Raises `InvalidInput` for what cannot be a task."""
    source = task_files.read(path, name, settings.functions)
    said = settings.model_dump(mode="json", exclude={"source", "functions"})
    judged = judge.model_dump(include={"url", "model"}) if judge else None
    metrics = tuple(sorted(set(wanted_metrics)))
    # Tasks without these have the digests that they had before there were any.
    scored: list[object] = [[text_metrics.VERSION, metrics]] if metrics else []
    scored += [judge_digest(scoring_judge)] if scoring_judge else []
    return TaskFile(
        name,
        str(path),
        digest_of([source.digest, said, wants_confidence, judged, *scored]),
        settings,
        wants_confidence,
        judge,
        metrics,
        scoring_judge,
        digest_of(source.data) if source.data else source.digest,
    )


def evaluate(
    endpoint: Endpoint,
    tasks: Sequence[TaskFile],
    *,
    tokenizer: str | None = None,
    answers: Path | None = None,
    progress_file: Path | None = None,
    settled: Callable[[TaskResult], bool] | None = None,
) -> Answered:
    """Every task's items with the model's answers, in the order of `tasks`. Where the server fails,
    the item has the error and no scores: that is nobody's wrong answer.

    `tokenizer` is the model's folder, for tasks that compare log-probabilities; `answers` the file
    of what this model has answered before. With `settled` a task is asked in blocks, in the order
    of its documents' digests, until that says of what was answered so far that it is enough. Raises
    `UsageError` when a task's data cannot be had."""
    asked = _Asked(endpoint, tokenizer, answers, progress_file)
    results: dict[str, TaskResult] = {}
    for as_chat in (True, False):
        chosen = [task for task in tasks if task.settings.apply_chat_template == as_chat]
        if chosen:
            results |= _evaluate(asked, chosen, as_chat=as_chat, settled=settled)
    return Answered(tuple(results[task.name] for task in tasks), asked.num_sent, asked.reused)


def load(task: TaskFile) -> Any:
    """The task as lm-eval's own object, its data read: of this machine, unless HF_HUB_OFFLINE=0
    says that the hub may be asked. Raises `UsageError` when the data cannot be had."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(name, "1")
    from lm_eval.tasks import TaskManager

    templates.use_in_lm_eval()
    path = Path(task.path)
    source = task_files.read(path, task.name, task.settings.functions)
    config = task_files.load_functions(source.config, task.settings.functions, path.parent)
    config |= _overrules(config, task.settings)
    try:
        loaded = TaskManager(include_defaults=False).load([config])["tasks"][task.name]
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise UsageError(_no_data(task, config, error)) from error
    if getattr(loaded, "UNSAFE_CODE", False):
        raise UsageError(
            f"task {task.name} runs code that the model writes, which is not offered: {task.path}"
        )
    loaded.set_fewshot_seed(seed=0)
    _compare_normalized(loaded)
    return loaded


def _compare_normalized(loaded: Any) -> None:
    """Lets lm-eval's own `exact_match` compare normalized texts: it knows no punctuation but
    ASCII's, and takes a full-width letter for another one. What it says of ASCII texts stays as it
    is."""
    from lm_eval.api.metrics import exact_match_fn

    if loaded._metric_fn_list.get("exact_match") is exact_match_fn:
        loaded._metric_fn_list["exact_match"] = partial(_exact_match, exact_match_fn)


def _exact_match(
    compare: Callable[..., dict[str, float]],
    *,
    references: Sequence[str],
    predictions: Sequence[str],
    regexes_to_ignore: Sequence[str] | None = None,
    ignore_punctuation: bool = False,
    **options: Any,
) -> dict[str, float]:
    """What `compare` says of the texts, normalized; the task's own patterns see them as they were
    written."""

    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        for pattern in regexes_to_ignore or ():
            text = re.sub(pattern, "", text)
        text = normalized(text)
        if ignore_punctuation:
            return without_punctuation(text)
        return text

    return compare(
        references=[*map(read, references)], predictions=[*map(read, predictions)], **options
    )


def block_size(num_items: int, num_concurrent: int) -> int:
    """How many items of a task are asked at once where it may be stopped early."""
    return max(num_concurrent, -(-num_items // BLOCKS))


def documents(task: TaskFile) -> list[tuple[str, str]]:
    """(question, answer) of each item, as the training data would hold them."""
    loaded = load(task)
    return [(_question(loaded, doc), _target(loaded, doc)) for doc in loaded.eval_docs]


def _overrules(config: Mapping[str, Any], settings: TaskSettings) -> dict[str, Any]:
    """What the suite says of a task, in lm-eval's words."""
    generation = dict(config.get("generation_kwargs") or {})
    if settings.temperature is not None:
        generation |= {"temperature": settings.temperature, "do_sample": settings.temperature > 0}
    if settings.max_gen_toks is not None:
        generation |= {"max_gen_toks": settings.max_gen_toks}
    said: dict[str, Any] = {"generation_kwargs": generation} if generation else {}
    fewshot = settings.num_fewshot
    if fewshot is None:
        fewshot = config.get("num_fewshot") or 0
    return {**said, "num_fewshot": fewshot}


def _no_data(task: TaskFile, config: Mapping[str, Any], error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    if config.get("dataset_path") not in ("json", "csv", "parquet", "arrow"):
        return (
            f"task {task.name} needs the data set {config.get('dataset_path')}, which is not on "
            "this machine and "
            f"cannot be fetched: {type(error).__name__}: {first}. Fetch it once where there is a "
            "network "
            "(HF_HUB_OFFLINE=0), or take the task out of the suite"
        )
    return f"{task.path}: lm-eval cannot read the task: {type(error).__name__}: {first}"


def _evaluate(
    asked: "_Asked",
    tasks: Sequence[TaskFile],
    *,
    as_chat: bool,
    settled: Callable[[TaskResult], bool] | None,
) -> dict[str, TaskResult]:
    loaded = {task.name: load(task) for task in tasks}
    asked.confident = {task.name for task in tasks if task.wants_confidence}
    limits = {task.name: task.settings.max_reasoning_toks for task in tasks}
    asked.reasoning_limits = {name: limit for name, limit in limits.items() if limit is not None}
    asked.turns = {name: field for name in loaded if (field := _turns_field(loaded[name]))}
    orders = {task.name: _order(loaded[task.name], task.settings) for task in tasks}
    samples: dict[str, list[dict[str, Any]]] = {task.name: [] for task in tasks}
    results: dict[str, TaskResult] = {}
    num_asked = dict.fromkeys(orders, 0)
    while left := [task for task in tasks if task.name not in results]:
        blocks = {}
        for task in left:
            in_blocks = (
                settled is not None and not loaded[task.name].config.num_fewshot
            )  # drawn in the order of asking
            if in_blocks:
                size = block_size(len(orders[task.name]), asked.endpoint.num_concurrent)
            else:
                size = None
            first = num_asked[task.name]
            blocks[task.name] = orders[task.name][first : first + size if size else None]
            num_asked[task.name] += len(blocks[task.name])
        for name, found in _ask_blocks(
            asked, {name: loaded[name] for name in blocks}, blocks, as_chat=as_chat
        ).items():
            samples[name] += found
        for task in left:
            unasked = orders[task.name][num_asked[task.name] :]
            result = _result(task, loaded[task.name], samples[task.name], unasked, asked)
            if not result.unasked or (settled is not None and settled(result)):
                results[task.name] = result
    return results


def _order(loaded: Any, settings: TaskSettings) -> list[int]:
    """The documents to ask, by their digests: an order that has nothing to do with what is in them,
    and is the same for every model. Of `max_items` the first."""
    digests = [_doc_digest(doc) for doc in loaded.eval_docs]
    return sorted(range(len(digests)), key=lambda index: (digests[index], index))[
        : settings.max_items
    ]


def _ask_blocks(
    asked: "_Asked", loaded: Mapping[str, Any], blocks: Mapping[str, list[int]], *, as_chat: bool
) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples of these documents of each task."""
    from lm_eval.evaluator import evaluate

    asked.blocks = {name: sorted(block) for name, block in blocks.items()}
    whole = all(len(block) == len(loaded[name].eval_docs) for name, block in blocks.items())
    outcome = evaluate(
        lm=_language_model(asked),
        task_dict={"tasks": dict(loaded), "groups": {}, "group_map": {}},
        samples=None if whole else asked.blocks,
        apply_chat_template=as_chat,
        fewshot_as_multiturn=as_chat,
        log_samples=True,
        bootstrap_iters=0,
    )
    return dict(outcome["samples"])


def _doc_digest(doc: Mapping[str, Any]) -> str:
    return digest_of(json.loads(json.dumps(doc, default=str).replace("NaN", "null")))


@dataclass
class _Asked:
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
        else:
            num_tokens = None
        if num_tokens is not None:
            self.reasoning_tokens[key] = num_tokens
        self.num_sent += result.num_tries > 0
        self.reused[instance.task_name] += result.num_tries == 0 and not result.error

    def key(self, instance: Any) -> tuple[str, int]:
        """(task, document) of a request; lm-eval numbers the documents of a block anew."""
        return instance.task_name, self.blocks[instance.task_name][instance.doc_id]

    def progress(self, done: int, of_all: int) -> None:
        """Tells how far the asking is."""
        if self.progress_file and (done % 10 == 0 or done == of_all):
            tell(self.progress_file, Progress(step=done, num_steps=of_all, text="evaluating"))


def _language_model(asked: _Asked) -> Any:
    """The served model as lm-eval knows models."""
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
            return _ChatText.of(chat_history, add_generation_prompt)

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            if isinstance(string, _ChatText) or add_special_tokens is not None:
                add_special_tokens = bool(add_special_tokens)
            elif self.words.bos_token and string.startswith(self.words.bos_token):
                add_special_tokens = False
            if add_special_tokens is None:
                extra = {}
            else:
                extra = {"add_special_tokens": add_special_tokens}
            return list(self.words.encode(string, **extra))

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return _generate(asked, requests)

        def loglikelihood(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            pairs = [self._pair(*request.args[:2]) for request in requests]
            scores = score(asked.endpoint, pairs, answers=asked.answers, progress=asked.progress)
            for request, result in zip(requests, scores, strict=True):
                asked.note(request, result)
            return [(result.logprob, result.is_greedy) for result in scores]

        def _pair(self, context: str, continuation: str) -> Pair:
            if isinstance(context, _ChatText):
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
            scores = score(asked.endpoint, pairs, answers=asked.answers, progress=asked.progress)
            for request, result in zip(requests, scores, strict=True):
                asked.note(request, result)
            return [result.logprob for result in scores]

    return Served()


class _ChatText(str):
    """A chat as JSON: lm-eval passes prompts on as strings. The server's own template renders
    it."""

    messages: list[dict[str, str]]
    add_generation_prompt: bool

    @classmethod
    def of(cls, messages: list[dict[str, str]], add_generation_prompt: bool) -> "_ChatText":
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


def _generate(asked: _Asked, requests: Sequence[Any]) -> list[str]:
    asks = [_generation(request, asked) for request in requests]
    replies = request_all(asked.endpoint, asks, answers=asked.answers, progress=asked.progress)
    answers = []
    for request, reply in zip(requests, replies, strict=True):
        asked.note(request, reply)
        answers.append("" if reply.error else _until(_answer(reply), request.args[1].get("until")))
        logprob = None if reply.error else _logprob(reply)
        if logprob is not None:
            asked.logprobs.setdefault(asked.key(request), logprob)
    return answers


def _answer(reply: Reply) -> str:
    """What was answered; some parsers leave the empty lines between reasoning and answer."""
    content = content_of(reply)
    if reasoning_of(reply):
        return content.lstrip()
    return content


def _generation(request: Any, asked: _Asked) -> Request:
    prompt, said = request.args[0], dict(request.args[1])
    with_logprobs = request.task_name in asked.confident
    stops = _stops(said.pop("until", None))
    sample = said.pop("do_sample", None)
    if sample is not False:
        temperature = float(said.pop("temperature", 0.0) or 0.0)
    else:
        temperature = 0.0
    longest = [said.pop(name, None) for name in LENGTHS]
    body: dict[str, Any] = {
        "max_tokens": next(
            (int(length) for length in longest if length is not None), DEFAULT_MAX_GEN_TOKS
        ),
        "temperature": temperature,
        "seed": 0,
        **({"stop": stops[:MAX_STOPS]} if stops else {}),
        **{
            name: said[name]
            for name in ("top_p", "top_k", "min_p", "repetition_penalty")
            if name in said
        },
    }
    if not isinstance(prompt, _ChatText):
        return Request(
            "completions",
            {"prompt": str(prompt), **body, **({"logprobs": 0} if with_logprobs else {})},
        )
    turns = request.doc.get(asked.turns.get(request.task_name, ""))
    if turns:
        body["messages"] = _with_turns(prompt.messages, turns)
    else:
        body["messages"] = prompt.messages
    if max_reasoning_tokens := asked.may_reason(request.task_name):
        # The length that the suite allows is the answer's. vLLM closes the reasoning when its own
        # length is used up. An engine refuses what is longer than its context, of which reasoning
        # may take half.
        context = 2 * asked.endpoint.max_reasoning_tokens
        body["max_tokens"] = max(
            body["max_tokens"], min(body["max_tokens"] + max_reasoning_tokens, context)
        )
        body["thinking_token_budget"] = max_reasoning_tokens
        body.pop("stop", None)  # it would cut the reasoning short; what is behind it is cut here
    if with_logprobs:
        body["logprobs"] = True
    if not prompt.add_generation_prompt:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return Request("chat/completions", body)


def _turns_field(loaded: Any) -> str:
    """The field of a task's documents that holds the chat up to the answer: its file says so under
    `metadata`."""
    return str((loaded.config.metadata or {}).get("turns", ""))


def _with_turns(
    messages: Sequence[dict[str, str]], turns: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    """A prompt in which the question is a whole chat; a system message of the chat's own takes the
    place of the task's. Solved examples stay before it."""
    chat = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns]
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
    first, tail = len(tokens), ""
    if reasoning_of(reply):
        while first and answer not in tail:
            first -= 1
            tail = str(tokens[first].get("token", "")) + tail
    else:
        first = 0
    return [float(token["logprob"]) for token in tokens[first:]]


def _result(
    task: TaskFile,
    loaded: Any,
    samples: Sequence[dict[str, Any]],
    unasked: Sequence[int],
    asked: _Asked,
) -> TaskResult:
    by_doc: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        by_doc[sample["doc_id"]].append(sample)
    higher = loaded.higher_is_better()
    items = tuple(_item(task, loaded, group, asked) for _, group in sorted(by_doc.items()))
    ids = {item.id for item in items}
    left = sorted({_unasked_id(loaded, index) for index in unasked} - ids)
    source = task_files.read(Path(task.path), task.name, task.settings.functions)
    return TaskResult(
        task=task.name,
        digest=digest_of([task.digest, sorted([*ids, *left])]),
        items=items,
        lower_is_better=tuple(
            sorted(name for name, is_higher in higher.items() if is_higher is False)
        ),
        notes=_notes(task, loaded, by_doc, items),
        files=source.files,
        unasked=tuple(left),
    )


def _notes(
    task: TaskFile,
    loaded: Any,
    by_doc: Mapping[int, Sequence[dict[str, Any]]],
    items: Sequence[Sample],
) -> dict[str, str]:
    """What is to be said of a metric besides the mean of its scores."""
    docs = [group[0]["doc"] for _, group in sorted(by_doc.items())]
    answered = [
        (item.response, _references(loaded, doc))
        for item, doc in zip(items, docs, strict=True)
        if not item.error
    ]
    responses = [response for response, _ in answered]
    references = [found for _, found in answered]
    said = {
        name: text_metrics.corpus_score(name, responses, references) for name in task.text_metrics
    }
    if "auto" in task.text_metrics:
        said["auto"] = str((loaded.config.metadata or {}).get("auto_note", ""))
    return {name: note for name, note in said.items() if note}


def _item(task: TaskFile, loaded: Any, samples: Sequence[dict[str, Any]], asked: _Asked) -> Sample:
    """One document. It has a sample for each filter; the first one's scores bear the plain
    names."""
    first, doc = samples[0], samples[0]["doc"]
    key = (task.name, first["doc_id"])
    error = asked.errors.get(key)
    is_choice = loaded.OUTPUT_TYPE == "multiple_choice"
    if is_choice:
        response, confidence = _choice(loaded, first)
    else:
        response, confidence = str(first["resps"][0][0]), asked.logprobs.get(key)
    scores = {} if error else _scores(samples)
    if confidence is not None and not error:
        scores["confidence"] = confidence if is_choice else math.exp(confidence)
    made: dict[str, float] = {}
    unscored: dict[str, str] = {}
    if not error:
        made, unscored = _text_scores(task, loaded, doc, response, scores)
    target = str(first["target"])
    return Sample(
        id=_sample_id(first["doc_hash"], target),
        prompt=_question(loaded, doc),
        target=_target(loaded, doc),
        response="" if error else response,
        scores={**made, **scores},
        unscored=unscored,
        cluster=_field(task, doc, task.settings.cluster_by) if task.settings.cluster_by else None,
        slices={name: _field(task, doc, name) for name in task.settings.slice_by},
        error=error,
        latency_s=asked.latencies.get(key),
        reasoning_tokens=asked.reasoning_tokens.get(key),
    )


def _text_scores(
    task: TaskFile, loaded: Any, doc: Mapping[str, Any], response: str, own: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, str]]:
    """The gate's own scores of a text, but for those that the task's file makes itself. `auto` is
    the one that the file names."""
    automatic = str((loaded.config.metadata or {}).get("auto", "exact_match"))
    wanted = [automatic if name == "auto" else name for name in task.text_metrics]
    missing = [
        name for name in dict.fromkeys(wanted) if name in text_metrics.NAMES and name not in own
    ]
    made, unscored = text_metrics.scores_of(
        response, _references(loaded, doc), missing, task.settings
    )
    if "auto" in task.text_metrics and (value := {**made, **own}.get(automatic)) is not None:
        made["auto"] = value
    return made, unscored


def _sample_id(doc_hash: str, target: str) -> str:
    return digest_of([doc_hash, target])


def _unasked_id(loaded: Any, index: int) -> str:
    """The id that a document's item would have."""
    from lm_eval.utils import handle_non_serializable, hash_string

    doc = loaded.eval_docs[index]
    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return _sample_id(hash_string(text), str(loaded.doc_to_target(doc)))


def _scores(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    scores = {
        name: float(samples[0][name])
        for name in samples[0]["metrics"]
        if _is_number(samples[0][name])
    }
    if len(samples) > 1:
        for sample in samples:
            named = {f"{name},{sample['filter']}": sample[name] for name in sample["metrics"]}
            scores |= {name: float(value) for name, value in named.items() if _is_number(value)}
    return scores


def _choice(loaded: Any, sample: dict[str, Any]) -> tuple[str, float | None]:
    """The choice that the model finds likeliest, and its probability among the choices."""
    choices = [str(choice) for choice in loaded.doc_to_choice(sample["doc"])]
    logprobs = [float(answer[0][0]) for answer in sample["resps"]][: len(choices)]
    if len(logprobs) < len(choices):
        return "", None
    best = max(range(len(choices)), key=logprobs.__getitem__)
    return choices[best], 1 / sum(math.exp(min(other - logprobs[best], 0.0)) for other in logprobs)


def _question(loaded: Any, doc: Mapping[str, Any]) -> str:
    """What is asked. A task whose inputs are its choices has only what is common to them."""
    text = loaded.doc_to_text(doc)
    if isinstance(text, str):
        return text
    return str(loaded.doc_to_target(doc))


def _target(loaded: Any, doc: Mapping[str, Any]) -> str:
    """The right answer in words."""
    target = loaded.doc_to_target(doc)
    if isinstance(target, int) and loaded.config.doc_to_choice is not None:
        choices = loaded.doc_to_choice(doc)
        if 0 <= target < len(choices):
            return str(choices[target])
        return str(target)
    return str(target[0] if isinstance(target, list) and target else target)


def _references(loaded: Any, doc: Mapping[str, Any]) -> list[str]:
    """The right answers in words: several where the task's target is a list."""
    target = loaded.doc_to_target(doc)
    several = isinstance(target, list) and all(isinstance(each, str) for each in target)
    if several:
        return list(target)
    return [_target(loaded, doc)]


def _field(task: TaskFile, doc: Mapping[str, Any], name: str) -> str:
    if name not in doc:
        raise UsageError(
            f"task {task.name}: its documents have no field {name}; there is: "
            f"{', '.join(sorted(doc))}"
        )
    return str(doc[name])


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
