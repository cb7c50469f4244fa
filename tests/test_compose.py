"""Specs out of several texts: `extends`, `--set`, `--set-file` and the environment."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import ValidationError

from assay.cli.main import main
from assay.errors import ExitCode, InvalidInput, Problem
from assay.loader.annotations import reference_kind, reference_paths
from assay.loader.compose import MAX_CHAIN, compose, places_named
from assay.loader.parse import validated
from assay.loader.yaml.reader import Value
from assay.spec.block import Block, FromEnvironment, Reference, Secret, revealed
from assay.spec.spec import Spec
from servers import serving

BASE = """\
version: 1
name: base
model: hf:a/b
data: {train: [x.jsonl, y.jsonl], gate: 10%}
train:
  method: {lora: {r: 8}}
  seed: 1
gate: {suite: s.yaml}
approval: {reviewers: [ana]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a spec that others extend."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def composed(text: str = "extends: base.yaml\n", *overrides: str) -> Spec:
    """A spec of this text, with `--set` options."""
    Path("spec.yaml").write_text(text)
    spec, _, problems = validated(
        compose(Path("spec.yaml"), [("--set", text) for text in overrides]), Spec
    )
    if problems or spec is None:
        raise InvalidInput(problems)
    return spec


def refusals(text: str = "extends: base.yaml\n", *overrides: str) -> list[Problem]:
    with pytest.raises(InvalidInput) as caught:
        composed(text, *overrides)
    return caught.value.problems


def test_blocks_are_merged_and_all_else_is_replaced() -> None:
    spec = composed(
        "extends: base.yaml\nname: bot\ndata: {train: z.jsonl}\ntrain: {method: {lora: {alpha: "
        "4}}}\n"
    )
    assert spec.name == "bot"
    assert spec.data.train == ("z.jsonl",)
    assert spec.data.gate == 0.1
    assert spec.train.method.lora is not None
    assert (spec.train.method.lora.r, spec.train.method.lora.alpha, spec.train.seed) == (8, 4, 1)
    assert composed("extends: base.yaml\ntrain: {method: full}\n").train.method.full
    assert composed("extends: base.yaml\nmodel: {revision: v2}\n").model.source == "hf:a/b"


def test_a_chain_starts_at_each_file_s_own_folder(folder: Path) -> None:
    (folder / "team").mkdir()
    (folder / "team/common.yaml").write_text("extends: ../base.yaml\ntrain: {seed: 2}\n")
    assert composed("extends: team/common.yaml\nname: bot\n").train.seed == 2


def test_a_mistake_in_a_base_is_told_where_it_stands() -> None:
    Path("base.yaml").write_text(BASE.replace("seed: 1", "sede: 1").replace("r: 8", "r: 0"))
    problems = refusals("extends: base.yaml\ntrain: {lr: 1}\n")
    assert [(one.file, one.line, one.path) for one in problems] == [
        ("base.yaml", 6, "train.method.lora.r"),
        ("base.yaml", 7, "train.sede"),
        ("spec.yaml", 2, "train.lr"),
    ]
    Path("base.yaml").write_text(BASE + "x: [\n")
    assert [one.file for one in refusals()] == ["base.yaml"]


def test_a_rule_between_two_files_points_at_both() -> None:
    Path("base.yaml").write_text(BASE.replace("seed: 1", "global_batch_size: 8"))
    (problem,) = refusals("extends: base.yaml\ntrain: {num_workers: 3}\n")
    assert (problem.file, problem.line, problem.path) == ("base.yaml", 7, "train.global_batch_size")
    assert problem.other is not None
    assert (problem.other.file, problem.other.line, problem.other.path) == (
        "spec.yaml",
        2,
        "train.num_workers",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: none.yaml\n", "there is no file none.yaml"),
        ("extends: [base.yaml]\n", "expected the path of one other spec"),
        ("extends: spec.yaml\n", "in a circle: spec.yaml → spec.yaml"),
        ("name: x\nextends: loop.yaml\n", "in a circle: spec.yaml → loop.yaml → spec.yaml"),
        ("name: x\nextends: .\n", "there is no file ."),
    ],
)
def test_what_cannot_be_extended_is_told_at_the_key(text: str, words: str) -> None:
    Path("loop.yaml").write_text("name: x\nextends: spec.yaml\n")
    (problem,) = refusals(text)
    assert words in problem.message
    assert problem.line == (2 if "name" in text else 1)
    assert problem.path == "extends"


def test_a_misspelt_extends_is_known() -> None:
    assert any(one.hint == "did you mean `extends`?" for one in refusals("extend: base.yaml\n"))
    assert any(one.hint == "did you mean `extends`?" for one in refusals("include: base.yaml\n"))


def test_a_chain_ends_somewhere() -> None:
    for number in range(MAX_CHAIN + 1):
        Path(f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    assert "more than 20 files" in refusals("extends: 0.yaml\n")[0].message


def test_the_last_word_on_the_command_line_wins() -> None:
    spec = composed(
        "extends: base.yaml\n",
        "train.seed=3",
        "train.seed=4",
        "train.learning_rate=2e-4",
        "data.train.1=z",
    )
    assert (spec.train.seed, spec.train.learning_rate) == (4, 2e-4)
    assert spec.data.train == ("x.jsonl", "z")
    assert composed(BASE, "sweep={learning_rate: [1e-4]}", "sweep.num_samples=2").sweep is not None
    assert composed(BASE, "sweep={learning_rate: [1e-4]}", "sweep=").sweep is None
    assert composed(BASE, "model.revision=v2").model.source == "hf:a/b"
    assert composed(BASE, "train.method=full").train.method.full


@pytest.mark.parametrize(
    ("setting", "path", "words"),
    [
        ("train.lr=1", "train.lr", "did you mean `learning_rate`?"),
        ("tarin.seed=1", "tarin", "did you mean `train`?"),
        ("train.seed=x", "train.seed", "expected a whole number, found 'x'"),
        ("train.seed", "", "sets nothing"),
        ("=1", "", "sets nothing"),
        ("data.train.2=x", "data.train.2", "a list of 2"),
        ("data.system=a: b: c", "data.system", "a colon that cannot stand here"),
        ("train.num_workers=3", "train.num_workers", "not divisible"),
    ],
)
def test_a_wrong_setting_is_told_as_one(setting: str, path: str, words: str) -> None:
    (problem,) = refusals(BASE, setting)
    assert (problem.file, problem.line, problem.path) == ("--set", 0, path)
    assert words in str(problem)


def test_a_setting_moves_no_blame() -> None:
    text = BASE.replace("train: [x.jsonl, y.jsonl], ", "")
    (problem,) = refusals(text, "data.selection=10%")
    assert (problem.file, problem.line, problem.path) == ("spec.yaml", 4, "data.train")


def test_a_file_supplies_a_text_or_a_block() -> None:
    Path("prompt.txt").write_text("Answer: briefly.\n")
    Path("more.yaml").write_text("seed: 9\nlr: 1\n")
    Path("spec.yaml").write_text(BASE)
    prompt = ("--set-file", "data.system=prompt.txt")
    spec, _, problems = validated(compose(Path("spec.yaml"), [prompt]), Spec)
    assert not problems
    assert spec is not None
    assert spec.data.system == "Answer: briefly."
    _, document, problems = validated(
        compose(Path("spec.yaml"), [("--set-file", "train=more.yaml")]), Spec
    )
    assert [(one.file, one.line, one.path) for one in problems] == [("more.yaml", 2, "train.lr")]
    assert document.positions.of_value(("train", "seed"))[:2] == ("more.yaml", 1)
    with pytest.raises(InvalidInput, match=r"--set-file: data.system: there is no file none.txt"):
        compose(Path("spec.yaml"), [("--set-file", "data.system=none.txt")])


def test_the_environment_says_where_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/mnt/d")
    spec = composed(
        BASE,
        "data.train=${env:DATA}/x.jsonl",
        "model=${env:DATA}/m",
        "data.selection=${env:DATA}/s",
    )
    assert spec.data.train == ("/mnt/d/x.jsonl",)
    assert (spec.model.source, spec.model.name) == ("/mnt/d/m", "/mnt/d/m")
    for dumped in (spec.model_dump_json(), str(spec.model_dump())):
        assert "/mnt/d" not in dumped
        assert "${env:DATA}/x.jsonl" in dumped
    assert isinstance(spec.data.train[0], FromEnvironment)
    assert places_named(spec) == ["DATA"]
    assert Spec.model_validate_json(spec.model_dump_json()).data.train == ("${env:DATA}/x.jsonl",)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "name=${env:HOME}",
            "(it may in model.source, model.chat_template, data.train, data.selection.source",
        ),
        ("data.train=${env:NOT_SET_DIR}/x", "the environment variable NOT_SET_DIR is not set"),
        (
            "data.train=${env:HF_TOKEN}/x",
            "specs may not read the environment variable HF_TOKEN here",
        ),
        (
            "data.train=s3://b/${env:AWS_SECRET_ACCESS_KEY}",
            "specs may not read the environment variable AWS_SECRET",
        ),
        ("data.train=http://host/${env:DATA}/x", "no reference may stand in a URL that is fetched"),
        ("model=hf:${env:HOME}/x", "no reference may stand in a URL that is fetched"),
        ("data.train=${env:}/x", "write ${env:NAME}"),
    ],
)
def test_the_environment_says_nothing_else(setting: str, words: str) -> None:
    problems = refusals(BASE, setting)
    assert words in str(problems[0])
    assert problems[0].code == "environment"


def test_s4_a_secret_is_neither_sent_nor_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, `assay plan` asked the server that the spec names for a path with the token in it."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(Asked) as server:
        url = f"http://127.0.0.1:{server.port}/${{env:HF_TOKEN}}/x.jsonl"
        spec = tmp_path / "spec.yaml"
        spec.write_text(f"version: 1\nname: bot\nmodel: hf:a/b\ndata: {{train: '{url}'}}\n")
        monkeypatch.setattr("sys.argv", ["assay", "plan", str(spec)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == ExitCode.USAGE
        assert Asked.paths == []
    shown = capsys.readouterr()
    assert "no reference may stand in a URL that is fetched" in shown.err
    assert "hf_secret" not in shown.out + shown.err


class Asked(BaseHTTPRequestHandler):
    """Remembers what it was asked for."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()


class Alert(Block):
    """A block with a secret."""

    url: str = "https://x"
    """Where to."""

    token: Secret | None = None
    """What opens it."""


def test_a_secret_stays_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    alert = Alert.model_validate({"token": "${env:TOKEN}"})
    assert alert.token is not None
    assert "hush" not in repr(alert) + alert.model_dump_json()
    assert revealed(alert.token) == "hush"
    assert reference_kind(Alert) is Reference.SECRET
    assert reference_paths(Alert) == ["token"]
    with pytest.raises(ValidationError, match="a secret is not written into a spec"):
        Alert.model_validate({"token": "hush"})


def test_only_marked_text_takes_references() -> None:
    assert reference_kind(Annotated[str, Reference.PLACE]) is Reference.PLACE
    assert reference_kind(dict[str, str]) is None
    values: list[Value] = [1, "x"]
    assert composed(BASE, f"data.train={values[1]}").data.train == ("x",)
