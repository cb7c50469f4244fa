"""`assay render`, `assay explain` and `assay diff`, as their users meet them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.cli.main import assay
from assay.errors import AssayError
from assay.flow.pipeline.graph import run_id
from assay.loader.annotations import blocks_at
from assay.loader.field_docs import entries
from assay.loader.load import load_spec, load_suites, resolve_spec
from assay.loader.parse import validated
from assay.loader.yaml.reader import Value, read_yaml
from assay.loader.yaml.writer import written
from assay.settings import Settings
from assay.spec.block import Block, Duration, Fraction
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.store.ledger import Ledger

ROOT = Path(__file__).resolve().parents[1]
DEMO = "specs/country-facts.yaml"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository as the current folder, and an empty place."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    return tmp_path


def call(*arguments: str) -> Result:
    """One `assay` command in this process; an error becomes its text and exit code."""
    done = CliRunner().invoke(assay, arguments)
    if isinstance(done.exception, AssayError):
        done.output_bytes, done.exit_code = str(done.exception).encode(), done.exception.exit_code
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize(
    "path", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda path: path.name
)
def test_a_rendered_spec_means_the_same(path: Path, tmp_path: Path) -> None:
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(call("render", str(path)).output)
    assert resolve_spec(rendered)[0] == resolve_spec(path)[0]
    again = [line.split("  #")[0] for line in call("render", str(rendered)).output.splitlines()]
    assert again == [line.split("  #")[0] for line in rendered.read_text().splitlines()]


def test_steps_of_training_are_rendered_one_by_one(tmp_path: Path) -> None:
    path, rendered = tmp_path / "spec.yaml", tmp_path / "rendered.yaml"
    text = (
        Path(DEMO).read_text().split("sweep:")[0]
        + Path(DEMO).read_text().split("deepspeed: {zero_stage: 2}\n")[1]
    )
    path.write_text(
        text.replace(
            "  num_workers: 2\n", "train: [{seed: 1}, {objective: dpo, data: {train: p.jsonl}}]\n"
        )
    )
    rendered.write_text(call("render", str(path)).output)
    assert resolve_spec(rendered)[0] == resolve_spec(path)[0]
    assert "\n  - method:\n      lora:\n        r: 16 " in rendered.read_text()


def test_every_value_tells_where_it_is_from(tmp_path: Path) -> None:
    base, spec, text = tmp_path / "base.yaml", tmp_path / "spec.yaml", tmp_path / "system.txt"
    base.write_text(Path(DEMO).read_text())
    text.write_text("Short: and true.\n")
    spec.write_text("extends: base.yaml\nname: bot\ntrain:\n  method: full\n")
    arguments = [
        str(spec),
        "--set",
        "train.seed=3",
        "--set",
        "data.train.0=x",
        "--set-file",
        f"data.system={text}",
    ]
    lines = {
        line.split(":")[0].strip(): line for line in call("render", *arguments).output.splitlines()
    }
    assert lines["name"].endswith(f"# {spec}:2")
    assert lines["full"].endswith(f"# {spec}:4")
    assert lines["max_length"].endswith(f"# {base}:{line_of('max_length:', base)}")
    assert lines["optimizer"].endswith("# default")
    assert "micro_batch_size" not in lines
    assert '"Short: and true."' in lines["system"]
    assert lines["system"].endswith(f"# {text}:1")
    said = json.loads(call("render", *arguments, "--json").output)
    assert said["spec"]["train"]["seed"] == 3
    assert said["origins"]["train.seed"] == "--set"
    assert said["origins"]["data.train"] == f"{base}:{line_of('- specs/', base)}, --set"


def line_of(beginning: str, file: Path) -> int:
    """Number of the first line of a file that begins so."""
    lines = file.read_text().splitlines()
    return next(
        number for number, line in enumerate(lines, 1) if line.lstrip().startswith(beginning)
    )


ODD = [
    "no",
    "true",
    "1e-5",
    "5%",
    "~",
    "",
    "a: b",
    "- a",
    "hf:a/b",
    "a #b",
    "[x]",
    "'",
    "x:",
    ".5",
    "0x1",
    "a:b: c",
]
ODD += ["a, b", "{a}", "${env:A}", ".nan", "1e999", "1" * 300]
ANNOTATIONS = [(Duration, 1e9), (Fraction, 1.0), (float, 1e30)]


@settings(deadline=None)
@given(
    st.one_of(
        st.text(
            st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"),
            max_size=20,
        ),
        st.sampled_from(ODD),
        st.integers(-(10**20), 10**20),
        st.booleans(),
        st.none(),
    )
)
def test_what_is_written_is_read_back(value: object) -> None:
    for text in (f"key: {written(value)}", f"key: {{key: [{written(value)}, {written(value)}]}}"):
        read = read_yaml(text.encode(), "f").value
        assert isinstance(read, dict)
        inner = read["key"]
        assert inner == (value if not isinstance(inner, dict) else {"key": [value, value]})


@pytest.mark.parametrize(("annotation", "most"), ANNOTATIONS)
def test_numbers_are_written_in_full(annotation: object, most: float) -> None:
    block = type("Held", (Block,), {"__annotations__": {"value": annotation}})

    @settings(deadline=None)
    @given(st.floats(0, most))
    def check(value: float) -> None:
        document = read_yaml(f"value: {written(value, annotation)}".encode(), "f")
        assert validated(document, block).block == block.model_validate({"value": value})

    check()


def test_every_key_is_explained() -> None:
    paths = [one.path for cls in (Spec, SuiteSpec) for one in entries(cls, ())]
    assert len(paths) > 60
    for path in paths:
        done = call("explain", path.replace("NAME", "heldout"))
        assert done.exit_code == 0
        assert done.output.startswith(f"{path}\n")
        assert len(done.output.splitlines()) > 2, f"{path} has no meaning"


def test_an_explanation_tells_what_may_stand_there() -> None:
    said = " ".join(call("explain", "train.warmup_ratio").output.split())
    assert "Share of the steps in which the learning rate rises." in said
    assert "default 6%" in said
    assert "allowed linear, cosine, constant" in " ".join(
        call("explain", "train.schedule").output.split()
    )
    assert "train.deepspeed.zero_stage" in call("explain", "train.deepspeed").output
    overview = call("explain").output
    for key in [*Spec.model_fields, *SuiteSpec.model_fields]:
        assert f"\n  {key} " in overview


def test_every_example_may_stand_where_it_is_shown() -> None:
    shown = 0
    for cls in (Spec, SuiteSpec):
        for one in entries(cls, ()):
            if one.example:
                field = one.path.split(".")[-1]
                block = blocks_at(cls, tuple(one.path.split(".")[:-1]))
                value = read_yaml(f"{field}: {one.example}".encode(), one.path).value
                assert isinstance(value, dict)
                assert any(_is_taken(each, field, value[field]) for each in block), (
                    f"{one.path}: {one.example}"
                )
                shown += 1
    assert shown > 100


def _is_taken(block: type[Block], field: str, value: Value) -> bool:
    """Whether the block has nothing against this value of this field; that others are missing does
    not matter."""
    try:
        block.model_validate({field: value})
    except ValidationError as error:
        return all(one["loc"][:1] != (field,) for one in error.errors())
    return True


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("lr", "`train.learning_rate`"),
        ("train.sede", "`train.seed`"),
        ("limits.x.atleast", "`limits.NAME.at_least`"),
    ],
)
def test_an_unknown_key_is_met_with_a_guess(path: str, words: str) -> None:
    done = call("explain", path)
    assert done.exit_code == 2
    assert words in done.output


def test_specs_and_runs_are_compared_by_meaning(tmp_path: Path) -> None:
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(call("render", DEMO).output)
    assert call("diff", DEMO, str(rendered)).output == "the same\n"
    spec = load_spec(Path(DEMO))
    run = run_id(spec, load_suites(spec.gate.suite), ROOT)
    Ledger(Settings().ledger_url).open_run(
        run, name=spec.name, spec=spec.model_dump_json(), started_by="ana"
    )
    assert call("diff", run[:-2], DEMO).output == "the same\n"
    changed = json.loads(call("diff", run, DEMO, "--json", "--set", "train.seed=1").output)
    assert changed["changes"] == [{"path": "train.seed", "old": 0, "new": 1}]
    done = call("diff", DEMO, run, "--set", "train.seed=1")
    assert done.exit_code == 2
    assert "a run stays what it was" in done.output


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("train.learning_rate=1e-3", ""),  # the sweep chooses it
        ("train.seed=1", "sweep train merge compress deploy gate"),
        ("sweep=", "train merge compress deploy gate"),
        ("compress.scheme=none", "compress deploy gate"),
        ("data.system=x", "prepare sweep train merge compress deploy gate"),
        ("serve.engine.max_model_len=1024", "baseline deploy gate"),
        ("approval.required=1", ""),
        ("approval.expires=1h", ""),
        ("model=hf:a/b", "fetch prepare sweep train merge compress baseline deploy gate"),
    ],
)
def test_a_change_runs_again_what_reads_it(setting: str, stages: str) -> None:
    said = json.loads(call("diff", DEMO, DEMO, "--json", "--set", setting).output)
    assert said["runs_again"][:1] == stages.split()[:1]
    assert set(said["runs_again"]) >= set(stages.split())


def test_colours_stay_out_of_files() -> None:
    assert click.unstyle(call("render", DEMO).output) == call("render", DEMO).output
