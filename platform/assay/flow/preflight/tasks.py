"""A suite's tasks: their files, data and metrics, before anything is evaluated. lm-eval is not
imported."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.evaluation import task_files
from assay.errors import InvalidInput, MissingExtra, Problem
from assay.flow.preflight.places import Places, near
from assay.loader.references import SuiteFile
from assay.loader.yaml.reader import Location
from assay.spec.gate import HELD_OUT, LM_EVAL, Limit, TaskSettings
from assay.spec.values.metrics import BY_NAME, HELD_OUT_CONFIG, metric_fault, metrics_of

# Of a task's data; more is left to the evaluation.
MOST_BYTES_READ = 32 * 2**20

OTHER_NAMES = {
    "abstention": "over_abstention",
    "accuracy": "acc",
    "bleu_score": "bleu",
    "chrf++": "chrf",
    "em": "exact_match",
    "exact": "exact_match",
    "f1": "token_f1",
    "hallucination": "hallucination_rate",
    "hallucinations": "hallucination_rate",
    "llm_judge": "judge",
    "match": "exact_match",
    "refusal_rate": "over_abstention",
    "rouge": "rougeL",
    "rouge-l": "rougeL",
    "rouge_l": "rougeL",
    "rougel": "rougeL",
    "squad_f1": "token_f1",
}
"""What others call a metric."""

BOTH_WAYS = ("contains", "regex")
"""Metrics that look for something which may be wanted or not: a secret, say."""

HIGHER_IS_BETTER = ("acc", "acc_norm", "correct", "exact_match", "f1")


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before it is asked."""

    config: Mapping[str, Any]
    num_items: int | None
    """Different documents; None where they are not here."""


def check_tasks(
    file: SuiteFile, root: Path, max_model_len: int | None, *, generates_alone: bool = False
) -> Iterator[Problem]:
    """Every mistake of a suite's tasks and of the limits on them. `max_model_len` is the served
    model's, where it is known; `generates_alone` says that its engine tells no log-probabilities of
    a prompt. A task whose file is not there was told when the suite was read."""
    places = Places(file.positions)
    for task, limits in file.suite.limits.items():
        settings = file.suite.settings(task)
        try:
            path = _task_path(file, task, settings, root, places)
            config: Mapping[str, Any] = HELD_OUT_CONFIG
            if path is not None:
                config = task_files.read(path, task, settings.functions).config
                yield from _data_problems(path, config, settings, task, places)
            elif task != HELD_OUT:
                continue
        except InvalidInput as error:
            for one in error.problems:
                yield _placed(one, places, task)
            continue
        except MissingExtra:  # lm-eval's own tasks are then told where they are needed
            continue
        for index, limit in enumerate(limits):
            yield from _limit_problems(file, task, index, limit, config, places)
        if max_model_len is not None:
            yield from _length_problems(task, settings, config, max_model_len, places)
        kind = config.get("output_type", "generate_until")
        if generates_alone and kind != "generate_until":
            message = f"llama.cpp tells no log-probabilities of a prompt, which {kind} needs"
            hint = "take a task that generates, or serve with vLLM"
            yield places.problem(("limits", task), "engine", message, hint)


def num_items(task: str, settings: TaskSettings, root: Path) -> int | None:
    """Different lines of a task's data files; None where they are no JSON Lines of our own. The
    task's source is a path from `root`."""
    source = settings.source or f"{task}.yaml"
    if source.startswith(LM_EVAL):
        return None
    try:
        config = task_files.read(root / source, task, settings.functions).config
    except InvalidInput:
        return None
    try:
        lines = set()
        for file in _data_files(config):
            for line in file.read_bytes().splitlines():
                lines.add(line.strip())
    except OSError:
        return None
    return len(lines - {b""}) or None


def _task_path(
    file: SuiteFile, task: str, settings: TaskSettings, root: Path, places: Places
) -> Path | None:
    """The task's file; None for `heldout`, and for one that is not there. Raises InvalidInput for a
    task that lm-eval does not have."""
    source = settings.source or f"{task}.yaml"
    if task == HELD_OUT:
        return None
    if not source.startswith(LM_EVAL):
        path = (root / file.path).with_suffix("") / source
        if path.is_file():
            return path
        return None
    wanted = source.removeprefix(LM_EVAL)
    found = task_files.packaged(wanted)
    if found is None:
        at = ("tasks", task, "source")
        hint = near(wanted, task_files.packaged_names())
        raise InvalidInput([places.problem(at, "no_task", f"lm-eval has no task {wanted}", hint)])
    return found


def _placed(problem: Problem, places: Places, task: str) -> Problem:
    """A problem of a task's file at the line that names what it is about; else at the task's
    limit."""
    path = Path(problem.file)
    if problem.line or problem.path or not path.is_file():
        return problem
    names = [Path(word.strip("`'\",:;")).name for word in problem.message.split()]
    text = path.read_text(encoding="utf-8", errors="replace")
    stems = [Path(name).stem for name in names]
    # Whole names first. A short word of the message may stand anywhere in the file by chance.
    about = next((name for name in [*names, *stems] if len(name) > 3 and name in text), "")
    if about:
        return in_task(path, about, problem.code, problem.message, problem.hint)
    message = f"{problem.file}: {problem.message}"
    return places.problem(("limits", task), problem.code, message, problem.hint)


def _data_files(config: Mapping[str, Any]) -> list[Path]:
    """The local files of the split that is asked."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if isinstance(files, dict):
        files = files.get(_split(config))
    if isinstance(files, str):
        names = [files]
    elif isinstance(files, list):
        names = files
    else:
        names = []
    return [Path(name) for name in names if "://" not in name]


def _split(config: Mapping[str, Any]) -> str:
    return str(config.get("test_split") or config.get("validation_split") or "train")


def _data_problems(
    path: Path, config: Mapping[str, Any], settings: TaskSettings, task: str, places: Places
) -> Iterator[Problem]:
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if files is None or config.get("dataset_path") != "json":
        return
    splits = list(files) if isinstance(files, dict) else ["train"]
    if _split(config) not in splits:
        message = (
            f"the task asks the split `{_split(config)}`, and its data_files make "
            f"{', '.join(splits)}"
        )
        if splits == ["train"]:
            hint = "write `test_split: train`"
        else:
            hint = near(_split(config), splits)
        yield in_task(path, _split(config), "no_split", message, hint)
        return
    fields: set[str] = set()
    for file in _data_files(config):
        problems = list(_documents(file, fields))
        yield from problems
        if problems:
            return
    if not fields:
        return
    if config.get("process_docs") is None:
        yield from _template_problems(path, config, fields)
    at: Location = ("tasks", task, "cluster_by")
    named = [(at, settings.cluster_by)] if settings.cluster_by else []
    for index, name in enumerate(settings.slice_by):
        named.append((("tasks", task, "slice_by", index), name))
    for location, name in named:
        if name not in fields and config.get("process_docs") is None:
            message = f"the task's documents have no field {name}"
            yield places.problem(location, "no_field", message, near(name, fields))


def _documents(file: Path, fields: set[str]) -> Iterator[Problem]:
    """The mistakes in a file of documents, whose fields are added to `fields`."""
    try:
        if file.stat().st_size > MOST_BYTES_READ:
            return
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        yield Problem(str(file), 0, 0, "", "no_data", f"cannot be read: {reason}")
        return
    if file.suffix == ".json":
        return
    num_documents = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        num_documents += 1
        try:
            document = json.loads(line)
        except ValueError as error:
            column = getattr(error, "colno", 1)
            yield Problem(
                str(file), number, column, "", "json", "this line is no JSON", "one document a line"
            )
            continue
        if not isinstance(document, dict):
            yield Problem(
                str(file), number, 1, "", "json", "a document is a JSON object", "write {...}"
            )
            continue
        fields.update(document)
    if not num_documents:
        yield Problem(
            str(file), 0, 0, "", "no_data", "there are no documents in it", "the task asks nothing"
        )


def _template_problems(
    path: Path, config: Mapping[str, Any], fields: Collection[str]
) -> Iterator[Problem]:
    """Templates of the task that name what its documents do not have."""
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        said = config.get(key)
        if not isinstance(said, str) or "{%" in said:
            continue
        for name in re.findall(r"\{\{-?\s*([A-Za-z_]\w*)(?!\w|\()", said):
            if name not in fields:
                message = f"{key} names `{name}`, which the task's documents do not have"
                yield in_task(path, name, "no_field", message, near(name, fields))


def in_task(path: Path, text: str, code: str, message: str, hint: str) -> Problem:
    """A problem in a task's file, at the line where `text` stands; of what a file includes, at the
    file."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    number = next((at for at, line in enumerate(lines, start=1) if text in line), 0)
    column = lines[number - 1].index(text) + 1 if number else 0
    return Problem(str(path), number, column, "", code, message, hint)


def limit_location(file: SuiteFile, task: str, index: int, key: str) -> Location:
    """Where a key of a task's limit stands: a single limit needs no list."""
    listed: Location = ("limits", task, index, key)
    if ("limits", task, index) in file.positions.values:
        return listed
    return ("limits", task, key)


def _limit_problems(
    file: SuiteFile, task: str, index: int, limit: Limit, config: Mapping[str, Any], places: Places
) -> Iterator[Problem]:
    judge, settings = file.suite.judge, file.suite.settings(task)
    if limit.metric == "judge" and (judge is None or judge.rubric is None):
        return  # the suite itself was told so
    offered = metrics_of(config, settings, judge)
    if offered is not None and limit.metric not in offered:
        message, hint = _unknown_metric(limit.metric, offered, config, settings, file)
        yield places.problem(
            limit_location(file, task, index, "metric"), "no_metric", message, hint
        )
        return
    if fault := _wrong_way(limit, config):
        key = "at_least" if limit.at_least is not None else "at_most"
        yield places.problem(limit_location(file, task, index, key), "direction", *fault)


def _unknown_metric(
    metric: str,
    offered: Collection[str],
    config: Mapping[str, Any],
    settings: TaskSettings,
    file: SuiteFile,
) -> tuple[str, str]:
    if metric in BY_NAME:
        fault = metric_fault(metric, config, settings, file.suite.judge)
    else:
        fault = None
    if fault is not None:
        return fault
    meant = OTHER_NAMES.get(metric.lower(), "")
    if meant in offered:
        hint = f"did you mean `{meant}`?"
    else:
        hint = near(metric, offered)
    return f"the task has no metric {metric}", hint


def _wrong_way(limit: Limit, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a limit asks for the opposite of what is better, and what to do; None where it does
    not."""
    name = limit.metric.partition(",")[0]
    if name in BOTH_WAYS:
        return None
    is_higher = _is_higher_better(name, config)
    if limit.at_least is not None and is_higher is False:
        message = f"{name} is better the lower it is, and `at_least` asks for much of it"
        return message, f"write at_most: {limit.at_least:g}"
    if limit.at_most is not None and is_higher is True:
        message = f"{name} is better the higher it is, and `at_most` asks for little of it"
        hint = f"write at_least: {limit.at_most:g}"
        if name not in BY_NAME:
            hint += ", or `higher_is_better: false` of the metric in the task's file"
        return message, hint
    return None


def _is_higher_better(name: str, config: Mapping[str, Any]) -> bool | None:
    """What the task's file says, or what everybody knows; None where nobody does."""
    for entry in config.get("metric_list") or ():
        if (
            isinstance(entry, Mapping)
            and entry.get("metric") == name
            and "higher_is_better" in entry
        ):
            return bool(entry["higher_is_better"])
    if name in BY_NAME:
        return not BY_NAME[name].lower_is_better
    if name in HIGHER_IS_BETTER:
        return True
    return None


def _length_problems(
    task: str, settings: TaskSettings, config: Mapping[str, Any], max_model_len: int, places: Places
) -> Iterator[Problem]:
    said = (config.get("generation_kwargs") or {}).get("max_gen_toks")
    longest = settings.max_gen_toks or (said if isinstance(said, int) else 0)
    if longest >= max_model_len and config.get("output_type", "generate_until") == "generate_until":
        message = (
            f"answers of up to {longest} tokens leave no room in serve.engine.max_model_len "
            f"{max_model_len}"
        )
        location: Location = (
            ("tasks", task, "max_gen_toks") if settings.max_gen_toks else ("limits", task)
        )
        yield places.problem(
            location, "length", message, f"write max_gen_toks: {max_model_len // 2}"
        )
