"""lm-eval: asks a served model the questions of task files and keeps every answer.

Task files are plain YAML; one that holds a tag (lm-eval's `!function` runs Python) is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import InvalidInput, Problem, StageFailed
from assay.records.gate import Item, TaskResult
from assay.records.record import digest_of


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server."""

    url: str
    """Base URL, ending in `/v1`."""
    model_name: str
    num_concurrent: int
    api_key: str = "none"


@dataclass(frozen=True)
class TaskFile:
    """One task: its name, its file, and the digest of the file and the data it reads."""

    name: str
    path: str
    digest: str


def weigh(endpoint: Endpoint, tasks: Sequence[TaskFile]) -> list[TaskResult]:
    """Every task's items with the model's answers, in the order of `tasks`. The server's own chat template is
    used. Raises `StageFailed` when the server does not answer: that is nobody's wrong answer."""
    import os

    os.environ.setdefault("OPENAI_API_KEY", endpoint.api_key)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    import lm_eval
    from lm_eval.tasks import TaskManager

    try:
        outcome = lm_eval.simple_evaluate(
            model="local-chat-completions",
            model_args={
                "base_url": f"{endpoint.url}/chat/completions",
                "model": endpoint.model_name,
                "num_concurrent": endpoint.num_concurrent,
                "max_retries": 3,
                "timeout": 120,
                "tokenizer_backend": None,
            },
            tasks=[task_config(Path(task.path), task.name) for task in tasks],
            task_manager=TaskManager(include_defaults=False),
            apply_chat_template=True,
            log_samples=True,
            bootstrap_iters=0,
            random_seed=0,
            numpy_random_seed=0,
            torch_random_seed=0,
            fewshot_random_seed=0,
        )
    except (TimeoutError, OSError, RuntimeError, ValueError) as error:
        raise StageFailed(f"weighing through {endpoint.url} failed: {type(error).__name__}: {error}") from error
    samples = outcome["samples"]
    return [
        TaskResult(task=task.name, digest=task.digest, items=tuple(_item(sample) for sample in samples[task.name]))
        for task in tasks
    ]


def task_config(path: Path, name: str) -> dict[str, Any]:
    """The task file as lm-eval's configuration, with its data files' paths made absolute.
    Raises `InvalidInput` for a file that is no plain YAML mapping."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput([Problem(str(path), 0, 0, "", "task", f"cannot be read as plain YAML: {error}")]) from error
    if not isinstance(config, dict):
        raise InvalidInput([Problem(str(path), 0, 0, "", "task", "a task file is a YAML mapping")])
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if files is not None:
        config["dataset_kwargs"]["data_files"] = _absolute(files, path.parent)
    return {**config, "task": name}


def _absolute(files: Any, folder: Path) -> Any:
    if isinstance(files, str):
        return str((folder / files).absolute())
    if isinstance(files, list):
        return [_absolute(file, folder) for file in files]
    return {split: _absolute(file, folder) for split, file in files.items()}


def _item(sample: dict[str, Any]) -> Item:
    response = sample["resps"][0][0]
    if not isinstance(response, str):
        raise StageFailed(f"the server gave no answer to '{sample['doc'].get('question', sample['doc_id'])}'")
    target = str(sample["target"])
    prompt = str(sample["doc"].get("question") or sample["arguments"][0][0])
    scores = {metric: float(sample[metric]) for metric in sample["metrics"] if _is_number(sample[metric])}
    return Item(
        id=digest_of([sample["doc_hash"], target]),
        prompt=prompt,
        target=target,
        response=response,
        scores=scores,
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
