"""lm-eval: asks a served model the questions of task files, all at once or in blocks, and hands
back what came of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.lm_tasks import TaskFile, load, turns_field
from assay.engines.evaluation.samples import result_of
from assay.engines.evaluation.served_model import Asking, language_model
from assay.records.gate import TaskResult
from assay.records.record import digest_of
from assay.spec.gate import TaskSettings

# In so many parts a task is asked that may be stopped early.
BLOCKS = 8


@dataclass(frozen=True)
class Answered:
    """The tasks' items, and how many requests that took."""

    tasks: tuple[TaskResult, ...]
    num_sent: int
    reused: Mapping[str, int]
    """Task to how many answers stood already."""


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
    asked = Asking(endpoint, tokenizer, answers, progress_file)
    results: dict[str, TaskResult] = {}
    for as_chat in (True, False):
        chosen = [task for task in tasks if task.settings.apply_chat_template == as_chat]
        if chosen:
            results |= _evaluate(asked, chosen, as_chat=as_chat, settled=settled)
    return Answered(tuple(results[task.name] for task in tasks), asked.num_sent, asked.reused)


def block_size(num_items: int, num_concurrent: int) -> int:
    """How many items of a task are asked at once where it may be stopped early."""
    return max(num_concurrent, -(-num_items // BLOCKS))


def _evaluate(
    asked: Asking,
    tasks: Sequence[TaskFile],
    *,
    as_chat: bool,
    settled: Callable[[TaskResult], bool] | None,
) -> dict[str, TaskResult]:
    under_way = {}
    for task in tasks:
        under_way[task.name] = _UnderWay.of(task, asked, in_blocks=settled is not None)
    asked.confident = {task.name for task in tasks if task.scoring.wants_confidence}
    asked.reasoning_limits = {}
    asked.turns = {}
    for name, it in under_way.items():
        limit = it.task.settings.max_reasoning_toks
        if limit is not None:
            asked.reasoning_limits[name] = limit
        if field_name := turns_field(it.loaded):
            asked.turns[name] = field_name
    results: dict[str, TaskResult] = {}
    while left := {name: it for name, it in under_way.items() if name not in results}:
        _ask_blocks(asked, left, as_chat=as_chat)
        for name, it in left.items():
            result = result_of(it.task, it.loaded, it.samples, it.order[it.num_asked :], asked)
            if not result.unasked or (settled is not None and settled(result)):
                results[name] = result
    return results


@dataclass
class _UnderWay:
    """A task that is being asked, block by block."""

    task: TaskFile
    loaded: Any
    order: list[int]
    """Its documents, as they are asked."""
    block_size: int
    num_asked: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    """lm-eval's notes of what was asked."""

    @classmethod
    def of(cls, task: TaskFile, asked: Asking, *, in_blocks: bool) -> "_UnderWay":
        """The task before its first question."""
        loaded = load(task)
        order = _order(loaded, task.settings)
        size = len(order)
        # lm-eval draws the solved examples in the order of asking: in blocks they would be others.
        if in_blocks and not loaded.config.num_fewshot:
            size = block_size(len(order), asked.endpoint.num_concurrent)
        return cls(task, loaded, order, size)

    def next_block(self) -> list[int]:
        """The documents to ask next, which then count as asked."""
        first = self.num_asked
        block = self.order[first : first + self.block_size]
        self.num_asked += len(block)
        return block


def _order(loaded: Any, settings: TaskSettings) -> list[int]:
    """The documents to ask, by their digests: an order that has nothing to do with what is in them,
    and is the same for every model. Of `max_items` the first."""
    digests = [_doc_digest(doc) for doc in loaded.eval_docs]
    order = sorted(range(len(digests)), key=lambda index: (digests[index], index))
    return order[: settings.max_items]


def _ask_blocks(asked: Asking, left: Mapping[str, _UnderWay], *, as_chat: bool) -> None:
    """Asks the next documents of each task."""
    from lm_eval.evaluator import evaluate

    asked.blocks, loaded, whole = {}, {}, True
    for name, it in left.items():
        asked.blocks[name] = sorted(it.next_block())
        loaded[name] = it.loaded
        whole = whole and len(asked.blocks[name]) == len(it.loaded.eval_docs)
    outcome = evaluate(
        lm=language_model(asked),
        task_dict={"tasks": loaded, "groups": {}, "group_map": {}},
        samples=None if whole else asked.blocks,
        apply_chat_template=as_chat,
        fewshot_as_multiturn=as_chat,
        log_samples=True,
        # The standard errors that lm-eval would draw: the gate makes its own bounds.
        bootstrap_iters=0,
    )
    for name, found in outcome["samples"].items():
        left[name].samples += found


def _doc_digest(doc: Mapping[str, Any]) -> str:
    # NaN is no JSON, and `digest_of` refuses it; a data set's empty cell is read as one.
    return digest_of(json.loads(json.dumps(doc, default=str).replace("NaN", "null")))
