"""The gate within a run: attempts at the sealed items, and the champion beside the candidate. All
answers stand already, so no model is asked; ledger, store, stages and rules are the real ones."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.engines.deployment.application import engine_packages
from assay.errors import UsageError
from assay.flow.pipeline.attempts import check_attempts_left
from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.engines import ask
from assay.flow.pipeline.graph import Stage, stages_of
from assay.flow.pipeline.keys import run_id
from assay.loader.load import load_suites
from assay.records.gate import ContaminationRecord, EvaluationRecord, GateRecord, Sample, TaskResult
from assay.records.inputs import StoredInputs
from assay.records.record import digest_of
from assay.records.releases.release import Champion
from assay.records.stages import DatasetRecord, DeploymentRecord, ModelRecord, SplitRecord
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.stages import evaluate, gate
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger

NUM_ITEMS = 100


class Project:
    """A spec, a suite of one task, and models whose answers are known."""

    def __init__(self, folder: Path, **suite: object) -> None:
        self.folder = folder
        self.settings = Settings(
            home=folder / "home",
            ledger_url=f"sqlite:///{folder / 'ledger.db'}",
            engine_python=sys.executable,
            user="ben",
        )
        self.ledger = Ledger(self.settings.ledger_url)
        self.store = ArtifactStore(self.settings.home / "artifacts")
        (folder / "suite").mkdir()
        self.write_items("a")
        task = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": "facts.jsonl"},
            "task": "facts",
        }
        (folder / "suite/facts.yaml").write_text(yaml.safe_dump(task))
        self.write_suite(**suite)

    def write_items(self, mark: str) -> None:
        lines = [
            json.dumps({"question": f"{mark} {index}", "answer": "!"}) for index in range(NUM_ITEMS)
        ]
        (self.folder / "suite/facts.jsonl").write_text("\n".join(lines))

    def write_suite(self, **suite: object) -> None:
        said = {"limits": {"facts": {"at_least": 0.5}}, **suite}
        (self.folder / "suite.yaml").write_text(yaml.safe_dump(said))

    def model(self, name: str) -> ModelRecord:
        (made := self.folder / name).mkdir()
        (made / "model.safetensors").write_text(name)
        model = self.store.put(made, "model")
        return ModelRecord(
            artifact=model, architecture="L", num_parameters=1, num_layers=1, context_length=8
        )

    def context(
        self, candidate: ModelRecord, num_right: int, champion: Champion | None = None
    ) -> RunContext:
        """A run that has come to the gate; its candidate has answered so many items right."""
        spec = Spec.model_validate(
            {
                "version": 1,
                "name": "bot",
                "model": "hf:some/model",
                "data": {"train": "train.jsonl"},
                "gate": {
                    "suite": "suite.yaml",
                    "baseline": "none" if champion is None else "champion",
                },
                "approval": {"reviewers": ["anna"]},
            }
        )
        suite = load_suites(["suite.yaml"], self.folder)
        context = RunContext(spec, suite, self.folder, self.settings, champion)
        empty = SplitRecord(
            file="", digest="", num_examples=0, num_tokens=0, num_completion_tokens=0
        )
        context.records = {
            "compress": candidate,
            "prepare": DatasetRecord(
                artifact=candidate.artifact, train=empty, selection=empty, gate=None,
                num_dropped_too_long=0, num_dropped_duplicates=0,
            ),
            "deploy": DeploymentRecord(
                slot="blue", model_name="bot", artifact_digest=candidate.artifact.digest, url="", deployed_at=1.0,
                replicas=("r1",),
            ),
        }  # fmt: skip
        self.answer(context, candidate, num_right)
        context.records["contamination"] = ContaminationRecord(
            train_digest="train", task_digests={task.name: task.digest for task in context.tasks}, num_items=NUM_ITEMS,
            num_examples=9, exact=(), near=(), ngram=13, similarity=0.8,
        )  # fmt: skip
        self.ledger.open_run(
            run_id(spec, suite, self.folder), name="bot", spec="{}", started_by="ben"
        )
        return context

    def answer(self, context: RunContext, model: ModelRecord, num_right: int) -> None:
        """Stores a model's answers, as if it had been asked before."""
        (task,) = context.tasks
        items = tuple(
            Sample(
                id=f"{i}",
                prompt="?",
                target="!",
                response="",
                scores={"exact_match": float(i < num_right)},
            )
            for i in range(NUM_ITEMS)
        )
        engine = context.spec.serve.engine.model_dump()
        mark = digest_of([engine, engine_packages(self.settings.engine_python)])
        evaluate._cache(self.work(), model.artifact.digest, mark).put(
            task,
            TaskResult(task="facts", digest=digest_of([task.digest, "and its items"]), items=items),
        )

    def work(self) -> Work:
        progress = self.folder / "progress.jsonl"
        progress.touch()
        return Work(self.settings, self.folder / "work", progress, self.folder)

    def decide(self, context: RunContext) -> GateRecord:
        gate_stage = stage(context, "gate")
        record = gate_stage.run(gate_stage.inputs(), self.work())
        assert isinstance(record, GateRecord)
        gate.verify(record, self.store)
        return record


def stage(context: RunContext, name: str) -> Stage[Any]:
    return next(stage for stage in stages_of(context) if stage.name == name)


def names(context: RunContext) -> set[str]:
    return {stage.name for stage in stages_of(context)}


def test_attempts_are_counted_and_shown_where_there_is_no_budget(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for number in (1, 2, 3):
        scorecard = project.decide(project.context(project.model(f"m{number}"), 90)).scorecard
        assert scorecard.attempt is not None
        assert (
            scorecard.attempt.number,
            scorecard.attempt.budget,
            scorecard.attempt.confidence,
        ) == (
            number,
            None,
            0.95,
        )
        assert scorecard.outcome == "PASS"


def test_a_spent_budget_is_told_and_renewed_items_renew_it(tmp_path: Path) -> None:
    project = Project(tmp_path, attempts=2)
    first, failed = project.model("first"), project.model("failed")
    assert (
        project.decide(project.context(failed, 10)).scorecard.outcome == "FAIL"
    )  # a failure is an attempt too
    passed = project.decide(project.context(first, 90)).scorecard
    assert passed.attempt is not None
    assert (passed.attempt.number, passed.attempt.budget, passed.attempt.confidence) == (
        2,
        2,
        pytest.approx(0.975),
    )
    assert passed.limits[0].confidence == pytest.approx(0.975)

    third = project.context(project.model("third"), 100)
    with pytest.raises(
        UsageError, match=r"2 of 2 candidates were evaluated with the items of facts: .* Renew"
    ):
        project.decide(third)
    with pytest.raises(UsageError, match="Renew these items"):  # and before anything is trained
        check_attempts_left(third.suite, third.tasks, project.ledger)
    again = project.decide(project.context(first, 90)).scorecard
    assert again.attempt == passed.attempt  # the same bytes are no new attempt

    project.write_items("b")
    renewed = project.context(third.candidate, 100)
    check_attempts_left(renewed.suite, renewed.tasks, project.ledger)
    scorecard = project.decide(renewed).scorecard
    assert scorecard.attempt is not None
    assert (scorecard.outcome, scorecard.attempt.number) == ("PASS", 1)


def test_asking_the_same_items_in_another_way_renews_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path, attempts=1)
    project.decide(project.context(project.model("first"), 90))
    project.write_suite(
        attempts=1, limits={"facts": {"at_least": 0.4}}, tasks={"facts": {"num_fewshot": 0}}
    )
    other = project.context(project.model("second"), 90)
    with pytest.raises(UsageError, match="1 of 1 candidates"):
        project.decide(other)


def test_a_changed_limit_asks_nobody_and_is_no_new_attempt(tmp_path: Path) -> None:
    project = Project(tmp_path, attempts=1)
    model = project.model("first")
    assert project.decide(project.context(model, 90)).scorecard.outcome == "PASS"
    project.write_suite(attempts=1, limits={"facts": {"at_least": 0.99}})
    record = project.decide(project.context(model, 90))
    assert (record.scorecard.outcome, record.candidate.num_reused) == ("FAIL", NUM_ITEMS)


def champion_of(project: Project, model: ModelRecord) -> Champion:
    """A run whose model has the traffic."""
    project.ledger.open_run("old-1", name="old", spec="{}", started_by="ben")
    project.ledger.finish_stage(project.ledger.begin_stage("old-1", "compress", "key"), model)
    return Champion(
        run="old-1",
        slot="green",
        model_name="bot",
        artifact_digest=model.artifact.digest,
        since=1.0,
    )


def test_the_champion_stands_beside_the_candidate_and_is_not_asked_again(tmp_path: Path) -> None:
    project = Project(tmp_path, limits={"facts": {"no_worse_than": "champion", "margin": 0.1}})
    old = project.model("old")
    context = project.context(project.model("new"), 40, champion_of(project, old))
    project.answer(context, old, 95)
    assert "champion" in names(context)
    assert "baseline" not in names(context)
    champion = stage(context, "champion")
    evaluated = champion.run(champion.inputs(), project.work())
    assert isinstance(evaluated, EvaluationRecord)
    assert (evaluated.artifact_digest, evaluated.num_reused) == (old.artifact.digest, NUM_ITEMS)
    context.records["champion"] = evaluated
    scorecard = project.decide(context).scorecard
    assert (scorecard.outcome, scorecard.champion_digest) == ("FAIL", old.artifact.digest)
    assert scorecard.limits[0].champion_observed == 0.95
    assert scorecard.evidence["champion"] == evaluated.evidence.digest


def test_before_the_first_release_the_base_model_stands_for_the_champion(tmp_path: Path) -> None:
    project = Project(tmp_path, limits={"facts": {"no_worse_than": "champion", "margin": 0.1}})
    context = project.context(project.model("new"), 90)
    assert "baseline" in names(context)
    assert "champion" not in names(context)
    base = project.model("base")
    project.answer(context, base, 91)
    deployment = context.record("deploy", DeploymentRecord)
    known = deployment.model_copy(update={"artifact_digest": base.artifact.digest})
    context.records["baseline"] = ask(context, known, model=base, work=project.work())
    scorecard = project.decide(context).scorecard
    assert (scorecard.outcome, scorecard.champion_digest) == ("PASS", base.artifact.digest)


def test_a_weighing_without_all_answers_is_made_again(tmp_path: Path) -> None:
    project = Project(tmp_path)
    context = project.context(project.model("new"), 90)
    record = project.decide(context)
    assert stage(context, "gate").is_valid(record)
    some = record.candidate.model_copy(update={"num_errors": 1})
    assert not stage(context, "gate").is_valid(record.model_copy(update={"candidate": some}))


@pytest.mark.parametrize(("num_right", "reused"), [(10, True), (90, False)])
def test_a_verdict_that_was_not_pass_stands_although_its_engine_is_gone(
    tmp_path: Path, num_right: int, reused: bool
) -> None:
    """Or an unchanged spec that failed would start its engine again each time it is run."""
    project = Project(tmp_path)
    context = project.context(project.model("bot"), num_right)
    deployment = context.records.pop("deploy")
    deploy = stage(context, "deploy")
    assert not deploy.is_valid(deployment)  # no cluster runs here, and nothing was decided
    context.records["deploy"] = deployment
    decided = stage(context, "gate")
    stored = StoredInputs(decided.name, decided.version, decided.inputs().as_data())
    run = project.ledger.runs()[0].id
    attempt = project.ledger.begin_stage(run, "gate", stored.key)
    project.ledger.finish_stage(attempt, project.decide(context))
    del context.records["deploy"]
    assert deploy.is_valid(deployment) == reused
    project.write_suite(limits={"facts": {"at_least": 0.05}})  # another question to the same model
    stricter = load_suites(["suite.yaml"], project.folder)
    anew = replace(context, suite=stricter)
    assert not stage(anew, "deploy").is_valid(deployment)
