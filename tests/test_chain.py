"""A chain of training runs on a real Ray: supervised, a reward model, reinforcement by it, and
preferences."""

import json
import math
from pathlib import Path

import pytest
import yaml

from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.graph import stages_of
from assay.records.stages import ModelRecord, TrainingRecord
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.stages.context import Work
from tiny import THINGS, make_model

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.methods,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # the head outlives its starter
]

SPEC = """
version: 1
name: chain
model: model
data: {train: sft.jsonl, selection: 20%, gate: 10%}
train:
  - {method: full, max_steps: 40, learning_rate: 3e-3, global_batch_size: 8, num_workers: 2, max_length: 64,
     precision: fp32, deepspeed: {zero_stage: 3}}
  - {objective: reward, data: {train: preferences.csv, selection: 20%}, max_steps: 12, learning_rate: 1e-2,
     global_batch_size: 8, max_length: 64, precision: fp32}
  - {objective: {grpo: {rewards: [reward_model, {name: length, target_tokens: 4}], num_generations: 4,
     max_completion_length: 8}}, max_steps: 2, global_batch_size: 8, max_length: 64, precision: fp32}
  - {objective: {dpo: {beta: 0.1}}, data: {train: preferences.csv, selection: 20%}, max_steps: 16,
     learning_rate: 1e-2, global_batch_size: 8, max_length: 64, precision: fp32}
gate: {suite: evals/chain.yaml}
approval: {reviewers: [anna]}
"""


def test_each_run_starts_from_what_the_one_before_made(
    on_ray: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "model")
    pairs = [(f"is {thing} real?", "yes") for thing in THINGS]
    lines = [json.dumps({"prompt": question, "completion": answer}) for question, answer in pairs]
    (tmp_path / "sft.jsonl").write_text("\n".join(lines))
    rows = "".join(f"{question},yes,no\n" for question, _ in pairs)
    (tmp_path / "preferences.csv").write_text(f"prompt,chosen,rejected\n{rows}")
    spec = Spec.model_validate(
        yaml.safe_load(SPEC.replace("3e-3", "0.003").replace("1e-2", "0.01"))
    )
    ignored = {"exact": "ignore", "near": "ignore"}  # all of these questions are alike
    suite = SuiteSpec.model_validate(
        {"limits": {"heldout": {"at_least": 0.5}}, "contamination": ignored}
    )
    context = RunContext(spec, suite, tmp_path, on_ray, None)
    for stage in stages_of(context):
        if stage.name == "compress":
            break
        work = Work(on_ray, tmp_path / stage.name, tmp_path / f"{stage.name}.jsonl", tmp_path)
        context.records[stage.name] = stage.run(stage.inputs(), work)
    runs = [
        context.record(name, TrainingRecord) for name in ("train", "train-2", "train-3", "train-4")
    ]
    assert [run.objective for run in runs] == ["sft", "reward", "grpo", "dpo"]
    for run in (runs[0], runs[1], runs[3]):
        assert run.selection_loss is not None
        assert run.selection_loss < 0.9 * run.history[0].loss
    assert (
        runs[2].selection_loss is not None
    )  # the negated reward, which a reward model does not bound
    assert math.isfinite(runs[2].selection_loss)
    scorer, final = (context.record(name, ModelRecord) for name in ("merge-2", "merge-4"))
    assert (scorer.architecture, final.architecture) == (
        "LlamaForSequenceClassification",
        "LlamaForCausalLM",
    )
    sealed = context.data.gate
    assert sealed is not None
    held_out = (Path(context.data.artifact.path) / sealed.file).read_text()
    assert (
        context.records["prepare-2"].num_dropped_in_gate
        == len(held_out.splitlines())
        == sealed.num_examples
    )
