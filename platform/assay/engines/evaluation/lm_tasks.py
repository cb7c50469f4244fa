"""A suite's tasks as lm-eval's own objects, and what their documents say."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from assay import secrets_file
from assay.engines.evaluation import task_files, templates, text_metrics
from assay.engines.evaluation.judge import judge_digest
from assay.errors import UsageError
from assay.records.record import digest_of
from assay.spec.gate import TaskSettings
from assay.spec.suite.judge import JudgeSpec
from assay.text import normalized, without_punctuation

AS_THE_FILE_SAYS = TaskSettings()


@dataclass(frozen=True)
class Scoring:
    """How a task's answers are scored, besides the way that its file names."""

    wants_confidence: bool = False
    """Whether the log-probabilities of generated answers are asked for."""
    abstention_judge: JudgeSpec | None = None
    """Who reads the answers for abstentions; the matcher when not said."""
    text_metrics: tuple[str, ...] = ()
    """The gate's own scores that are made of the answers' text, by their names' order."""
    judge: JudgeSpec | None = None
    """Who scores the answers by a rubric; nobody when not said."""


AS_LM_EVAL = Scoring()


@dataclass(frozen=True)
class TaskFile:
    """One task: its name, its file, how it is asked, and the digest of all of it."""

    name: str
    path: str
    digest: str
    settings: TaskSettings = AS_THE_FILE_SAYS
    scoring: Scoring = AS_LM_EVAL
    data_digest: str = ""
    """Over the task's data files alone, or all of the task where its data comes from a hub: what
    attempts are counted by, however else the items are asked."""


def task_file(
    name: str,
    path: Path,
    settings: TaskSettings = AS_THE_FILE_SAYS,
    scoring: Scoring = AS_LM_EVAL,
) -> TaskFile:
    """A task file with its digest. Raises `InvalidInput` for what cannot be a task."""
    source = task_files.read(path, name, settings.functions)
    overruled = settings.model_dump(mode="json", exclude={"source", "functions"})
    reader = scoring.abstention_judge
    read_by = reader.model_dump(include={"url", "model"}) if reader else None
    digested: list[object] = [source.digest, overruled, scoring.wants_confidence, read_by]
    # Tasks without these have the digests that they had before there were any.
    if scoring.text_metrics:
        digested.append([text_metrics.VERSION, scoring.text_metrics])
    if scoring.judge:
        digested.append(judge_digest(scoring.judge))
    data_digest = digest_of(source.data) if source.data else source.digest
    return TaskFile(name, str(path), digest_of(digested), settings, scoring, data_digest)


@secrets_file.lent(secrets_file.HUB)
def load(task: TaskFile) -> Any:
    """The task as lm-eval's own object, its data read: of this machine, unless HF_HUB_OFFLINE=0
    says that the hub may be asked. Raises `UsageError` when the data cannot be had."""
    # Before lm-eval is imported: both libraries read these once, when they are imported.
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


def documents(task: TaskFile) -> list[tuple[str, str]]:
    """(question, answer) of each item, as the training data would hold them."""
    loaded = load(task)
    return [(question(loaded, doc), target_text(loaded, doc)) for doc in loaded.eval_docs]


def question(loaded: Any, doc: Mapping[str, Any]) -> str:
    """What is asked. A task whose inputs are its choices has only what is common to them."""
    text = loaded.doc_to_text(doc)
    if isinstance(text, str):
        return text
    # lm-eval then keeps the inputs among the choices, and the number of the right one here.
    return str(loaded.doc_to_target(doc))


def target_text(loaded: Any, doc: Mapping[str, Any]) -> str:
    """The right answer in words."""
    target = loaded.doc_to_target(doc)
    if isinstance(target, int) and loaded.config.doc_to_choice is not None:
        choices = loaded.doc_to_choice(doc)
        if 0 <= target < len(choices):
            return str(choices[target])
        return str(target)
    if isinstance(target, list) and target:
        return str(target[0])
    return str(target)


def references(loaded: Any, doc: Mapping[str, Any]) -> list[str]:
    """The right answers in words: several where the task's target is a list."""
    target = loaded.doc_to_target(doc)
    if isinstance(target, list) and all(isinstance(each, str) for each in target):
        return list(target)
    return [target_text(loaded, doc)]


def turns_field(loaded: Any) -> str:
    """The field of a task's documents that holds the chat up to the answer: its file says so under
    `metadata`."""
    return str((loaded.config.metadata or {}).get("turns", ""))


def _overrules(config: Mapping[str, Any], settings: TaskSettings) -> dict[str, Any]:
    """What the suite says of a task, in lm-eval's words."""
    generation = dict(config.get("generation_kwargs") or {})
    if settings.temperature is not None:
        generation |= {"temperature": settings.temperature, "do_sample": settings.temperature > 0}
    if settings.max_gen_toks is not None:
        generation |= {"max_gen_toks": settings.max_gen_toks}
    fewshot = settings.num_fewshot
    if fewshot is None:
        # lm-eval puts 0 for None in `simple_evaluate`, which is not what is called here.
        fewshot = config.get("num_fewshot") or 0
    overrules: dict[str, Any] = {"num_fewshot": fewshot}
    if generation:
        overrules["generation_kwargs"] = generation
    return overrules


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
