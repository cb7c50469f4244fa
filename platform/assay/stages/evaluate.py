"""Evaluating: a deployment is asked every question of a suite, once, and its answers are kept as
evidence."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from assay.engines.cluster import tasks as ray_cluster
from assay.engines.evaluation import harness, task_files
from assay.engines.evaluation import judge as judges
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.lm_tasks import Scoring, TaskFile, task_file
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
        verdicts = [abstained(item.response) for item in result.answered]
        # Any threshold will do: `can_stop` lets no limit on a penalized score through.
        marked = _with_abstentions(result, verdicts, 0.5)
        return is_settled(self.suite, marked, self.base, self.champion, confidence=self.confidence)


@dataclass(frozen=True)
class EvalRequest:
    """One suite's tasks, and when it has seen enough of them; all of them when nothing says so."""

    tasks: tuple[TaskFile, ...]
    stopping: Stopping | None = None


@dataclass(frozen=True, kw_only=True)
class Respondent:
    """A deployment, and how it is asked."""

    deployment: DeploymentRecord
    engine: str
    """Tells engines and their settings apart: what the same artifact has answered through the same
    one is not asked again."""
    tokenizer: str | None
    """Folder of the model; None where its files are not ours."""
    num_concurrent: int
    api_key: str = "none"
    is_deployed: Callable[[], bool] = lambda: True
    """Whether the deployment is still the one that it was."""
    on_cluster: bool = True
    """Whether a worker of the cluster asks, or a process of this machine."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it answers."""
        return Endpoint(
            self.deployment.url,
            self.deployment.model_name,
            self.num_concurrent,
            self.api_key,
            max_reasoning_tokens=self.deployment.max_reasoning_tokens,
        )


def run(
    asked: Respondent, requests: Sequence[EvalRequest], work: Work
) -> tuple[EvaluationRecord, ...]:
    """Asks every question of every suite at once, or as many as `requests` take, and keeps the
    answers as evidence: one record for each suite, each with the seconds that all took together.

    What the same artifact has answered before is not asked again: not by a second evaluation, nor
    after a crash. When the deployment does not stand any more at the end, nobody knows who
    answered: all is thrown away and `StageFailed` is raised."""
    deployment = asked.deployment
    work.say(f"evaluating slot {deployment.slot}")
    started = time.monotonic()
    cache = _cache(work, deployment.artifact_digest, asked.engine)
    results: dict[str, TaskResult] = {}
    num_reused: dict[str, int] = {}
    left: dict[str, TaskFile] = {}
    for request in requests:
        for task in request.tasks:
            known = cache.get(task)
            if known is None:
                left[task.digest] = task
            else:
                results[task.digest] = known
                num_reused[task.digest] = len(known.items)
    # By their digest: a task that stands in several suites is asked once.
    for together in _unlike(list(left.values())):
        answered = _ask(asked, requests, together, cache, work)
        for task, result in zip(together, answered.tasks, strict=True):
            marked = _with_abstention(result, task, cache.judged)
            results[task.digest] = _with_judge_scores(marked, task, work.settings.home / JUDGES)
            num_reused[task.digest] = answered.reused.get(task.name, 0)
            cache.put(task, results[task.digest])
    seconds = time.monotonic() - started
    records = []
    for request in requests:
        own, num_known = [], 0
        for task in request.tasks:
            own.append(results[task.digest])
            num_known += num_reused[task.digest]
        evaluation = Evaluation(
            artifact_digest=deployment.artifact_digest,
            model_name=deployment.model_name,
            tasks=tuple(own),
            seconds=seconds,
        )
        records.append(_keep(evaluation, num_known, work))
    return tuple(records)


def finished(
    artifact_digest: str, model_name: str, tasks: Sequence[TaskFile], *, engine: str, work: Work
) -> EvaluationRecord | None:
    """The evaluation of an artifact that has answered all of the tasks before, through the same
    engine: no deployment is needed for it. None when something is to be asked."""
    cache = _cache(work, artifact_digest, engine)
    results = []
    for task in tasks:
        known = cache.get(task)
        if known is None:
            return None
        results.append(known)
    if not results:
        return None
    evaluation = Evaluation(
        artifact_digest=artifact_digest, model_name=model_name, tasks=tuple(results), seconds=0.0
    )
    return _keep(evaluation, sum(len(result.items) for result in results), work)


def tasks_of(suite: SuiteSpec, root: Path, data: DatasetRecord | None) -> tuple[TaskFile, ...]:
    """The tasks of a suite that was loaded from `root`, with their digests, sorted by name. `data`
    has the task `heldout`; while it is not prepared yet, that task is left out. Raises `UsageError`
    for a task that cannot be had or that runs code which the suite does not allow."""
    found = []
    for name in sorted(suite.limits):
        task_settings = suite.settings(name)
        if name != HELD_OUT:
            path = _task_path(name, task_settings, root)
        elif data is not None:
            path = _held_out(data)
        else:
            continue
        metrics = {limit.metric for limit in suite.limits[name]}
        scoring = Scoring(
            wants_confidence=not metrics.isdisjoint(NEED_CONFIDENCE),
            abstention_judge=suite.judge if task_settings.abstention == "judge" else None,
            text_metrics=tuple(sorted(metrics.intersection(TEXT_METRICS))),
            judge=suite.judge if "judge" in metrics else None,
        )
        found.append(task_file(name, path, task_settings, scoring))
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
        for part in parts:
            if all(other.name != task.name for other in part):
                part.append(task)
                break
        else:
            parts.append([task])
    return parts


def _ask(
    asked: Respondent,
    requests: Sequence[EvalRequest],
    tasks: Sequence[TaskFile],
    cache: "_Cache",
    work: Work,
) -> harness.Answered:
    stopping = {}
    for task in tasks:
        stopping[task.name] = [request.stopping for request in requests if task in request.tasks]
    call = ray_cluster.call if asked.on_cluster else ray_cluster.call_here
    answered = call(
        harness.evaluate,
        asked.endpoint,
        tasks,
        tokenizer=asked.tokenizer,
        answers=cache.answers,
        progress_file=work.progress_file,
        settled=partial(_settled, stopping),
    )
    # Asked at the end, for it may have been given away at any time before.
    if not asked.is_deployed():
        cache.clear()
        raise StageFailed(
            f"slot {asked.deployment.slot} got another deployment while it was evaluated; run it "
            "again"
        )
    return answered


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
        # A reader sees the whole file or none: another evaluation may look at any time.
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
    answered = result.answered
    verdicts: Sequence[bool | None] = [abstained(item.response) for item in answered]
    if task.scoring.abstention_judge is not None:
        verdicts = judges.abstentions(task.scoring.abstention_judge, answered, judged)
    return _with_abstentions(result, verdicts, task.settings.penalty_threshold)


def _with_abstentions(
    result: TaskResult, verdicts: Sequence[bool | None], penalty_threshold: float
) -> TaskResult:
    """`verdicts` are of the items with an answer, in their order. One without an answer has no
    scores, and one that the judge does not read has an error."""
    answered = result.answered
    marked = {}
    for item, verdict in zip(answered, verdicts, strict=True):
        marked[item.id] = _marked(item, verdict, penalty_threshold)
    return _with_items(result, marked)


def _marked(item: Sample, verdict: bool | None, penalty_threshold: float) -> Sample:
    if verdict is None:
        return item.model_copy(
            update={"scores": {}, "error": "the judge did not say whether it is an abstention"}
        )
    marked = item.model_copy(update={"scores": {**item.scores, "abstained": float(verdict)}})
    derived = {}
    for name in DERIVED:
        value = score_of(marked, name, penalty_threshold)
        if value is not None:
            derived[name] = value
    return marked.model_copy(update={"scores": {**marked.scores, **derived}})


def _with_judge_scores(result: TaskResult, task: TaskFile, folder: Path) -> TaskResult:
    """The items with the judge's score, from 0 to 1, where the task wants one. Where the judge gave
    none, the item says why, and has its other scores."""
    judge = task.scoring.judge
    if judge is None:
        return result
    answered = result.answered
    asked = [judges.Answer(item.prompt, item.response, item.target) for item in answered]
    scored = {}
    for item, judged in zip(answered, judges.scores(judge, asked, folder), strict=True):
        scored[item.id] = _judged(item, judged, judge.scale)
    return _with_items(result, scored)


def _with_items(result: TaskResult, changed: Mapping[str, Sample]) -> TaskResult:
    """The result with these samples in the place of those of the same ids."""
    items = tuple(changed.get(item.id, item) for item in result.items)
    return result.model_copy(update={"items": items})


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


def _keep(evaluation: Evaluation, num_reused: int, work: Work) -> EvaluationRecord:
    folder = work.fresh_folder(f"evidence-{evaluation.artifact_digest[:12]}")
    (folder / "evaluation.json").write_text(evaluation.model_dump_json(indent=1))
    counts: Counter[str] = Counter()
    for result in evaluation.tasks:
        counts["num_items"] += len(result.items)
        counts["num_unasked"] += len(result.unasked)
        for item in result.items:
            counts["num_errors"] += _is_unfinished(item)
            if item.reasoning_tokens:
                counts["num_reasoned"] += 1
                counts["reasoning_tokens"] += item.reasoning_tokens
                # It thought until its tokens were used up, and said nothing.
                counts["num_only_reasoned"] += not item.response.strip()
    return EvaluationRecord(
        evidence=work.store.put(folder, "evidence"),
        artifact_digest=evaluation.artifact_digest,
        num_items=counts["num_items"],
        seconds=evaluation.seconds,
        num_errors=counts["num_errors"],
        num_reused=num_reused,
        num_unasked=counts["num_unasked"],
        num_reasoned=counts["num_reasoned"],
        reasoning_tokens=counts["reasoning_tokens"],
        num_only_reasoned=counts["num_only_reasoned"],
    )
