"""What lm-eval has noted of a task's documents, as the gate's samples."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.engines.evaluation import task_files, text_metrics
from assay.engines.evaluation.lm_tasks import TaskFile, question, references, target_text
from assay.engines.evaluation.served_model import Asking
from assay.errors import UsageError
from assay.records.gate import Sample, TaskResult
from assay.records.record import digest_of


def result_of(
    task: TaskFile,
    loaded: Any,
    samples: Sequence[dict[str, Any]],
    unasked: Sequence[int],
    asked: Asking,
) -> TaskResult:
    """What came of a task: lm-eval's `samples` of the documents that were asked, and the ids of
    those that were not."""
    by_doc: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        by_doc[sample["doc_id"]].append(sample)
    higher = loaded.higher_is_better()
    # None is "not said", and no word for the opposite.
    lower_is_better = [name for name, is_higher in higher.items() if is_higher is False]
    items = []
    for _, group in sorted(by_doc.items()):
        items.append(_sample(task, loaded, group, asked))
    ids = {item.id for item in items}
    # A document may stand twice in a task, and be asked once.
    left = sorted({_unasked_id(loaded, index) for index in unasked} - ids)
    source = task_files.read(Path(task.path), task.name, task.settings.functions)
    return TaskResult(
        task=task.name,
        digest=digest_of([task.digest, sorted([*ids, *left])]),
        items=tuple(items),
        lower_is_better=tuple(sorted(lower_is_better)),
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
    metrics = task.scoring.text_metrics
    responses, rights = [], []
    for item, (_, group) in zip(items, sorted(by_doc.items()), strict=True):
        if not item.error:
            responses.append(item.response)
            rights.append(references(loaded, group[0]["doc"]))
    notes = {}
    for name in metrics:
        notes[name] = text_metrics.corpus_score(name, responses, rights)
    if "auto" in metrics:
        notes["auto"] = str((loaded.config.metadata or {}).get("auto_note", ""))
    return {name: note for name, note in notes.items() if note}


def _sample(
    task: TaskFile, loaded: Any, samples: Sequence[dict[str, Any]], asked: Asking
) -> Sample:
    """One document. It has a sample for each filter; the first one's scores bear the plain
    names."""
    first, doc, settings = samples[0], samples[0]["doc"], task.settings
    key = (task.name, first["doc_id"])
    error = asked.errors.get(key)
    response = ""
    scores: dict[str, float] = {}
    unscored: dict[str, str] = {}
    if not error:
        response, confidence = _answer(loaded, first, asked.logprobs.get(key))
        own = _scores(samples)
        if confidence is not None:
            own["confidence"] = confidence
        made, unscored = _text_scores(task, loaded, doc, response, own)
        scores = {**made, **own}
    cluster = None
    if settings.cluster_by:
        cluster = _field(task, doc, settings.cluster_by)
    return Sample(
        id=_sample_id(first["doc_hash"], str(first["target"])),
        prompt=question(loaded, doc),
        target=target_text(loaded, doc),
        response=response,
        scores=scores,
        unscored=unscored,
        cluster=cluster,
        slices={name: _field(task, doc, name) for name in settings.slice_by},
        error=error,
        latency_s=asked.latencies.get(key),
        reasoning_tokens=asked.reasoning_tokens.get(key),
    )


def _answer(loaded: Any, sample: dict[str, Any], logprob: float | None) -> tuple[str, float | None]:
    """The answer, and its probability where that is known."""
    if loaded.OUTPUT_TYPE == "multiple_choice":
        return _choice(loaded, sample)
    response = str(sample["resps"][0][0])
    if logprob is None:
        return response, None
    return response, math.exp(logprob)


def _text_scores(
    task: TaskFile, loaded: Any, doc: Mapping[str, Any], response: str, own: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, str]]:
    """The gate's own scores of a text, but for those that the task's file makes itself. `auto` is
    the one that the file names."""
    metrics = task.scoring.text_metrics
    automatic = str((loaded.config.metadata or {}).get("auto", "exact_match"))
    missing: list[str] = []
    for metric in metrics:
        name = automatic if metric == "auto" else metric
        if name in text_metrics.NAMES and name not in own and name not in missing:
            missing.append(name)
    rights = references(loaded, doc)
    made, unscored = text_metrics.scores_of(response, rights, missing, task.settings)
    value = own.get(automatic, made.get(automatic))
    if "auto" in metrics and value is not None:
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
    scores = _numbers(samples[0])
    if len(samples) > 1:
        for sample in samples:
            named = _numbers(sample)
            scores |= {f"{name},{sample['filter']}": value for name, value in named.items()}
    return scores


def _numbers(sample: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one of lm-eval's samples. Some are no numbers: the answer and the reference
    of a corpus-wide metric, which lm-eval aggregates later."""
    numbers = {}
    for name in sample["metrics"]:
        if _is_number(sample[name]):
            numbers[name] = float(sample[name])
    return numbers


def _choice(loaded: Any, sample: dict[str, Any]) -> tuple[str, float | None]:
    """The choice that the model finds likeliest, and its probability among the choices."""
    choices = [str(choice) for choice in loaded.doc_to_choice(sample["doc"])]
    logprobs = [float(answer[0][0]) for answer in sample["resps"]][: len(choices)]
    if len(logprobs) < len(choices):
        return "", None
    best = max(range(len(choices)), key=logprobs.__getitem__)
    # The softmax over the choices, written so that no exponential can overflow.
    ratios = [math.exp(min(other - logprobs[best], 0.0)) for other in logprobs]
    return choices[best], 1 / sum(ratios)


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
