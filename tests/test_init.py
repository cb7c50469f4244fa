"""`assay init`: the interview, the templates and the rules of thumb."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from assay.cli.commands.first_spec import METHODS, FirstSpec, model_size, write_first_spec
from assay.errors import UsageError
from assay.flow.place.known import KnownPlace
from assay.flow.preflight.check import check
from assay.loader.load import load_spec
from assay.rules.planning.recommend import Template, recommend
from assay.spec.values.names import is_name

EXAMPLES = {
    "dpo": {"prompt": "What is 1 and 1?", "chosen": "2", "rejected": "3"},
    "classify": {"text": "Profits rose.", "label": "good"},
}


@pytest.mark.parametrize("template", get_args(Template))
def test_every_template_is_a_valid_spec_of_at_most_15_lines(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = EXAMPLES.get(template, {"prompt": "What is 1 and 1?", "completion": "2"})
    Path("train.jsonl").write_text("\n".join(json.dumps({**example, "id": n}) for n in range(40)))
    written = write_first_spec(
        Path("spec.yaml"),
        FirstSpec(
            template=template,
            model="hf:Qwen/Qwen3-8B",
            data="train.jsonl",
            name="bot",
            reviewer="anna",
            user="ben",
        ),
    )
    assert written == [Path("spec.yaml"), Path("evals/bot.yaml")]
    assert len(Path("spec.yaml").read_text().splitlines()) <= 15
    train = load_spec(Path("spec.yaml")).train_steps[0]
    asked = METHODS[template].split("#")[0].split(":")
    assert asked[1].strip() == (train.method if asked[0] == "method" else train.objective).name
    assert train.warmup_ratio == 0.1  # few steps in all


def test_a_small_model_is_swept_and_a_large_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 9)
    for name, model, is_swept in (
        ("small", "hf:Qwen/Qwen3-0.6B", True),
        ("large", "hf:Qwen/Qwen3-32B", False),
    ):
        write_first_spec(
            Path(f"{name}.yaml"),
            FirstSpec(
                template="lora",
                model=model,
                data="train.jsonl",
                name=name,
                reviewer="anna",
                user="ben",
            ),
        )
        spec = load_spec(Path(f"{name}.yaml"))
        assert (spec.sweep is not None) is is_swept
    assert spec.train_steps[0].learning_rate == 1e-4


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("hf:Qwen/Qwen3-8B", 8.19e9),
        ("hf:someone/Their-Model-1.5B-v2", 1.5e9),
        ("hf:someone/tiny-350m", 350e6),
        ("hf:someone/Nameless", None),
        ("hf:someone/v2b3", None),
    ],
)
def test_a_models_size_is_known_or_in_its_name(model: str, size: float | None) -> None:
    found = model_size(model)
    assert found == (None if size is None else pytest.approx(size, rel=0.01))


def test_rules_of_thumb_go_the_way_their_sources_say() -> None:
    small, large = (
        recommend("lora", num_parameters=size, num_examples=5000) for size in (7e9, 70e9)
    )
    assert (small.learning_rate.value, large.learning_rate.value) == (2e-4, 1e-4)
    full = recommend("full", num_parameters=7e9, num_examples=5000)
    assert small.learning_rate.value == pytest.approx(10 * full.learning_rate.value)
    few, many = (
        recommend("lora", num_parameters=7e9, num_examples=count) for count in (200, 500_000)
    )
    assert few.num_epochs.value > many.num_epochs.value
    assert few.global_batch_size.value < many.global_batch_size.value
    assert few.warmup_ratio.value > many.warmup_ratio.value
    assert recommend("dpo", num_parameters=7e9, num_examples=50_000).global_batch_size.value == 64


def test_in_a_terminal_it_asks(tmp_path: Path) -> None:
    """A real terminal: the other end of a pseudo-terminal types the answers."""
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 30)
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "ASSAY_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "assay.cli.main", "init"],
        cwd=tmp_path,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    for answer in ("hf:Qwen/Qwen3-8B", "mine.jsonl", "full", "my-bot", "anna"):
        os.write(ours, f"{answer}\n".encode())
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # the terminal is closed when the process has ended
        pass
    os.close(ours)
    assert process.wait(timeout=30) == 0, said.decode()
    text = (tmp_path / "spec.yaml").read_text()
    for line in (
        "name: my-bot",
        "model: {source: hf:Qwen/Qwen3-8B, ",
        "train: mine.jsonl",
        "method: full",
        "reviewers: [anna]",
    ):
        assert line in text
    assert b"What should it learn?" in said
    assert b"next: `assay validate spec.yaml`" in said


def test_who_works_alone_says_so_or_training_would_end_where_nobody_can_approve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"prompt": f"What is {n} and 1?", "completion": str(n + 1)}) for n in range(200)
    ]
    Path("train.jsonl").write_text("\n".join(lines))
    for name, reviewer, is_alone in (("alone", "Sam", True), ("two", "anna", False)):
        path = Path(f"{name}.yaml")
        model = "hf:Qwen/Qwen3-8B"
        write_first_spec(
            path,
            FirstSpec(
                template="lora",
                model=model,
                data="train.jsonl",
                name=name,
                reviewer=reviewer,
                user="sam",
            ),
        )
        spec, _ = check(path, root=Path(), place=KnownPlace("sam"))
        assert spec.approval.allow_self_approval is is_alone


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("客服", "my-model"), ("Café Bot", "cafe-bot"), ("a" * 60, "a" * 48), ("bot_2", "bot-2")],
)
def test_a_name_that_cannot_be_one_is_told_with_the_nearest_that_can(
    name: str, nearest: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"such as `{nearest}`"):
        write_first_spec(
            tmp_path / "spec.yaml",
            FirstSpec(
                template="lora",
                model="m",
                data="d",
                name=name,
                reviewer="anna",
                user="ben",
            ),
        )
    assert is_name(nearest)
    assert list(tmp_path.iterdir()) == []
