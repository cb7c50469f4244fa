"""Engines that start early: which are told to start when, and that none is left behind. Serve is a
list of calls here; ledger, store and slots are the real ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assay.engines.cluster import local_head, tasks
from assay.engines.deployment import ray_serve
from assay.flow.pipeline import engines
from assay.flow.pipeline.context import RunContext
from assay.records.gate import EvaluationRecord
from assay.records.stages import DeploymentRecord, ModelRecord
from assay.stages import baseline, deploy
from test_flow_gate import NUM_ITEMS, Project

GIB = 2**30


class Serve:
    """Takes note of what Serve is told and asked."""

    def __init__(self, project: Project, patch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.free = 64 * GIB
        self.head_is_here = True
        patch.setattr(deploy, "start", self._start)
        patch.setattr(deploy, "wait", self._wait)
        patch.setattr(ray_serve, "remove", lambda api, slot: self.said.append(f"remove {slot}"))
        patch.setattr(ray_serve, "state", lambda api, slot: None)
        patch.setattr(local_head, "is_running", lambda settings: self.head_is_here)
        patch.setattr(
            engines.psutil, "virtual_memory", lambda: SimpleNamespace(available=self.free)
        )
        patch.setattr(engines, "ask", self._ask)
        patch.setattr(tasks, "free", lambda: tasks.ClusterSize(cpus=8, gpus=8, nodes=1))
        self._project = project

    def _start(self, slot: Any, serve: Any, *, model: ModelRecord, **_: Any) -> deploy.Started:
        with slot as name:
            self.said.append(f"start {Path(model.artifact.path).name} in {name}")
            return deploy.Started(name, 1.0)

    def _wait(
        self, started: deploy.Started, serve: Any, *, model: ModelRecord, **_: Any
    ) -> DeploymentRecord:
        self.said.append(f"wait for {started.slot}")
        return DeploymentRecord(
            slot=started.slot, model_name="bot", artifact_digest=model.artifact.digest, url="", deployed_at=1.0,
            replicas=("r1",),
        )  # fmt: skip

    def _ask(
        self, context: RunContext, deployment: DeploymentRecord, *, model: ModelRecord, **_: Any
    ) -> Any:
        self.said.append(f"ask {deployment.slot}")
        self._project.answer(context, model, 90)
        return engines._known_answers(context, model, "bot", self._project.work())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, limits={"facts": {"no_worse_than": "base", "margin": 0.1}})


@pytest.fixture
def serve(project: Project, monkeypatch: pytest.MonkeyPatch) -> Serve:
    return Serve(project, monkeypatch)


@pytest.fixture
def context(project: Project) -> RunContext:
    context = project.context(project.model("new"), 90)
    context.records["fetch"] = project.model("old")
    return context


def test_both_engines_start_before_either_is_waited_for(
    project: Project, serve: Serve, context: RunContext
) -> None:
    engines.start_base_early(context, project.work())
    assert serve.said == [f"start {digest(context.model)} in reference"]
    asked = base_answers(project, context)
    assert (asked.artifact_digest, asked.num_items) == (context.model.artifact.digest, NUM_ITEMS)
    deployed = deploy_candidate(project, context)
    assert deployed.artifact_digest == context.candidate.artifact.digest
    assert serve.said[1:] == [
        f"start {digest(context.candidate)} in blue",
        "wait for reference",
        "ask reference",
        "remove reference",
        "wait for blue",
    ]
    engines.stop_unasked(context)
    assert serve.said[-1] == "wait for blue", "nothing is left to stop"


@pytest.mark.parametrize("lacking", ["memory", "head", "processors"])
def test_without_room_each_engine_starts_when_it_is_its_turn(
    project: Project, serve: Serve, context: RunContext, lacking: str
) -> None:
    serve.free = (9 if lacking != "memory" else 7) * GIB
    serve.head_is_here = lacking != "head"
    work = project.work()
    if lacking == "processors":
        object.__setattr__(work, "on_gpu", True)
    engines.start_base_early(context, work)
    assert serve.said == []
    base_answers(project, context)
    deploy_candidate(project, context)
    assert [said.split()[0] for said in serve.said] == [
        "remove",
        "start",
        "wait",
        "ask",
        "remove",
        "remove",
        "start",
        "wait",
    ]


def test_a_base_model_that_has_answered_is_not_started(
    project: Project, serve: Serve, context: RunContext
) -> None:
    project.answer(context, context.model, 80)
    engines.start_base_early(context, project.work())
    base_answers(project, context)
    assert serve.said == []


def test_a_run_that_stops_in_between_leaves_no_engine(
    project: Project, serve: Serve, context: RunContext
) -> None:
    engines.start_base_early(context, project.work())
    engines.stop_unasked(context)
    engines.stop_unasked(context)
    assert serve.said == [f"start {digest(context.model)} in reference", "remove reference"]


def digest(model: ModelRecord) -> str:
    return Path(model.artifact.path).name


def base_answers(project: Project, context: RunContext) -> EvaluationRecord:
    inputs = baseline.Inputs(
        artifact_digest=context.model.artifact.digest,
        engine=context.spec.serve.engine,
        replicas=context.spec.serve.replicas,
        tasks=context.tasks,
    )
    return engines.base_answers(context, inputs, project.work())


def deploy_candidate(project: Project, context: RunContext) -> DeploymentRecord:
    inputs = deploy.Inputs(model=context.candidate, model_name="bot", serve=context.spec.serve)
    return engines.deploy_candidate(context, inputs, project.work())
