"""Thirty mistakes as people make them, and whether the hint names the fix."""

from pathlib import Path

import pytest

from assay.errors import InvalidInput, Problem
from assay.loader.load import load_spec

SPEC = """\
version: 1
name: support-bot
model: {source: "hf:Qwen/Qwen3-8B", revision: 9c925d6}
data:
  train: [support/*.jsonl]
  format: messages
  selection: 5%
  gate: 10%
sweep:
  learning_rate: [1e-4, 1e-3]
train:
  method:
    lora: {r: 16, alpha: 32}
  num_epochs: 2
  global_batch_size: 64
  schedule: cosine
  deepspeed:
    zero_stage: 2
  num_workers: 4
compress:
  scheme: W8A8
gate:
  suite: evals/support-bot.yaml
approval:
  reviewers: [team/ml-leads]
  expires: 72h
serve:
  replicas: {min: 1, max: 8}
  canary: {steps: [5%, 100%], hold: 10m}
"""

PLANTED = [
    # what is right, what was written, the line to point at, the fix that the hint (or the message)
    # must name slips in keys
    ("  num_epochs: 2", "  num_epoch: 2", 14, "`num_epochs`"),
    ("  num_epochs: 2", "  epochs: 2", 14, "`num_epochs`"),
    ("  schedule: cosine", "  lr_scheduler_type: cosine", 16, "`schedule`"),
    ("  global_batch_size: 64", "  batchsize: 64", 15, "`global_batch_size`"),
    ("    lora: {r: 16, alpha: 32}", "    lora: {r: 16, lora_alpha: 32}", 13, "`alpha`"),
    ("approval:", "approvals:", 24, "`approval`"),
    ("  num_epochs: 2", "  learning-rate: 1e-4", 14, "`learning_rate`"),
    # slips in fixed words
    ("schedule: cosine", "schedule: cosin", 16, "`cosine`"),
    ("scheme: W8A8", "scheme: w8a8", 21, "`W8A8`"),
    ("scheme: W8A8", "scheme: int8", 21, "W8A8"),
    ("format: messages", "format: message", 6, "`messages`"),
    ("  num_workers: 4", "  precision: float16", 19, "`fp16`"),
    ("    zero_stage: 2", "    zero_stage: 4", 18, "mean 3?"),
    # units
    ("expires: 72h", "expires: 3 days", 26, "3d"),
    ("hold: 10m", "hold: 10min", 29, "10m"),
    ("selection: 5%", "selection: 5", 7, "5%"),
    ("selection: 5%", "selection: 5 percent", 7, "5%"),
    ("  num_workers: 4", "  warmup_ratio: 0,06", 19, "0.06"),
    ("  num_workers: 4", "  max_length: 4k", 19, "4096"),
    ("  num_workers: 4", "  max_length: 4,096", 19, "4096"),
    # indentation
    (
        "  num_epochs: 2",
        "num_epochs: 2",
        15,
        "line 14 has its value already, or is indented too little",
    ),
    ("    lora: {r: 16, alpha: 32}", "  lora: {r: 16, alpha: 32}", 13, "under `train.method:`"),
    ("  schedule: cosine", "    schedule: cosine", 16, "indent"),
    ("  schedule: cosine", "\tschedule: cosine", 16, "spaces"),
    ("approval:\n  reviewers:", "approval:\nreviewers:", 26, "line 25 has its value already"),
    (
        "approval:\n  reviewers: [team/ml-leads]\n  expires: 72h",
        "approval:\nreviewers: [a]",
        25,
        "under `approval:`",
    ),
    # wrong nesting
    ("  num_epochs: 2", "  r: 16", 14, "under `train.method.lora:`"),
    ("  num_epochs: 2", "  zero_stage: 3", 14, "under `train.deepspeed:`"),
    ("compress:\n  scheme: W8A8", "compress: W8A9", 20, "W8A8"),
    (
        "  suite: evals/support-bot.yaml",
        "  suite: evals/support-bot.yaml\n  reviewers: [a]",
        24,
        "under `approval:`",
    ),
    ("reviewers: [team/ml-leads]", "reviewers: team/ml-leads", 25, "[team/ml-leads]"),
    # combinations that cannot be
    ("    zero_stage: 2", "    zero_stage: 2\n    offload_param: true", 19, "zero_stage: 3"),
    ("global_batch_size: 64", "global_batch_size: 63", 15, "64"),
    (
        "    lora: {r: 16, alpha: 32}",
        "    lora: {r: 16}\n    full: true",
        13,
        "keep one of `lora` and `full`",
    ),
    ("{min: 1, max: 8}", "{min: 9, max: 8}", 28, "max: 9"),
    ("[5%, 100%]", "[50%, 20%]", 29, "100%"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with what the spec refers to."""
    for name, text in (
        ("evals/support-bot.yaml", "limits: {heldout: {at_least: 80%}}"),
        ("support/a.jsonl", ""),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert load_spec(tmp_path / "spec.yaml", tmp_path).name == "support-bot"
    return tmp_path


def told(root: Path, spec: str) -> list[Problem]:
    (root / "spec.yaml").write_text(spec)
    try:
        load_spec(root / "spec.yaml", root)
    except InvalidInput as error:
        return error.problems
    return []


def test_nearly_every_hint_names_the_fix(root: Path) -> None:
    missed = []
    for right, wrong, line, fix in PLANTED:
        assert SPEC.count(right) == 1, right
        problems = told(root, SPEC.replace(right, wrong))
        if not any(one.line == line and fix in one.hint for one in problems):
            missed.append(
                f"{wrong!r}: wanted {fix!r} on line {line}; " + "; ".join(map(str, problems))
            )
    print(f"{len(PLANTED) - len(missed)} of {len(PLANTED)} hints name the fix", *missed, sep="\n")
    assert len(PLANTED) >= 30
    assert len(missed) <= len(PLANTED) // 10
