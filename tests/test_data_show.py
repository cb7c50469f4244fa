"""`assay data show`: what the model will see, what it learns of it, and what becomes of each
source."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.flow.planning.preview import data_preview
from assay.loader.load import load_spec
from assay.records.preview import Preview
from assay.settings import Settings
from tiny import NO_IDEA, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    make_project(folder)
    with (folder / "train.jsonl").open("a") as lines:
        lines.write(json.dumps({"prompt": "x" * 80, "completion": "long"}) + "\n")
    (folder / "more.jsonl").write_text(
        json.dumps({"prompt": "more?", "completion": "more!"}) + "\n"
    )
    return folder


def shown(project: Path, **data: object) -> Preview:
    spec = load_spec(project / "tiny.yaml", project)
    changed = {
        **spec.model_dump(),
        "sweep": None,
        "data": {"train": ["train.jsonl", "more.jsonl"], "selection": 0, **data},
    }
    settings = Settings(home=project / "home")
    return data_preview(
        type(spec).model_validate(changed), step=1, num=4, root=project, settings=settings
    )


def test_what_is_learned_is_the_answer_with_its_end(project: Path) -> None:
    found = shown(project)
    first, *_, last = found.examples
    assert [(part.text, part.learned) for part in last.texts[0].parts] == [
        ("<|user|>more?<|end|><|assistant|>", False),
        ("more!<|end|>", True),
    ]
    assert first.texts[0].parts[-1].text == "yes<|end|>"
    assert {example.source for example in found.examples} == {"train.jsonl", "more.jsonl"}


def test_lengths_and_fates_are_counted_by_source(project: Path) -> None:
    found = shown(project, gate=0.2)
    assert sum(one.num_examples for one in found.lengths) == found.num_measured == found.num_train
    assert found.longest > found.max_length == 64
    train, more = found.sources
    assert (train.num_read, more.num_read) == (41, 1)
    assert train.num_train + train.num_gate == 41
    assert train.num_too_long + (train.num_gate > 0) >= 1
    cut = shown(project, too_long="truncate").sources[0]
    assert (cut.num_too_long, cut.num_cut) == (0, 1)
    few = shown(project, max_samples=10)
    assert sum(source.num_beyond_max for source in few.sources) == 32


def test_the_command_starts_nothing_and_marks_with_brackets(project: Path) -> None:
    code = (
        "import sys; from assay.cli.main import assay; assay(sys.argv[1:], standalone_mode=False); "
        "assert 'ray' not in sys.modules and 'vllm' not in sys.modules"
    )
    call = [sys.executable, "-c", code, "data", "show", "tiny.yaml"]
    done = subprocess.run(
        call, cwd=project, capture_output=True, text=True, env=_env(project), check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"<|assistant|>[[{NO_IDEA}<|end|>]]" in done.stdout
        or "<|assistant|>[[yes<|end|>]]" in done.stdout
    )
    assert "longer than max_length 64: left out" in done.stdout
    document = json.loads(
        subprocess.run(
            [*call, "--json", "--num", "1"], cwd=project, capture_output=True, env=_env(project)
        ).stdout
    )
    assert len(document["examples"]) == 1


def _env(project: Path) -> dict[str, str]:
    return {**os.environ, "ASSAY_HOME": str(project / "home")}
