"""A model's answers to suites, without a run: of files in the engine's slot `reference`, or of a
server that is not ours."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from assay.engines.deployment import ray_serve
from assay.engines.evaluation import openai_api
from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import UsageError
from assay.flow.pipeline.engines import serve_for
from assay.flow.release.slots import reference_slot
from assay.records.evaluations.evaluation import URL_MARK, ModelRef, SlotEvaluation
from assay.records.gate import ServiceRecord
from assay.records.inputs import StageInputs
from assay.records.record import digest_of
from assay.records.stages import DeploymentRecord, ModelRecord
from assay.spec.gate import REQUESTS_TO_A_REPLICA, SuiteSpec
from assay.spec.serve import ServeSpec
from assay.spec.suite.measured import LoadSpec
from assay.stages import baseline, deploy, evaluate
from assay.stages.context import Work
from assay.stages.evidence import service

ELSEWHERE: Literal["elsewhere"] = "elsewhere"
"""The slot, and the engine, of a server that is not ours."""
# In flight to such a server, which has others to answer.
REQUESTS_TO_A_URL = 16


@dataclass(frozen=True)
class EvalOptions:
    """How models are asked, by whatever suite."""

    serve: ServeSpec
    num_concurrent: int | None = None
    """Requests in flight to each replica, or to a URL; REQUESTS_TO_A_REPLICA or _URL when not
    said."""
    api_key: str = "none"

    @property
    def num_to_replicas(self) -> int:
        """Requests in flight to all replicas together."""
        return (self.num_concurrent or REQUESTS_TO_A_REPLICA) * self.serve.replicas.min

    @property
    def num_to_url(self) -> int:
        """Requests in flight to a server that is not ours."""
        return self.num_concurrent or REQUESTS_TO_A_URL

    def serve_of(self, model: ModelRecord) -> ServeSpec:
        """The engine's settings, no longer a context than the model was made for."""
        return serve_for(self.serve, model)


@dataclass(frozen=True)
class EvalCase:
    """What one suite asks of a model."""

    tasks: tuple[TaskFile, ...]
    load: LoadSpec | None = None
    """Under which the service is measured; None when it is not."""
    stopping: evaluate.Stopping | None = None
    """When it has seen enough; None when it asks everything."""

    @property
    def request(self) -> evaluate.EvalRequest:
        """The questions, and how many of them."""
        return evaluate.EvalRequest(self.tasks, self.stopping)


@dataclass(frozen=True, kw_only=True)
class AnswerInputs(StageInputs):
    """What a model's answers to one suite depend on."""

    artifact_digest: str
    engine: str
    tasks: tuple[TaskFile, ...]
    load: LoadSpec | None
    num_replicas: int
    """Under the load; 0 where none is measured."""
    stops_by: SuiteSpec | None
    """The suite whose limits end the asking early."""
    beside: tuple[str, ...]
    """Digests of the answers that these are compared with then."""

    @classmethod
    def of(cls, case: EvalCase, digest: str, engine: str, num_replicas: int) -> "AnswerInputs":
        """Of a model with this digest behind this engine."""
        stopping, stops_by = case.stopping, None
        beside: list[str] = []
        if stopping is not None:
            stops_by = stopping.suite
            for other in stopping.beside:
                beside.append(digest_of(other.model_dump()) if other else "")
        return cls(
            artifact_digest=digest,
            engine=engine,
            tasks=case.tasks,
            load=case.load,
            num_replicas=num_replicas if case.load else 0,
            stops_by=stops_by,
            beside=tuple(beside),
        )


def ask_slot(
    model: ModelRecord, options: EvalOptions, engine: str, cases: Sequence[EvalCase], work: Work
) -> tuple[SlotEvaluation, ...]:
    """Deploys into the slot `reference`, asks for all suites at once, measures the service where
    that is wanted, and frees the slot, whatever happens."""
    api, serve = deploy.serve_api(work.settings), options.serve_of(model)

    def ask(deployment: DeploymentRecord) -> tuple[SlotEvaluation, ...]:
        asked = evaluate.Respondent(
            deployment=deployment,
            engine=engine,
            tokenizer=model.artifact.path,
            num_concurrent=options.num_to_replicas,
            is_deployed=lambda: ray_serve.holds(api, deployment),
        )
        evaluations = evaluate.run(asked, [case.request for case in cases], work)
        gpus = serve.engine.gpus_per_replica
        # Several suites may want the same load: it is measured once.
        measured: dict[LoadSpec, ServiceRecord] = {}
        for case in cases:
            if case.load is not None and case.load not in measured:
                inputs = service.Inputs(deployment=deployment, load=case.load, gpus_a_replica=gpus)
                measured[case.load] = service.run(inputs, work, api=api)
        found = []
        for case, evaluation in zip(cases, evaluations, strict=True):
            answers = SlotEvaluation(
                deployment=deployment,
                engine=engine,
                evaluation=evaluation,
                service=measured[case.load] if case.load else None,
            )
            found.append(answers)
        return tuple(found)

    slot = partial(reference_slot, work.settings)

    def deployed() -> DeploymentRecord:
        return deploy.into(slot(), serve, model_name="evaluated", model=model, work=work)

    return baseline.run(deploy=deployed, evaluate=ask, slot=slot, api=api)


def server(subject: ModelRef, api_key: str) -> DeploymentRecord:
    """Somebody else's server as a deployment. Its digest stands for what can be known of it: where
    it is, what it says of its model, and its revision where one was named. Without one every
    evaluation is of its own."""
    url = subject.url.rstrip("/")
    offered = openai_api.models(url, api_key)
    model = subject.model
    if not model and len(offered) == 1:
        (model,) = offered
    if model not in offered:
        there = f"it offers {', '.join(sorted(offered)) or 'none'}"
        if model:
            raise UsageError(f"{url} has no model {model!r}; {there}")
        raise UsageError(f"say which model of {url}: {there}")
    said = {}
    for key in ("id", "root", "owned_by", "max_model_len"):
        said[key] = offered[model].get(key)
    known = digest_of([url, said, subject.revision or secrets.token_hex(16)])
    return DeploymentRecord(
        slot=ELSEWHERE,
        model_name=model,
        artifact_digest=URL_MARK + known,
        url=url,
        deployed_at=time.time(),
        replicas=(),
    )


def ask_server(
    deployment: DeploymentRecord, options: EvalOptions, cases: Sequence[EvalCase], work: Work
) -> tuple[SlotEvaluation, ...]:
    """Asks somebody else's server for all suites at once."""
    asked = evaluate.Respondent(
        deployment=deployment,
        engine=ELSEWHERE,
        tokenizer=None,
        num_concurrent=options.num_to_url,
        api_key=options.api_key,
        # Nothing is deployed for it, so that no cluster has to be started either.
        on_cluster=False,
    )
    evaluations = evaluate.run(asked, [case.request for case in cases], work)
    return tuple(
        SlotEvaluation(deployment=deployment, engine=ELSEWHERE, evaluation=evaluation)
        for evaluation in evaluations
    )
