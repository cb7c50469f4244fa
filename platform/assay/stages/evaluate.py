"""Evaluating: a deployment is asked every question of a suite, once, and its answers are kept as
evidence."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from assay.engines.cluster import tasks as ray_cluster
from assay.engines.evaluation import harness, task_files
from assay.engines.evaluation import judge as judges
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.harness import TaskFile
from assay.errors import StageFailed, UsageError
from assay.records.gate import Evaluation, EvaluationRecord, Sample, TaskResult
from assay.records.record import digest_of
from assay.records.stages import DatasetRecord, DeploymentRecord
from assay.rules.gate.abstention import abstained
from assay.rules.gate.answers import DERIVED, score_of
from assay.rules.gate.early_stopping import can_stop
from assay.rules.gate.verdict import is_settled
from assay.spec.gate import HELD_OUT, LM_EVAL, SuiteSpec, TaskSettings
from assay.spec.values.metrics import TEXT_METRICS
from assay.stages.context import Work

VERSION = 4
JUDGES = "answers/judges"
"""Folder in the home where the judges' replies are kept: they belong to no model that is judged."""
NEED_CONFIDENCE = ("brier", "ece")
"""Metrics that are made of the probability of an answer."""


@dataclass(frozen=True)
class Stopping:
    """All that it takes to see that no other answer can change what a suite decides."""

    suite: SuiteSpec
    base: Evaluation | None
    champion: Evaluation | None
    confidence: float

    @property
    def beside(self) -> tuple[Evaluation | None, Evaluation | None]:
        """What the candidate is compared with."""
        return self.base, self.champion

    def settles(self, result: TaskResult) -> bool:
        """Whether a task's answers so far are enough."""
        if not can_stop(self.suite, result.task):
            return False
        marked = _with_abstentions(
            result, [abstained(item.response) for item in result.items if not item.error], 0.5
        )
        return is_settled(self.suite, marked, self.base, self.champion, confidence=self.confidence)


@dataclass(frozen=True)
class EvalRequest:
    """One suite's tasks, and when it has seen enough of them; all of them when nothing says so."""

    tasks: tuple[TaskFile, ...]
    stopping: Stopping | None = None


def run(
    deployment: DeploymentRecord,
    wanted: Sequence[EvalRequest],
    *,
    engine: str,
    tokenizer: str | None,
    num_concurrent: int,
    work: Work,
    api_key: str = "none",
    stands: Callable[[], bool] = lambda: True,
    on_cluster: bool = True,
) -> tuple[EvaluationRecord, ...]:
    """Asks the deployment every question of every suite at once, or as many as `wanted` takes, and
    keeps the answers as evidence: one record for each suite, each with the seconds that all took
    together.

    What the same artifact has answered before, through the same `engine` (a text that tells engines
    and their settings apart), is not asked again: not by a second evaluation, nor after a crash.
    `tokenizer` is the model's folder. When the deployment does not stand any more at the end,
    nobody knows who answered: all is thrown away and `StageFailed` is raised. With `on_cluster` a
    worker of the cluster asks, else a process of this machine."""
    call = ray_cluster.call if on_cluster else ray_cluster.call_here
    work.say(f"evaluating slot {deployment.slot}")
    started = time.monotonic()
    cache = _cache(work, deployment.artifact_digest, engine)
    tasks = {task.digest: task for suite in wanted for task in suite.tasks}
    results = {digest: result for digest, task in tasks.items() if (result := cache.get(task))}
    num_reused = {digest: len(result.items) for digest, result in results.items()}
    for together in _unlike([task for task in tasks.values() if task.digest not in results]):
        stopping = {
            task.digest: [suite.stopping for suite in wanted if task in suite.tasks]
            for task in together
        }
        answered = call(
            harness.evaluate,
            Endpoint(
                deployment.url,
                deployment.model_name,
                num_concurrent,
                api_key,
                max_reasoning_tokens=deployment.max_reasoning_tokens,
            ),
            together,
            tokenizer=tokenizer,
            answers=cache.answers,
            progress_file=work.progress_file,
            settled=partial(_settled, {task.name: stopping[task.digest] for task in together}),
        )
        if not stands():
            cache.clear()
            raise StageFailed(
                f"slot {deployment.slot} got another deployment while it was evaluated; run it "
                "again"
            )
        for task, result in zip(together, answered.tasks, strict=True):
            marked = _with_abstention(result, task, cache.judged)
            results[task.digest] = _with_judge_scores(marked, task, work.settings.home / JUDGES)
            num_reused[task.digest] = answered.reused.get(task.name, 0)
            cache.put(task, results[task.digest])
    seconds = time.monotonic() - started
    return tuple(
        _keep(
            deployment.artifact_digest,
            deployment.model_name,
            [results[task.digest] for task in suite.tasks],
            sum(num_reused[task.digest] for task in suite.tasks),
            seconds,
            work,
        )
        for suite in wanted
    )


def finished(
    artifact_digest: str, model_name: str, tasks: Sequence[TaskFile], *, engine: str, work: Work
) -> EvaluationRecord | None:
    """The evaluation of an artifact that has answered all of the tasks before, through the same
    engine: no deployment is needed for it. None when something is to be asked."""
    cache = _cache(work, artifact_digest, engine)
    results = [result for task in tasks if (result := cache.get(task))]
    if not tasks or len(results) < len(tasks):
        return None
    return _keep(
        artifact_digest,
        model_name,
        results,
        sum(len(result.items) for result in results),
        0.0,
        work,
    )


def tasks_of(suite: SuiteSpec, root: Path, data: DatasetRecord | None) -> tuple[TaskFile, ...]:
    """The tasks of a suite that was loaded from `root`, with their digests, sorted by name. `data`
    has the task `heldout`; while it is not prepared yet, that task is left out. Raises `UsageError`
    for a task that cannot be had or that runs code which the suite does not allow."""
    found = []
    for name in sorted(suite.limits):
        task_settings = suite.settings(name)
        if name == HELD_OUT and data is None:
            continue
        if name == HELD_OUT and data:
            path = _held_out(data)
        else:
            path = _task_path(name, task_settings, root)
        metrics = {limit.metric for limit in suite.limits[name]}
        task = harness.task_file(
            name,
            path,
            task_settings,
            wants_confidence=not metrics.isdisjoint(NEED_CONFIDENCE),
            judge=suite.judge if task_settings.abstention == "judge" else None,
            wanted_metrics=[metric for metric in metrics if metric in TEXT_METRICS],
            scoring_judge=suite.judge if "judge" in metrics else None,
        )
        found.append(task)
    return tuple(found)


def _task_path(name: str, task_settings: TaskSettings, root: Path) -> Path:
    source = task_settings.source or f"{name}.yaml"
    if not source.startswith(LM_EVAL):
        return (root / source).absolute()
    wanted = source.removeprefix(LM_EVAL)
    found = task_files.packaged(wanted)
    if found is None:
        raise UsageError(
            f"the suite's tasks.{name}.source: lm-eval has no task {wanted}; `assay validate` says "
            "more"
        )
    return found


def _held_out(data: DatasetRecord) -> Path:
    if data.gate is None:
        raise UsageError("the suite limits `heldout`, but the spec has no data.gate")
    return Path(data.artifact.path) / HELD_OUT / f"{HELD_OUT}.yaml"


def _unlike(tasks: Sequence[TaskFile]) -> list[list[TaskFile]]:
    """The tasks in as few parts as give no part two tasks of one name: lm-eval knows tasks by their
    names."""
    parts: list[list[TaskFile]] = []
    for task in tasks:
        part = next(
            (part for part in parts if all(other.name != task.name for other in part)), None
        )
        if part is None:
            parts.append([task])
        else:
            part.append(task)
    return parts


def _settled(stopping: Mapping[str, Sequence[Stopping | None]], result: TaskResult) -> bool:
    """Whether every suite that has the task has seen enough of it."""
    return all(suite is not None and suite.settles(result) for suite in stopping[result.task])


def _cache(work: Work, artifact_digest: str, engine: str) -> "_Cache":
    return _Cache(
        work.settings.home / "answers" / digest_of([VERSION, artifact_digest, engine])[:32]
    )


class _Cache:
    """What one artifact has answered through one engine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.answers = folder / "answers.jsonl"
        self.judged = folder / "judged.jsonl"

    def get(self, task: TaskFile) -> TaskResult | None:
        """The task's finished items; None when there are none that can be read."""
        try:
            return TaskResult.model_validate_json(self._path(task).read_text())
        except (OSError, ValueError):
            return None

    def put(self, task: TaskFile, result: TaskResult) -> None:
        """Keeps a finished task. One that the server has failed is asked again next time, and so is
        what was not asked this time."""
        if result.unasked or any(_is_unfinished(item) for item in result.items):
            return
        draft = self._path(task).with_suffix(".draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(result.model_dump_json())
        draft.replace(self._path(task))

    def clear(self) -> None:
        """Forgets the single answers; those of finished tasks are from earlier evaluations and
        stay."""
        self.answers.unlink(missing_ok=True)

    def _path(self, task: TaskFile) -> Path:
        return self._folder / f"{digest_of([task.name, task.digest])[:32]}.json"


def _with_abstention(result: TaskResult, task: TaskFile, judged: Path) -> TaskResult:
    """The items with the score `abstained`, by the matcher or by the judge, and with those that
    follow from it."""
    answered = [item for item in result.items if not item.error]
    verdicts: Sequence[bool | None] = [abstained(item.response) for item in answered]
    if task.judge is not None:
        verdicts = judges.abstentions(task.judge, answered, judged)
    return _with_abstentions(result, verdicts, task.settings.penalty_threshold)


def _with_abstentions(
    result: TaskResult, verdicts: Sequence[bool | None], penalty_threshold: float
) -> TaskResult:
    """`verdicts` are of the items with an answer, in their order. One without an answer has no
    scores, and one that the judge does not read has an error."""
    answered = (item for item in result.items if not item.error)
    marked = {
        item.id: _marked(item, verdict, penalty_threshold)
        for item, verdict in zip(answered, verdicts, strict=True)
    }
    return result.model_copy(
        update={"items": tuple(marked.get(item.id, item) for item in result.items)}
    )


def _marked(item: Sample, verdict: bool | None, penalty_threshold: float) -> Sample:
    if verdict is None:
        return item.model_copy(
            update={"scores": {}, "error": "the judge did not say whether it is an abstention"}
        )
    marked = item.model_copy(update={"scores": {**item.scores, "abstained": float(verdict)}})
    derived = {
        name: value
        for name in DERIVED
        if (value := score_of(marked, name, penalty_threshold)) is not None
    }
    return marked.model_copy(update={"scores": {**marked.scores, **derived}})


def _with_judge_scores(result: TaskResult, task: TaskFile, folder: Path) -> TaskResult:
    """The items with the judge's score, from 0 to 1, where the task wants one. Where the judge gave
    none, the item says why, and has its other scores."""
    judge = task.scoring_judge
    if judge is None:
        return result
    answered = [item for item in result.items if not item.error]
    asked = [judges.Answer(item.prompt, item.response, item.target) for item in answered]
    found = {
        item.id: _judged(item, judged, judge.scale)
        for item, judged in zip(answered, judges.scores(judge, asked, folder), strict=True)
    }
    return result.model_copy(
        update={"items": tuple(found.get(item.id, item) for item in result.items)}
    )


def _judged(item: Sample, judged: judges.Judged, scale: tuple[int, int]) -> Sample:
    if judged.score is None:
        return item.model_copy(update={"unscored": {**item.unscored, "judge": judged.error}})
    lowest, highest = scale
    share = (judged.score - lowest) / (highest - lowest)
    remarks = {"judge": judged.remark} if judged.remark else {}
    return item.model_copy(update={"scores": {**item.scores, "judge": share}, "remarks": remarks})


def _is_unfinished(item: Sample) -> bool:
    """Whether asking once more may bring what is missing: an answer, or the judge's score of it."""
    return item.error is not None or "judge" in item.unscored


def _keep(
    artifact_digest: str,
    model_name: str,
    results: Sequence[TaskResult],
    num_reused: int,
    seconds: float,
    work: Work,
) -> EvaluationRecord:
    evaluation = Evaluation(
        artifact_digest=artifact_digest,
        model_name=model_name,
        tasks=tuple(results),
        seconds=seconds,
    )
    folder = work.fresh_folder(f"evidence-{artifact_digest[:12]}")
    (folder / "evaluation.json").write_text(evaluation.model_dump_json(indent=1))
    items = [item for result in results for item in result.items]
    reasoned = [item for item in items if item.reasoning_tokens]
    return EvaluationRecord(
        evidence=work.store.put(folder, "evidence"),
        artifact_digest=artifact_digest,
        num_items=len(items),
        seconds=seconds,
        num_errors=sum(_is_unfinished(item) for item in items),
        num_reused=num_reused,
        num_unasked=sum(len(result.unasked) for result in results),
        num_reasoned=len(reasoned),
        reasoning_tokens=sum(item.reasoning_tokens or 0 for item in reasoned),
        num_only_reasoned=sum(not item.response.strip() for item in reasoned),
    )
