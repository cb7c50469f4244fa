"""What `assay plan` says of stages, against a real ledger and real artifacts; nothing is run."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.graph import MODULES, stages_of
from assay.flow.pipeline.keys import run_id
from assay.flow.planning.plan import described, plan
from assay.flow.planning.time import _evaluation, _Like
from assay.loader.cluster import ClusterSpec
from assay.loader.load import load_spec, load_suites
from assay.records.artifact import Artifact
from assay.records.gate import ContaminationRecord, EvaluationRecord, GateRecord, Scorecard
from assay.records.inputs import StoredInputs
from assay.records.plan import Plan, StagePlan
from assay.records.record import Record
from assay.records.stages import (
    DatasetRecord,
    DeploymentRecord,
    ModelRecord,
    SplitRecord,
    SweepRecord,
    TrainingRecord,
    TrialRecord,
)
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger

SPEC = """\
version: 1
name: bot
model: model
data: {train: train.jsonl, gate: 20%}
sweep: {learning_rate: [1e-4, 1e-3]}
train: {num_epochs: 4, global_batch_size: 4}
gate: {suite: evals/bot.yaml}
approval: {reviewers: [anna]}
"""
UP_TO_BASELINE = (
    "fetch",
    "prepare",
    "contamination",
    "sweep",
    "train",
    "merge",
    "compress",
    "baseline",
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "vocab_size": 512,
}


class Project:
    """A small valid project with a place of its own, whose stages can be given records by hand."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.settings = Settings(
            home=folder / "home",
            ledger_url=f"sqlite:///{folder}/home/ledger.db",
            ray_address="",
            dashboard_port=1,  # nobody answers there
            num_cpus=8,
            engine_python="/usr/bin/python3",
            cost_per_hour=3.0,
        )
        self.store = ArtifactStore(self.settings.home / "artifacts")

    def spec(self, text: str = SPEC) -> Spec:
        (self.root / "bot.yaml").write_text(text)
        return load_spec(self.root / "bot.yaml", self.root)

    def plan(self, spec: Spec, **given: Any) -> Plan:
        suite = load_suites(["evals/bot.yaml"], self.root)
        return plan(
            spec, suite, root=self.root, settings=self.settings, cluster=given.get("cluster")
        )

    def stages(self, spec: Spec, **given: Any) -> dict[str, StagePlan]:
        return {stage.stage: stage for stage in self.plan(spec, **given).stages}

    def context(self, spec: Spec) -> RunContext:
        return RunContext(
            spec, load_suites(["evals/bot.yaml"], self.root), self.root, self.settings, None
        )

    def artifact(self, kind: Any, name: str) -> Any:
        folder = self.root / "drafts" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        if kind == "dataset":
            _write_split(folder / "train.safetensors", [20, 30, 40, 30])
            (folder / "heldout").mkdir()
            (folder / "heldout/heldout.jsonl").write_text('{"question": "a"}\n{"question": "b"}\n')
            (folder / "heldout/heldout.yaml").write_text(
                '{"dataset_kwargs": {"data_files": "heldout.jsonl"}}'
            )
        (folder / "mark").write_text(name)
        return self.store.put(folder, kind)

    def record(self, stage: str) -> Record:
        """A record such as the stage would leave."""
        model = {
            "architecture": "Llama",
            "num_parameters": 1,
            "num_layers": 2,
            "context_length": 64,
        }
        split = SplitRecord(
            file="train.safetensors",
            digest="",
            num_examples=4,
            num_tokens=120,
            num_completion_tokens=60,
        )
        training = TrainingRecord(
            artifact=self.artifact("adapter", stage)
            if stage == "train"
            else self.artifact("adapter", f"{stage}-trial"),
            method="lora",
            learning_rate=1e-3,
            num_steps=4,
            num_tokens=480,
            precision="fp32",
            selection_loss=1.0,
            selection_loss_se=0.1,
            seconds=20.0,
            seconds_to_first_step=10.0,
            tokens_per_s=48.0,
            peak_memory_bytes=1,
            history=(),
        )
        match stage:
            case "fetch" | "merge" | "compress":
                return ModelRecord(artifact=self.artifact("model", stage), **model)
            case "prepare":
                return DatasetRecord(
                    artifact=self.artifact("dataset", stage),
                    train=split,
                    selection=split,
                    gate=split,
                    num_dropped_too_long=0,
                    num_dropped_duplicates=0,
                )
            case "sweep":
                return SweepRecord(
                    trials=(TrialRecord(learning_rate=1e-3, training=training),), chosen=0
                )
            case "train":
                return training
            case "baseline" | "champion":
                return self.evaluation(stage)
            case "contamination":
                return ContaminationRecord(
                    train_digest="",
                    task_digests={},
                    num_items=2,
                    num_examples=4,
                    exact=(),
                    near=(),
                    ngram=13,
                    similarity=0.8,
                )
            case "deploy":
                return DeploymentRecord(
                    slot="blue",
                    model_name="bot",
                    artifact_digest="",
                    url="",
                    deployed_at=0,
                    replicas=("a",),
                )
        return GateRecord(
            scorecard=Scorecard(
                suite="evals/bot.yaml",
                suite_digest="",
                artifact_digest="",
                base_digest=None,
                confidence=0.95,
                outcome="PASS",
                limits=(),
                deployment_slot="blue",
                deployed_at=0,
                replicas=("a",),
            ),
            candidate=self.evaluation("gate"),
            base=None,
        )

    def evaluation(self, name: str) -> EvaluationRecord:
        return EvaluationRecord(
            evidence=self.artifact("evidence", name), artifact_digest="", num_items=2, seconds=4.0
        )

    def run(self, spec: Spec, *names: str, version: dict[str, int] | None = None) -> str:
        """Writes a run into the ledger that has records of the stages named; returns its id."""
        context = self.context(spec)
        ledger = Ledger(self.settings.ledger_url)
        run = run_id(spec, context.suite, self.root)
        ledger.open_run(run, name=spec.name, spec=spec.model_dump_json(), started_by="anna")
        for stage in stages_of(context):
            if stage.name not in names:
                continue
            wanted = (version or {}).get(stage.name, stage.version)
            stored = StoredInputs(stage.name, wanted, stage.inputs().as_data())
            record = self.record(stage.name)
            attempt = ledger.begin_stage(run, stage.name, stored.key, json.dumps(stored.data))
            ledger.finish_stage(attempt, record)
            context.records[stage.name] = record
        return run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(CONFIG))
    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "model/model.safetensors")
    lines = [
        json.dumps({"prompt": f"What is {n} and 1?", "completion": str(n + 1)}) for n in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals/bot.yaml").write_text("limits: {heldout: {at_least: 50%}}\n")
    return Project(tmp_path)


def _write_split(file: Path, lengths: list[int]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    total = sum(lengths)
    save_file(
        {
            "tokens": np.zeros(total, np.int32),
            "loss_mask": np.arange(total, dtype=np.uint8) % 2,
            "offsets": np.cumsum([0, *lengths]).astype(np.int64),
        },
        file,
    )


def test_without_a_ledger_everything_runs_and_nothing_is_made(project: Project) -> None:
    stages = project.stages(project.spec())
    assert {stage.action for stage in stages.values()} == {"run"}
    assert stages["fetch"].because == ("nothing like it was made yet",)
    assert stages["train"].because == ("follows fetch, prepare, sweep",)
    assert not project.settings.home.exists()


def test_what_stands_is_cached_with_the_run_that_made_it(project: Project) -> None:
    run = project.run(
        project.spec(),
        "fetch",
        "prepare",
        "contamination",
        "sweep",
        "train",
        "merge",
        "compress",
        "baseline",
    )
    it = project.plan(project.spec())
    found = {stage.stage: stage for stage in it.stages}
    assert [name for name, stage in found.items() if stage.action != "cached"] == ["deploy", "gate"]
    assert found["train"].made_by == run
    assert found["train"].seconds is not None
    (data,) = it.data
    assert data is not None
    assert (data.num_examples, data.num_tokens, data.num_loss_tokens, data.exact) == (
        4,
        120,
        60,
        True,
    )
    assert it.seconds_unknown == ("deploy", "gate")


def test_the_specs_lines_that_changed_are_named_where_they_count(project: Project) -> None:
    project.run(project.spec(), *UP_TO_BASELINE)
    changed = SPEC.replace("num_epochs: 4", "num_epochs: 2") + "compress: {scheme: W4A16}\n"
    found = project.stages(project.spec(changed))
    assert (found["prepare"].action, found["baseline"].action) == ("cached", "cached")
    assert found["sweep"].because == ("train.num_epochs: 4 -> 2",)
    assert found["train"].because == ("follows sweep",)
    assert found["compress"].because == ("follows merge", "compress.scheme: W8A8 -> W4A16")
    assert found["merge"].because == ("follows train",)


def test_changed_data_are_named(project: Project) -> None:
    project.run(project.spec(), "fetch", "prepare")
    with (project.root / "train.jsonl").open("a") as file:
        file.write('\n{"prompt": "What is 40 and 1?", "completion": "41"}')
    (change,) = project.stages(project.spec())["prepare"].because
    assert re.fullmatch(r"files.train.jsonl: [0-9a-f]{12} -> [0-9a-f]{12}", change)
    both = project.stages(project.spec(SPEC.replace("gate: 20%", "gate: 10%")))
    assert both["prepare"].because == ("data.gate: 0.2 -> 0.1", change)


def test_records_of_an_older_version_are_told_from_changes(project: Project) -> None:
    spec = project.spec()
    run = project.run(spec, "fetch")
    with closing(sqlite3.connect(project.settings.home / "ledger.db")) as connection, connection:
        for table in ("stages", "records"):
            connection.execute(f"update {table} set key = 'as it was made before'")
        connection.execute("delete from inputs")
    (reason,) = project.stages(spec)["fetch"].because
    assert reason.startswith(f"{run} was made by an older version")


def test_changed_code_is_named(project: Project) -> None:
    project.run(project.spec(), "fetch", "prepare", "sweep", version={"sweep": 1})
    because = f"its code has changed (version 1 -> {MODULES['sweep'].VERSION})"
    assert project.stages(project.spec())["sweep"].because == (because,)


def test_an_artifact_that_is_gone_is_named(project: Project) -> None:
    run = project.run(project.spec(), "fetch", "prepare")
    record = Ledger(project.settings.ledger_url).stages(run)
    assert len(record) == 2
    for folder in (project.settings.home / "artifacts").iterdir():
        if (folder / "heldout").is_dir():
            (folder / "train.safetensors").unlink()
    found = project.stages(project.spec())
    assert found["fetch"].action == "cached"
    assert f"the artifact that {run} made is missing" in found["prepare"].because[0]


def test_what_a_cluster_cannot_hold_is_blocked_and_so_is_what_comes_after(project: Project) -> None:
    small = described(ClusterSpec.model_validate({"nodes": [{"cpus": 2, "memory_gb": 8}]}), "small")
    spec = project.spec(
        SPEC.replace("global_batch_size: 4", "global_batch_size: 4, num_workers: 4")
    )
    found = project.stages(spec, cluster=small)
    assert found["prepare"].action == "run"
    assert found["sweep"].action == "blocked"
    assert "num_workers: 1 fits" in found["sweep"].because[0]
    assert found["train"].action == "blocked"
    assert "num_workers: 2 fits" in found["train"].because[0]
    assert found["merge"].because == ("comes after sweep",)


def test_a_model_that_no_node_could_merge_is_told(project: Project) -> None:
    (project.root / "model/config.json").write_text(
        json.dumps({**CONFIG, "hidden_size": 1024, "vocab_size": 300_000})
    )
    node = {"cpus": 8, "memory_gb": 2, "gpus": 2, "gpu_memory_gb": 24}
    found = project.stages(
        project.spec(), cluster=described(ClusterSpec.model_validate({"nodes": [node]}), "small")
    )
    assert found["train"].action == "run"
    assert found["merge"].action == "blocked"
    assert "merge holds the whole model in a node's memory" in found["merge"].because[0]


@pytest.mark.parametrize(
    ("more", "stage", "reason"),
    [
        (
            "compress: [{quantize: {scheme: W4A16, group_size: 64}}]\n",
            "compress",
            "hidden_size 96",
        ),
        ("compress: NVFP4\n", "compress", "no kernel for NVFP4 on CPU"),
        ("", "train", "names layer 2; the model has layers 0 to 1"),
    ],
)
def test_what_the_model_rules_out_is_blocked(
    project: Project, more: str, stage: str, reason: str
) -> None:
    (project.root / "model/config.json").write_text(json.dumps({**CONFIG, "hidden_size": 96}))
    text = (
        SPEC + more
        if more
        else SPEC.replace("{num_epochs: 4,", "{method: {lora: {layers: '1-2'}}, num_epochs: 4,")
    )
    found = project.stages(project.spec(text))[stage]
    assert found.action == "blocked"
    assert reason in found.because[0]


def test_time_and_cost_are_those_of_a_like_run(project: Project) -> None:
    project.run(project.spec(), *MODULES)
    it = project.plan(project.spec(SPEC.replace("num_epochs: 4", "num_epochs: 8")))
    found = {stage.stage: stage for stage in it.stages}
    # 8 epochs of 120 tokens at 48 a second, and the 10 seconds that were spent beside training;
    # both trials side by side.
    assert found["sweep"].seconds == pytest.approx(10 + 8 * 120 / 48)
    assert "960 tokens at 48 a second" in found["sweep"].seconds_from
    assert found["train"].seconds == 0
    assert found["train"].seconds_from == "the sweep's best trial is the training"
    assert it.seconds is not None
    assert it.cost == pytest.approx(it.seconds / 3600 * 3.0)
    short = SPEC.replace("num_epochs: 4", "num_epochs: 8").replace("1e-3]", "1e-3], max_steps: 2")
    after_a_short_sweep = project.stages(project.spec(short))["train"]
    assert after_a_short_sweep.seconds == pytest.approx(10 + 8 * 120 / 48)
    other = project.plan(project.spec(SPEC.replace("num_epochs: 4", "num_epochs: 4, method: full")))
    assert {stage.stage: stage for stage in other.stages}["sweep"].seconds is None
    assert "sweep" in other.seconds_unknown


def test_what_the_sweep_has_trained_is_not_trained_again(project: Project) -> None:
    spec = project.spec()
    project.run(spec, "fetch", "prepare", "sweep")
    context = project.context(spec)
    ledger = Ledger(project.settings.ledger_url)
    for stage in stages_of(context):
        if stage.name == "train":
            break
        if row := ledger.record(stage.stored_inputs().key):
            context.records[stage.name] = stage.output.model_validate_json(row.record)
    sweep = context.records["sweep"]
    assert isinstance(sweep, SweepRecord)
    folder = project.settings.home
    work = Work(project.settings, folder, folder / "progress.jsonl", folder)
    assert stage.run(stage.inputs(), work) == sweep.trials[0].training


def test_a_spec_or_record_of_another_form_is_no_error(project: Project) -> None:
    run = project.run(project.spec(), "fetch", "prepare")
    with sqlite3.connect(project.settings.home / "ledger.db") as connection:
        connection.execute("update runs set spec = json_set(spec, '$.train.no_such_key', 1)")
        connection.execute("update records set record = '{}' where stage = 'prepare'")
    found = project.stages(project.spec())
    assert found["fetch"].action == "cached"
    assert found["prepare"].because == (f"the record of {run} is of another form, or gone",)


CHANGES: list[tuple[str, Callable[[dict[str, Any]], None], set[str]]] = [
    ("model", lambda it: it.update(model={"source": "other"}), {"fetch"}),
    ("data.system", lambda it: it["data"].update(system="Be brief."), {"prepare"}),
    ("sweep.learning_rate", lambda it: it["sweep"].update(learning_rate=[1e-5]), {"sweep"}),
    ("sweep.max_concurrent_trials", lambda it: it["sweep"].update(max_concurrent_trials=1), set()),
    # With a sweep, its choice stands in the rate's place.
    ("train.learning_rate", lambda it: it["train"].update(learning_rate=1e-5), set()),
    (
        "train.max_length",
        lambda it: it["train"].update(max_length=64),
        {"prepare", "sweep", "train"},
    ),
    ("train.max_failures", lambda it: it["train"].update(max_failures=7), set()),
    (
        "train.objective.sft",
        lambda it: it["train"].update(objective={"orpo": {}}),
        {"prepare", "sweep", "train"},
    ),
    ("train.seed", lambda it: it["train"].update(seed=9), {"sweep", "train"}),
    ("compress.scheme", lambda it: it["compress"].update(scheme="W8A16"), {"compress"}),
    ("gate.num_concurrent", lambda it: it["gate"].update(num_concurrent=3), set()),
    ("approval.required", lambda it: it["approval"].update(expires=60), set()),
    ("serve.model_name", lambda it: it["serve"].update(model_name="other"), {"deploy"}),
    (
        "serve.engine.max_model_len",
        lambda it: it["serve"]["engine"].update(max_model_len=64),
        {"baseline", "deploy"},
    ),
    ("serve.canary.hold", lambda it: it["serve"]["canary"].update(hold=60), set()),
]


@pytest.mark.parametrize(
    ("change", "moved"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES]
)
def test_a_changed_line_changes_the_keys_of_what_depends_on_it(
    project: Project, change: Callable[[dict[str, Any]], None], moved: set[str]
) -> None:
    (project.root / "other").mkdir()
    spec = project.spec()
    context = project.context(spec)
    for stage in stages_of(context):
        context.records[stage.name] = project.record(stage.name)
    data = spec.model_dump(mode="json")
    change(data)
    changed = replace(context, spec=Spec.model_validate(data))
    before = {stage.name: stage.stored_inputs().key for stage in stages_of(context)}
    after = {stage.name: stage.stored_inputs().key for stage in stages_of(changed)}
    assert {name for name, key in after.items() if before[name] != key} == moved


def test_what_a_stage_depends_on_is_all_that_its_inputs_wait_for(project: Project) -> None:
    waits = {
        stage.name: stage.inputs().pending for stage in stages_of(project.context(project.spec()))
    }
    assert waits == {
        "fetch": (),
        "prepare": ("fetch",),
        "contamination": ("prepare", "fetch"),
        "sweep": ("fetch", "prepare"),
        "train": ("fetch", "prepare", "sweep"),
        "merge": ("fetch", "train"),
        "compress": ("merge",),
        "baseline": ("fetch", "prepare"),
        "deploy": ("compress",),
        "gate": ("deploy", "prepare", "baseline", "contamination"),
    }


def assay(project: Project, *arguments: str) -> str:
    """What a command prints, run as a process in the project's folder."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ASSAY_"))
    }
    env |= {
        "ASSAY_HOME": str(project.settings.home),
        "ASSAY_DASHBOARD_PORT": "1",
        "ASSAY_USER": "ben",
    }
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=project.root, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_is_different_from_a_run_reads_like_a_diff(project: Project) -> None:
    run = project.run(project.spec(), "fetch", "prepare")
    project.spec(SPEC.replace("num_epochs: 4", "num_epochs: 2"))
    call = ["-m", "assay.cli.main", "plan", "bot.yaml", "--against", "bot"]
    out = assay(project, *call)
    assert out.startswith(
        f"against {run}\n- train.num_epochs: 4\n+ train.num_epochs: 2\n\nrun bot-"
    )
    said = json.loads(assay(project, *call, "--json"))
    changes = [{"path": "train.num_epochs", "old": 4.0, "new": 2.0}]
    assert said["against"] == {"run": run, "changes": changes}
    assert {stage["stage"]: stage["action"] for stage in said["stages"]}["prepare"] == "cached"
    (need,) = (need for need in said["needs"] if need["stage"] == "train")
    assert all(part["formula"] for part in need["memory"]["parts"])


def test_a_plan_without_a_ledger_imports_little(project: Project) -> None:
    project.spec()
    code = (
        "import atexit, sys\n"
        "from assay.cli.main import main\n"
        "slow = {'sqlalchemy', 'scipy', 'numpy', 'httpx', 'rich', 'ray', 'torch'}\n"
        "atexit.register(lambda: print('slow:', *sorted(set(sys.modules) & slow)))\n"
        "main()"
    )
    assert assay(project, "-c", code, "plan", "bot.yaml").splitlines()[-1] == "slow:"


def test_limits_of_the_sealed_split_are_planned_for_the_metric_that_its_answers_take(
    project: Project,
) -> None:
    suite = project.root / "evals/bot.yaml"
    suite.write_text("limits: {heldout: {better_than: base}}\n")
    assert (
        project.plan(project.spec()).gate.limits[0].requirement
        == "exact_match better than base by 0.0%"
    )
    lines = [
        json.dumps({"prompt": f"What is {n}?", "completion": f"A number with {n} before it."})
        for n in range(40)
    ]
    (project.root / "train.jsonl").write_text("\n".join(lines))
    (limit,) = project.plan(project.spec()).gate.limits
    assert limit.requirement == "rougeL better than base by 0.0%"
    assert "spread" in limit.note


def test_answers_that_were_kept_tell_nothing_of_how_fast_they_come() -> None:
    artifact = Artifact(digest="0", kind="evidence", path="", size=0)

    def like(num_reused: int, seconds: float) -> _Like:
        record = EvaluationRecord(
            evidence=artifact,
            artifact_digest="",
            num_items=100,
            seconds=seconds,
            num_reused=num_reused,
        )
        return _Like("earlier", {}, seconds + 5, record.model_dump_json())

    assert _evaluation(like(100, 0.001), 50) is None
    assert _evaluation(like(60, 20.0), 50) is None
    some = _evaluation(like(20, 40.0), 50)
    assert some is not None
    assert some.seconds == pytest.approx(5 + 50 / 2)
    assert "50 samples at 2.0 a second" in some.source
