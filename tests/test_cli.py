"""The `assay` command as its users meet it: a process with output, errors and an exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.cli.main import assay as group
from assay.errors import EXIT_CODE_MEANINGS

HEAVY = (
    "accelerate",
    "datasets",
    "deepspeed",
    "llmcompressor",
    "lm_eval",
    "peft",
    "ray",
    "torch",
    "transformers",
)

SPEC = """\
version: 1
name: bot
model: model
data: {train: train.jsonl, gate: 20%}
gate: {suite: evals/bot.yaml}
approval: {reviewers: [anna]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a small valid project."""
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "model/model.safetensors")
    lines = [
        json.dumps({"prompt": f"What is {n} and 1?", "completion": str(n + 1)}) for n in range(60)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals/bot.yaml").write_text("limits: {heldout: {at_least: 50%}}\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A Python process in `folder`, with a place of its own there."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ASSAY_"))
    }
    env |= {
        "ASSAY_HOME": str(folder / "home"),
        "ASSAY_USER": "ben",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def assay(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return python(folder, "-m", "assay.cli.main", *arguments)


@pytest.mark.parametrize("call", [("--help",), ("validate", "spec.yaml"), ("plan", "spec.yaml")])
def test_what_should_be_quick_imports_nothing_heavy(project: Path, call: tuple[str, ...]) -> None:
    code = (
        "import atexit, sys\n"
        "from assay.cli.main import main\n"
        f"atexit.register(lambda: print('heavy:', *sorted(set(sys.modules) & {set(HEAVY)!r})))\n"
        "main()"
    )
    done = python(project, "-c", code, *call)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_help_tells_every_command_and_exit_code(project: Path) -> None:
    said = assay(project, "--help").stdout
    shown = [name for name, command in group.commands.items() if not command.hidden]
    assert shown
    for name in shown:
        assert f"\n  {name} " in said
    for code, meaning in EXIT_CODE_MEANINGS.items():
        assert f"{code.value}  {meaning}" in " ".join(said.split("\n"))


def test_a_mistake_is_shown_where_it_stands(project: Path) -> None:
    (project / "spec.yaml").write_text(SPEC + "train:\n  lerning_rate: 1e-4\n")
    done = assay(project, "run", "spec.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: spec.yaml:8:3: train.lerning_rate:" in done.stderr
    assert "did you mean `learning_rate`?" in done.stderr
    assert "8 |   lerning_rate: 1e-4\n  |   ^" in done.stderr
    assert not (project / "home").exists()  # nothing was started


def test_all_mistakes_are_told_at_once(project: Path) -> None:
    text = SPEC.replace("model: model", "model: modle") + "train: {learning_rate: 0}\nserve: 3\n"
    (project / "spec.yaml").write_text(text)
    done = assay(project, "validate", "spec.yaml")
    assert done.returncode == 2
    for place in (
        "spec.yaml:3:8: model",
        "spec.yaml:7:24: train.learning_rate",
        "spec.yaml:8:8: serve",
    ):
        assert place in done.stderr
    assert "3 problems; nothing was started" in done.stderr


@pytest.mark.parametrize("command", ["validate", "run", "submit"])
def test_a_broken_line_of_data_is_told_before_anything_starts(project: Path, command: str) -> None:
    with (project / "train.jsonl").open("a") as file:
        file.write(
            '\n{"prompt": "What is 10 and 1?"\n{"question": "What?", "completion": "That."}\n'
        )
    done = assay(project, command, "spec.yaml")
    assert done.returncode == 2
    assert "train.jsonl:61:" in done.stderr
    assert "train.jsonl:62:" in done.stderr
    assert not (project / "home").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["validate", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["explode"], "No such command 'explode'"),
        (["run"], "Missing argument 'SPEC'"),
        (["reject", "bot"], "Missing option '--reason'"),
        (["status", "bot"], "no run starts with 'bot'"),
        (["report"], "no runs yet; `assay run SPEC` makes the first"),
        (["chat", "Hello"], "no model has traffic yet; `assay promote RUN`"),
    ],
)
def test_wrong_calls_say_what_is_wrong(project: Path, call: list[str], said: str) -> None:
    done = assay(project, *call)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_ledger_is_no_error(project: Path) -> None:
    done = assay(project, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no runs yet; `assay run SPEC` makes the first" in done.stdout
    assert "traffic: nobody" in done.stdout
    assert json.loads(assay(project, "status", "--json").stdout) == {
        "runs": [],
        "champion": None,
        "release": None,
    }


def test_a_ledger_that_cannot_be_written_says_what_to_do(project: Path) -> None:
    (project / "home").write_text("a file where the folder should be")
    done = assay(project, "status")
    assert done.returncode == 2
    assert "Set ASSAY_HOME to a folder you may write" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_one_document_and_nothing_else(project: Path) -> None:
    valid = assay(project, "validate", "spec.yaml", "--json")
    assert (valid.returncode, valid.stderr) == (0, "")
    said = json.loads(valid.stdout)
    assert said["valid"]
    assert said["spec"]["train"]["learning_rate"] == 2e-4  # defaults included

    plan = assay(project, "plan", "spec.yaml", "--json")
    assert (plan.returncode, plan.stderr) == (0, "")
    stages = json.loads(plan.stdout)["stages"]
    assert (stages[0]["stage"], stages[0]["action"]) == ("fetch", "run")
    assert not (project / "home").exists()  # a plan creates nothing

    (project / "spec.yaml").write_text(SPEC + "tarin: {}\n")
    invalid = assay(project, "validate", "spec.yaml", "--json")
    assert (invalid.returncode, invalid.stderr) == (2, "")
    (problem,) = json.loads(invalid.stdout)["problems"]
    assert (problem["file"], problem["line"], problem["path"]) == ("spec.yaml", 7, "tarin")
    assert "train" in problem["hint"]


def test_init_writes_a_spec_that_validates(project: Path) -> None:
    call = [
        "init",
        "first.yaml",
        "--model",
        "model",
        "--data",
        "train.jsonl",
        "--name",
        "first",
        "--reviewer",
        "anna",
    ]
    done = assay(project, *call)
    assert done.returncode == 0
    assert len((project / "first.yaml").read_text().splitlines()) <= 15
    valid = assay(project, "validate", "first.yaml")
    assert (valid.returncode, valid.stdout) == (0, "first.yaml is valid\n")

    (project / "first.yaml").write_text("mine")
    again = assay(project, *call)
    assert again.returncode == 2
    assert "first.yaml is there already" in again.stderr
    assert (project / "first.yaml").read_text() == "mine"


def test_init_makes_a_name_of_any_folder(project: Path) -> None:
    folder = project / "My Bot (2)"
    folder.mkdir()
    for name in ("model", "train.jsonl"):
        (folder / name).symlink_to(project / name)
    assert assay(folder, "init", "--model", "model").returncode == 0
    done = assay(folder, "validate", "spec.yaml")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readmes_first_spec_is_one(project: Path) -> None:
    """And has 15 lines at most."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    spec, suite = (part.split("```")[0] for part in readme.split("```yaml\n")[1:3])
    assert len(spec.splitlines()) <= 15
    (project / "spec.yaml").write_text(spec)
    (project / "evals/support-bot.yaml").write_text(suite)
    done = assay(project, "validate", "spec.yaml")
    assert (done.returncode, done.stderr) == (0, "")
