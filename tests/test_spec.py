"""Reading specs and suites: every mistake is told at once, at its place, with what was probably
meant."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.cli.terminal.excerpt import excerpt
from assay.errors import InvalidInput, Problem
from assay.loader.json_schema import spec_schema
from assay.loader.load import load_spec, load_suite, load_suites
from assay.loader.references import package_folders
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

SPEC = """\
version: 1
name: capitals
model: models/tiny
data:
  train: [facts/*.jsonl]
  gate: 10%
sweep:
  learning_rate: [1e-4, 1e-3]
train:
  method: {lora: {r: 8}}
  num_epochs: 2
  schedule: linear
compress:
  scheme: W8A8
gate:
  suite: evals/capitals.yaml
approval: {reviewers: [ana]}
"""
SUITE = """\
limits:
  heldout: {at_least: 80%}
  invented: {metric: hallucination_rate, at_most: 5%}
  elements: {no_worse_than: base, margin: 0.05, level: soft}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with everything that `SPEC` names."""
    files = {
        "spec.yaml": SPEC,
        "evals/capitals.yaml": SUITE,
        "evals/capitals/invented.yaml": "task: invented\n",
        "evals/capitals/elements.yaml": "task: elements\n",
        "facts/a.jsonl": '{"prompt": "x", "completion": "y"}\n',
        "models/tiny/config.json": "{}",
        "models/tiny/model.safetensors": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edited(text: str, old: str, new: str) -> str:
    """The text with one passage replaced."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def refusals(root: Path, spec: str | None = None) -> list[Problem]:
    """All that is said against a spec; against the one on disk when none is given."""
    if spec is not None:
        (root / "spec.yaml").write_text(spec)
    with pytest.raises(InvalidInput) as caught:
        load_spec(root / "spec.yaml", root)
    return caught.value.problems


def test_a_good_spec_becomes_blocks(root: Path) -> None:
    spec = load_spec(root / "spec.yaml", root)
    assert spec.data.train == ("facts/*.jsonl",)
    assert spec.data.gate == 0.1
    assert spec.sweep is not None
    assert spec.sweep.learning_rate == (1e-4, 1e-3)
    assert spec.train.method.lora is not None
    assert spec.train.method.lora.r == 8
    assert load_suite(root / "evals/capitals.yaml").limits["invented"][0].at_most == 0.05


def test_paths_start_in_the_current_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert load_spec(Path("spec.yaml")).name == "capitals"


MISTAKES = [
    # what was written, what is written instead, the line, the path, and words of the message or the
    # hint
    (
        "  num_epochs: 2",
        "  num_epoch: 2",
        11,
        "train.num_epoch",
        "unknown key (did you mean `num_epochs`?)",
    ),
    ("  num_epochs: 2", "  lr: 1e-3", 11, "train.lr", "did you mean `learning_rate`?"),
    ("{lora: {r: 8}}", "{lora: {rank: 8}}", 10, "train.method.lora.rank", "did you mean `r`?"),
    ("train:\n  method", "trian:\n  method", 9, "trian", "did you mean `train`?"),
    ("approval:", "aproval:", 17, "aproval", "did you mean `approval`?"),
    (
        "version: 1",
        "version: 1\nbanana: 3",
        2,
        "banana",
        "unknown key (the keys here are version, name, model",
    ),
    (
        "version: 1",
        "version: 1\nnum_epochs: 3",
        2,
        "num_epochs",
        "belongs under `sweep:` or under `train:`",
    ),
    ("  num_epochs: 2", "  lora: {r: 8}", 11, "train.lora", "`lora` belongs under `train.method:`"),
    (
        "  num_epochs: 2",
        "  zero_stage: 2",
        11,
        "train.zero_stage",
        "belongs under `train.deepspeed:`",
    ),
    (
        "  num_epochs: 2",
        "  learning_rate: 0",
        11,
        "train.learning_rate",
        "expected a number greater than 0, found 0",
    ),
    (
        "  num_epochs: 2",
        "  learning_rate: fast",
        11,
        "train.learning_rate",
        "expected a number, found 'fast'",
    ),
    (
        "  num_epochs: 2",
        "  learning_rate: true",
        11,
        "train.learning_rate",
        "expected a number, found true",
    ),
    (
        "  num_epochs: 2",
        "  num_workers: 1.5",
        11,
        "train.num_workers",
        "expected a whole number, found 1.5",
    ),
    (
        "  num_epochs: 2",
        "  num_workers: 3",
        11,
        "train.num_workers",
        "global_batch_size 16 is not divisible by num_workers 3",
    ),
    ("  schedule: linear", "  schedule: cosin", 12, "train.schedule", "did you mean `cosine`?"),
    ("W8A8", "w8a8", 14, "compress.scheme", "did you mean `W8A8`?"),
    ("{lora: {r: 8}}", "qlorra", 10, "train.method", "did you mean `qlora`?"),
    (
        "{lora: {r: 8}}",
        "{lora: {target_modules: all}}",
        10,
        "train.method.lora.target_modules",
        "`all-linear`?",
    ),
    (
        "{lora: {r: 8}}",
        "{lora: {target_modules: [1]}}",
        10,
        "train.method.lora.target_modules.0",
        "put it in quotes",
    ),
    (
        "{lora: {r: 8}}",
        "{lora: {layers: last}}",
        10,
        "train.method.lora.layers",
        "write layers as 15-29",
    ),
    (
        "gate: 10%",
        "gate: 10",
        6,
        "data.gate",
        "expected a number of at most 1, found 10 (did you mean 10%?)",
    ),
    ("gate: 10%", "gate: 150%", 6, "data.gate", "a share is written 5% or 0.05"),
    ("gate: 10%", "gate: 10x", 6, "data.gate", "a share is written 5% or 0.05"),
    (
        "gate: 10%",
        "gate: true",
        6,
        "data.gate",
        "expected a share such as 5%, or files, found true",
    ),
    ("gate: 10%", "gate: {sorce: x}", 6, "data.gate.sorce", "did you mean `source`?"),
    (
        "[1e-4, 1e-3]",
        "1e-4",
        8,
        "sweep.learning_rate",
        "expected a list or a block with `loguniform`",
    ),
    (
        "[1e-4, 1e-3]",
        "[1e-4, 0]",
        8,
        "sweep.learning_rate.1",
        "expected a number greater than 0, found 0",
    ),
    (
        "[1e-4, 1e-3]",
        "{loguniform: [1, 0.1]}",
        8,
        "sweep.learning_rate.loguniform",
        "must be below the upper end",
    ),
    (
        "[1e-4, 1e-3]",
        "{loguniform: [1]}",
        8,
        "sweep.learning_rate.loguniform",
        "expected at least 2 values",
    ),
    (
        "{reviewers: [ana]}",
        "{reviewers: ana}",
        17,
        "approval.reviewers",
        "for a single value write [ana]",
    ),
    (
        "{reviewers: [ana]}",
        "{reviewers: []}",
        17,
        "approval.reviewers",
        "expected at least 1 value, found none",
    ),
    (
        "{reviewers: [ana]}",
        "{reviewers: [ana], required: 2}",
        17,
        "approval.required",
        "only 1 reviewers are named",
    ),
    (
        "{reviewers: [ana]}",
        "{reviewers: [ana], expires: soon}",
        17,
        "approval.expires",
        "write a time as",
    ),
    ("approval: {reviewers: [ana]}", "", 1, "approval", "missing; needs a block with `reviewers`"),
    (
        "approval: {reviewers: [ana]}",
        "approval:",
        17,
        "approval",
        "expected a block with `reviewers`, found nothing",
    ),
    ("name: capitals", "name: My Bot", 2, "name", "lower-case letters, digits and dashes"),
    ("name: capitals", "name: capitals\nname: c", 3, "", "`name` is written twice"),
    (
        "models/tiny",
        "s3://models/tiny",
        3,
        "model",
        "hf:ORG/NAME, package:NAME/FILE or a local folder",
    ),
    ("models/tiny", "hf:tiny", 3, "model", "write a hub model as hf:ORG/NAME"),
    (
        "models/tiny",
        "3",
        3,
        "model",
        "expected hf:ORG/NAME, package:NAME/FILE or a local folder, found 3",
    ),
    (
        "models/tiny",
        "models/tin",
        3,
        "model",
        "does not exist (for a model of the hub write hf:models/tin)",
    ),
    (
        "models/tiny",
        "package:no-such-package/x.gguf",
        3,
        "model",
        "the package no-such-package is not installed",
    ),
    (
        "models/tiny",
        "package:hypothesis/x.gguf",
        3,
        "model",
        "the package hypothesis has no file x.gguf",
    ),
    ("facts/*.jsonl", "fact/*.jsonl", 5, "data.train.0", "no file matches 'fact/*.jsonl'"),
    (
        "facts/*.jsonl",
        "hf:org/facts",
        4,
        "data",
        "write a data set of the hub as hf:ORG/NAME@REVISION",
    ),
    ("  gate: 10%\n", "", 4, "data.gate", "the suite evaluates the task `heldout`"),
    ("capitals.yaml", "capitols.yaml", 16, "gate.suite", "does not exist"),
    (
        "capitals.yaml",
        "capitals.yaml\n  baseline: none",
        17,
        "gate.baseline",
        "compares elements with the base",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "words"), MISTAKES, ids=[f"{new}" for _, new, *_ in MISTAKES]
)
def test_one_mistake_is_one_problem(
    root: Path, old: str, new: str, line: int, path: str, words: str
) -> None:
    (problem,) = refusals(root, edited(SPEC, old, new))
    assert (problem.file, problem.line, problem.path) == (str(root / "spec.yaml"), line, path)
    assert words in str(problem)


def test_all_mistakes_are_told_at_once_in_order(root: Path) -> None:
    spec = edited(SPEC, "models/tiny", "models/none")
    spec = edited(spec, "facts/*.jsonl", "nothing/*.jsonl")
    spec = edited(spec, "num_epochs: 2", "num_epochs: 2\n  num_epochs: 0\n  seed: x")
    spec = edited(spec, "evals/capitals.yaml", "evals/none.yaml")
    spec = edited(spec, "[ana]", "{}")
    assert [problem.line for problem in refusals(root, spec)] == [3, 5, 12, 13, 18, 19]


def test_a_suite_is_read_with_the_spec(root: Path) -> None:
    suite = edited(SUITE, "at_least: 80%", "at_lest: 80%")
    (root / "evals/capitals.yaml").write_text(edited(suite, "0.05", "5"))
    problems = refusals(root)
    assert [(problem.line, problem.hint) for problem in problems] == [
        (2, "did you mean `at_least`?"),
        (4, "did you mean 5%?"),
    ]
    assert {problem.file for problem in problems} == {str(root / "evals/capitals.yaml")}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("invented", "inventd", 3, "did you mean `invented`?"),
        ("invented", '"../../spec"', 3, "a task's name is made of letters"),
        (
            "at_least: 80%",
            "at_least: 80%, at_most: 90%",
            2,
            "exactly one of at_least, at_most, no_worse_than",
        ),
        ("margin: 0.05, ", "", 4, "no_worse_than and margin go together"),
        ("{at_least: 80%}", "80%", 2, "expected a block of keys or a list of them, found '80%'"),
    ],
)
def test_mistakes_in_a_suite(root: Path, old: str, new: str, line: int, words: str) -> None:
    (root / "evals/capitals.yaml").write_text(edited(SUITE, old, new))
    with pytest.raises(InvalidInput) as caught:
        load_suite(root / "evals/capitals.yaml")
    (problem,) = caught.value.problems
    assert problem.line == line
    assert words in str(problem)


def test_a_model_folder_must_hold_safetensors(root: Path) -> None:
    folder = root / "models/tiny"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "weights in pickle (pytorch_model.bin), which can run code" in refusals(root)[0].message
    (folder / "pytorch_model.bin").unlink()
    assert "holds no weights" in refusals(root)[0].message
    (folder / "config.json").unlink()
    assert "has no config.json" in refusals(root)[0].message


@pytest.mark.parametrize("name", ["typing-inspection", "typing_inspection", "pyyaml", "yaml"])
def test_a_package_is_found_by_either_name(name: str) -> None:
    assert any((folder / "__init__.py").is_file() for folder in package_folders(name))


def test_a_file_in_a_package_stays_inside_it(root: Path) -> None:
    (problem,) = refusals(root, edited(SPEC, "models/tiny", "package:yaml/../yaml/__init__.py"))
    assert "has no file" in problem.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("# later\n", "the file is empty"),
        ("- 1\n", "expected a block"),
        ("hello", "expect"),
    ],
)
def test_a_file_without_a_spec(root: Path, text: str, words: str) -> None:
    (problem,) = refusals(root, text)
    assert words in problem.message


def test_a_file_that_is_none(root: Path) -> None:
    for path, words in ((root / "none.yaml", "there is no such file"), (root, "this is a folder")):
        with pytest.raises(InvalidInput, match=words):
            load_spec(path, root)


def test_the_excerpt_points_at_the_place(root: Path) -> None:
    text = edited(SPEC, "schedule: linear", "shcedule: linear")
    (problem,) = refusals(root, text)
    assert excerpt(text, problem.line, problem.column) == (
        "11 |   num_epochs: 2\n12 |   shcedule: linear\n   |   ^\n13 | compress:"
    )
    shown, caret = excerpt("é" * 499 + "X" + "\x1b" * 99, 1, 500).splitlines()
    assert shown[caret.index("^")] == "X"
    assert "\x1b" not in shown
    assert excerpt(text, 0, 0) == ""


def test_the_schema_takes_what_the_loader_takes() -> None:
    editor = jsonschema.Draft7Validator(spec_schema())
    short = {
        "version": 1,
        "name": "a",
        "model": "hf:a/b",
        "data": {"train": "x", "gate": "5%", "selection": ["y"]},
    }
    short |= {
        "gate": {"suite": "s"},
        "approval": {"reviewers": ["a"], "expires": "72h"},
        "train": {"method": "lora"},
    }
    Spec.model_validate(short)
    assert list(editor.iter_errors(short)) == []
    assert list(editor.iter_errors(json.loads(Spec.model_validate(short).model_dump_json()))) == []
    assert not editor.is_valid({**short, "train": {"lr": 1}})
    assert editor.is_valid({"extends": "base.yaml", "data": {"gate": "5%"}})
    assert not editor.is_valid({"data": {"gate": "5%"}})
    assert not editor.is_valid({"extends": "base.yaml", "train": {"lr": 1}})


WORDS = [
    "x",
    "",
    "5%",
    "-1",
    "1e999",
    "true",
    "null",
    "[",
    "]",
    "{",
    "}",
    ":",
    "- ",
    "\n",
    "\t",
    "  ",
    '"',
    "'",
    "*a",
]
WORDS += [
    "&a ",
    "!t ",
    "#",
    "|",
    "\x00",
    "é",
    "\u2028",
    '"\\0"',
    "/",
    "..",
    "*",
    "hf:",
    "package:",
    "train:",
    "lora",
]


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """The text with a few passages replaced, doubled or cut out."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + draw(st.sampled_from([*WORDS, text[start:end] * 2])) + text[end:]
    return text


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(spec=mutated(SPEC), suite=mutated(SUITE))
def test_whatever_is_written_ends_in_a_spec_or_in_problems(
    root: Path, spec: str, suite: str
) -> None:
    (root / "spec.yaml").write_text(spec)
    (root / "evals/capitals.yaml").write_text(suite)
    refused: InvalidInput | None = None
    try:
        assert isinstance(load_spec(root / "spec.yaml", root), Spec)
        assert isinstance(load_suite(root / "evals/capitals.yaml"), SuiteSpec)
    except InvalidInput as error:
        refused = error
    if refused is not None:
        assert refused.problems
        for problem in refused.problems:
            assert problem.message
            excerpt(spec, problem.line, problem.column)


def test_reading_a_spec_imports_nothing_heavy() -> None:
    code = (
        "import sys, assay.loader.load; print(*{'torch', 'ray', 'transformers', 'lm_eval'} & "
        "set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_several_suites_are_weighed_as_one(root: Path) -> None:
    (root / "evals/service.yaml").write_text("confidence: 0.95\nservice: {ttft_p95: 500ms}\n")
    both = load_suites(["evals/capitals.yaml", "evals/service.yaml"], root)
    assert both.service is not None
    assert both.service.ttft_p95 == 0.5
    assert both.limits == load_suite(root / "evals/capitals.yaml").limits
    assert both.settings("invented").source == "evals/capitals/invented.yaml"


def test_suites_that_disagree_are_refused(root: Path) -> None:
    (root / "evals/other.yaml").write_text("confidence: 0.9\nlimits: {heldout: {at_least: 10%}}\n")
    with pytest.raises(InvalidInput) as caught:
        load_suites(["evals/capitals.yaml", "evals/other.yaml"], root)
    assert {problem.path for problem in caught.value.problems} == {"limits.heldout", "confidence"}
