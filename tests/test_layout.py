"""What must stay as it is in this repository."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from pydantic import ValidationError

from assay.cli import readme
from assay.cli.main import assay
from assay.loader.load import load_spec, load_suite
from assay.loader.yaml.reader import read_yaml
from assay.spec.block import Block
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "README.zh.md",
    "cluster.yaml",
    "evals",
    "platform",
    "pyproject.toml",
    "specs",
    "tests",
}


FREE_FORM = ("chat_template_kwargs",)
"""Keys under which anything may stand."""


def files() -> list[str]:
    """Every file that is in git, or would be with `git add .`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_the_top_level_holds_only_what_it_should() -> None:
    found = {name.split("/")[0] for name in files()}
    assert {name for name in found if not name.startswith(".")} == TOP_LEVEL


def test_platform_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "platform/__init__.py").exists()
    code = "import json, platform; print(json.dumps([platform.__file__, platform.system()]))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    file, system = json.loads(found)
    assert Path(file).parent.samefile(sysconfig.get_path("stdlib"))
    assert system == os.uname().sysname


@pytest.mark.parametrize(
    "path", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_spec_of_the_repository_is_valid(path: Path) -> None:
    assert load_spec(path, ROOT).name == path.stem


@pytest.mark.parametrize(
    "path", sorted((ROOT / "evals").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_suite_of_the_repository_is_valid_and_uses_all_of_its_tasks(path: Path) -> None:
    tasks = {task.stem for task in path.with_suffix("").glob("*.yaml")}
    assert tasks <= set(load_suite(path).limits)


@pytest.mark.parametrize("name", sorted(assay.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    command = assay.commands[name]
    assert command.help, f"assay {name} is missing its help"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not command.hidden:
            assert parameter.help, f"assay {name} {parameter.opts[-1]} is missing its help"


def test_the_checks_are_complete_and_hold_every_room() -> None:
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert check is not None
    for tool in (
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports",
        "assay.cli.readme --check",
    ):
        assert tool in check[1]
    assert "make check\nmake test" in (ROOT / ".ci/run").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    layers = {
        room for layer in contracts[0]["layers"] for room in re.findall(r"assay\.(\w+)", layer)
    }
    rooms = {
        path.stem for path in (ROOT / "platform/assay").iterdir() if not path.name.startswith("_")
    }
    assert rooms - {"settings", "py"} == layers


def test_the_readme_is_short_and_its_translation_shows_the_same() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
    assert len(english.splitlines()) <= 250
    assert [blocks(text) for text in (english, chinese)] == [blocks(english)] * 2
    assert english.count("\n## ") - 1 == chinese.count(
        "\n## "
    )  # what is missing yet is told in one place


def blocks(text: str) -> list[str]:
    """What stands between fences: code, output and drawings."""
    return re.findall(r"^```.*?^```", text, flags=re.DOTALL | re.MULTILINE)


def test_every_link_of_a_document_leads_somewhere() -> None:
    for name in (name for name in files() if name.endswith(".md")):
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_the_generated_parts_of_the_readmes_are_all_there() -> None:
    texts = [(ROOT / file).read_text() for file in readme.FILES]
    assert sorted(re.findall(r"<!-- generated: ([\w-]+) -->", "".join(texts))) == sorted(
        readme.PARTS
    )


def _with_an_unknown_key(value: Any) -> Iterator[Any]:
    """The value, once for each of its blocks, with a key in it that no block knows."""
    if isinstance(value, dict):
        yield {**value, "banana": 1}
        for key, inner in value.items():
            if key not in FREE_FORM:
                yield from ({**value, key: changed} for changed in _with_an_unknown_key(inner))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from (
                [*value[:index], changed, *value[index + 1 :]]
                for changed in _with_an_unknown_key(inner)
            )


@pytest.mark.parametrize(
    ("folder", "cls"), [("specs", Spec), ("evals", SuiteSpec)], ids=["specs", "suites"]
)
def test_editors_accept_the_shipped_files_and_refuse_what_is_unknown(
    folder: str, cls: type[Block]
) -> None:
    schema = json.loads((ROOT / folder / "schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    editor = jsonschema.Draft7Validator(schema)
    for path in (ROOT / folder).glob("*.yaml"):
        text = path.read_text()
        assert text.startswith("# yaml-language-server: $schema=schema.json\n"), path.name
        value = read_yaml(text.encode(), path.name).value
        assert [error.message for error in editor.iter_errors(value)] == [], path.name
        for changed in _with_an_unknown_key(value):
            with pytest.raises(ValidationError):
                cls.model_validate(changed)
            assert not editor.is_valid(changed)


def test_a_stale_part_is_named_and_made_anew() -> None:
    made, stale = readme.refreshed(
        "a\n<!-- generated: exit-codes -->\nold\n<!-- end generated -->\nz\n"
    )
    assert stale == ["exit-codes"]
    assert made.startswith("a\n<!-- generated: exit-codes -->\n| code | meaning |\n")
    assert made.endswith("\n<!-- end generated -->\nz\n")
    assert "\n| 10 | the gate failed the candidate |\n" in made
    assert readme.refreshed(made) == (made, [])


def test_links_between_documents_lead_somewhere() -> None:
    for name in files():
        if name.endswith(".md"):
            for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / name).read_text()):
                assert ((ROOT / name).parent / target).exists(), f"{name} names {target}"
