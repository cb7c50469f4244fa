"""Weighing without a run: any model's files, or any OpenAI-compatible server, decided by a suite.

Files go into the store and the engine's slot `reference`, which never has traffic. What was weighed once is not
weighed again: answers are kept by the digests of the bytes, the engine and the tasks.
"""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from assay.engines import openai_api, ray_serve
from assay.engines.lm_eval_harness import TaskFile
from assay.errors import UsageError
from assay.flow import report as reports
from assay.flow.attempts import begin_attempt
from assay.flow.line import Line, Watcher, only_one
from assay.flow.standing import champion_model
from assay.flow.steps import engine_mark, folder_mark
from assay.place import Place
from assay.records.gate import Attempt, GateRecord, ServiceRecord, WeighingRecord
from assay.records.record import digest_of
from assay.records.stages import DeploymentRecord, ModelRecord
from assay.records.weighing import URL_MARK, SlotWeighing, Subject, WeighingRequest
from assay.spec.gate import LoadSpec, SuiteSpec
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec, ServeSpec
from assay.stages import baseline, deploy, fetch, gate, service, weigh
from assay.stages.work import Work
from assay.store.ledger import Ledger

ELSEWHERE: Literal["elsewhere"] = "elsewhere"
"""The slot, and the engine, of a server that is not ours."""


@dataclass(frozen=True)
class Weighed:
    """What came of a weighing without a run."""

    name: str
    """Under which the ledger keeps it; `assay report` and `assay gate compare` find it by this."""
    gate: GateRecord
    num_stages_run: int
    """0 when everything stood already."""


def run(
    request: WeighingRequest,
    suite: SuiteSpec,
    *,
    root: Path,
    place: Place,
    watcher: Watcher,
    before_work: Callable[[], None],
    api_key: str = "none",
    num_concurrent: int = 16,
) -> Weighed:
    """Weighs the candidate, and the base model where one is named, and decides. `before_work` is called once, before
    the first thing that is not on record. Raises `UsageError` for a suite that cannot be asked without a run."""
    _check(request, suite)
    tasks = weigh.tasks_of(suite, root, None)
    digest = gate.suite_digest(suite, tasks)
    name = _name(request, digest)
    ledger = Ledger(place.ledger_url)
    with only_one(place.run_folder(name), name):
        ledger.open_run(name, name="(gate run)", spec=request.model_dump_json(), started_by=place.user)
        line = Line(name, place, root, ledger, watcher, before_work)
        serve = ServeSpec(engine=EngineSpec.model_validate(request.engine))
        asking = Asking(tasks, serve, num_concurrent, api_key, suite.service.load if suite.service else None)
        base = _weigh(request.base, replace(asking, load=None), line, "-base").weighing if request.base else None
        champion = _champion(suite, asking, line) or base
        candidate = _weigh(request.candidate, asking, line, begin=partial(_begin, suite, tasks, line))
        attempt = _begin(suite, tasks, line, candidate.deployment.artifact_digest, candidate.engine)
        decided = line.record(
            "gate",
            digest_of(
                [
                    "gate",
                    gate.VERSION,
                    digest,
                    candidate.model_dump(),
                    base.evidence.digest if base else None,
                    champion.evidence.digest if champion and "champion" in suite.references else None,
                    attempt.model_dump(),
                ]
            ),
            GateRecord,
            lambda work: gate.run(
                suite,
                suite_file=", ".join(request.suite),
                tasks=tasks,
                deployment=candidate.deployment,
                base=base,
                champion=champion if "champion" in suite.references else None,
                weigh=lambda _: candidate.weighing,
                attempt=attempt,
                service=candidate.service,
                selftest=reports.summary(reports.newest_selftest(digest, ledger)),
                work=work,
            ),
            needs_cluster=False,
        )
    return Weighed(name, decided, line.num_run)


@dataclass(frozen=True)
class Asking:
    """How models are asked."""

    tasks: tuple[TaskFile, ...]
    serve: ServeSpec
    num_concurrent: int
    api_key: str
    load: LoadSpec | None = None
    """Under which the service is measured; None when it is not."""

    @property
    def reads(self) -> object:
        """What the answers depend on, besides the model and the engine."""
        return [[[task.name, task.digest] for task in self.tasks], self.load.model_dump() if self.load else None]

    def serve_for(self, model: ModelRecord) -> ServeSpec:
        """The engine's settings, no longer a context than the model was made for."""
        engine = self.serve.engine
        if not 0 < model.context_length < engine.max_model_len:
            return self.serve
        fitting = {**engine.model_dump(), "max_model_len": model.context_length}
        return ServeSpec(engine=EngineSpec.model_validate(fitting))


def _check(request: WeighingRequest, suite: SuiteSpec) -> None:
    """Refuses what only a run can answer."""
    if weigh.HELD_OUT in suite.limits:
        raise UsageError(
            f"the suite limits `{weigh.HELD_OUT}`, the split that a spec keeps sealed; without a run there is none"
        )
    if "base" in suite.references and request.base is None:
        raise UsageError("the suite compares with the base model; name it with --base")


def _name(request: WeighingRequest, digest: str) -> str:
    candidate = request.candidate
    said = candidate.model or urlsplit(candidate.url).hostname or Path(candidate.source.partition("@")[0]).name
    slug = re.sub(r"[^\w.-]+", "-", said).strip("-.") or "model"
    return f"{slug}-{digest_of([request.model_dump(), digest])[:6]}"


def _weigh(
    subject: Subject, asking: Asking, line: Line, mark: str = "", begin: Callable[[str, str], object] | None = None
) -> SlotWeighing:
    """The subject's answers; `mark` tells the stages of the base model from the candidate's. `begin` is told of the
    model's digest and the engine before it is asked anything."""
    digest: str
    engine: str
    how: Callable[[Work], SlotWeighing]
    if subject.url:
        deployment = _server(subject, asking.api_key)
        digest, engine, how = deployment.artifact_digest, ELSEWHERE, partial(_ask_server, deployment, asking)
    else:
        model = _fetch(subject, line, mark)
        serve = asking.serve_for(model)
        digest, engine = model.artifact.digest, engine_mark(serve.engine, line.place)
        how = partial(ask_slot, model, serve, engine, asking)
    if begin is not None:
        begin(digest, engine)
    key = digest_of(["weigh", weigh.VERSION, digest, engine, asking.reads])
    return line.record(f"weigh{mark}", key, SlotWeighing, how, stands=_is_answered)


def _champion(suite: SuiteSpec, asking: Asking, line: Line) -> WeighingRecord | None:
    """The champion's answers, where the suite compares with it; it is asked in a slot of its own, for its users have
    the other. None when nobody has the traffic, or its model is not in the ledger any more."""
    champion = line.ledger.champion() if "champion" in suite.references else None
    if champion is None:
        return None
    model = champion_model(champion, line.ledger)
    if model is None:
        return None
    alone = replace(asking, load=None)
    serve = alone.serve_for(model)
    engine = engine_mark(serve.engine, line.place)
    key = digest_of(["weigh", weigh.VERSION, model.artifact.digest, engine, alone.reads])
    how = partial(ask_slot, model, serve, engine, alone)
    return line.record("weigh-champion", key, SlotWeighing, how, stands=_is_answered).weighing


def _is_answered(found: SlotWeighing) -> bool:
    return not found.weighing.num_errors


def _begin(suite: SuiteSpec, tasks: Sequence[TaskFile], line: Line, digest: str, engine: str) -> Attempt:
    """Counts the candidate among those that were weighed with these items."""
    return begin_attempt(suite, tasks, artifact_digest=digest, engine=engine, run=line.name, ledger=line.ledger)


def _fetch(subject: Subject, line: Line, mark: str) -> ModelRecord:
    source = ModelSpec(source=subject.source)
    return line.record(
        f"fetch{mark}",
        digest_of(["fetch", fetch.VERSION, source.model_dump(), folder_mark(source, line.root)]),
        ModelRecord,
        lambda work: fetch.run(source, work=work),
    )


def ask_slot(model: ModelRecord, serve: ServeSpec, engine: str, asking: Asking, work: Work) -> SlotWeighing:
    """Deploys into the slot `reference`, asks, measures the service where that is wanted, and frees the slot, whatever
    happens."""
    api = deploy.serve_api(work)
    found: list[tuple[DeploymentRecord, ServiceRecord | None]] = []

    def ask(deployment: DeploymentRecord) -> WeighingRecord:
        weighing = weigh.run(
            deployment,
            asking.tasks,
            engine=engine,
            tokenizer=model.artifact.path,
            num_concurrent=asking.num_concurrent,
            work=work,
            stands=lambda: ray_serve.holds(api, deployment),
        )
        gpus = serve.engine.tensor_parallel_size
        load = asking.load
        measured = (
            service.run(load, deployment=deployment, gpus_a_replica=gpus, api=api, work=work)
            if load is not None
            else None
        )
        found.append((deployment, measured))
        return weighing

    into = partial(deploy.into, "reference", serve, model_name="weighed", model=model, work=work)
    weighing = baseline.run(deploy=into, weigh=ask, api=api)
    ((deployment, measured),) = found
    return SlotWeighing(deployment=deployment, engine=engine, weighing=weighing, service=measured)


def _server(subject: Subject, api_key: str) -> DeploymentRecord:
    """Somebody else's server as a deployment. Its digest stands for what can be known of it: where it is, what it
    says of its model, and its revision where one was named. Without one every weighing is of its own."""
    url = subject.url.rstrip("/")
    offered = openai_api.models(url, api_key)
    model = subject.model or (next(iter(offered)) if len(offered) == 1 else "")
    if model not in offered:
        there = f"it offers {', '.join(sorted(offered)) or 'none'}"
        raise UsageError(f"{url} has no model {model!r}; {there}" if model else f"say which model of {url}: {there}")
    said = {key: offered[model].get(key) for key in ("id", "root", "owned_by", "max_model_len")}
    known = digest_of([url, said, subject.revision or secrets.token_hex(16)])
    return DeploymentRecord(
        slot=ELSEWHERE,
        model_name=model,
        artifact_digest=URL_MARK + known,
        url=url,
        deployed_at=time.time(),
        replicas=(),
    )


def _ask_server(deployment: DeploymentRecord, asking: Asking, work: Work) -> SlotWeighing:
    weighing = weigh.run(
        deployment,
        asking.tasks,
        engine=ELSEWHERE,
        tokenizer=None,
        num_concurrent=asking.num_concurrent,
        work=work,
        api_key=asking.api_key,
    )
    return SlotWeighing(deployment=deployment, engine=ELSEWHERE, weighing=weighing)
