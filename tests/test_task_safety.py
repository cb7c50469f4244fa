"""Task files are data of somebody else's: reading and rendering them runs nothing, and ends."""

import json
import time
from pathlib import Path

import pytest

from assay.engines.evaluation import lm_tasks
from assay.engines.evaluation.templates import RENDER_S, Renderer
from assay.errors import InvalidInput, UsageError

ESCAPES = [
    "{{ cycler.__init__.__globals__.os.popen('touch OUT').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch OUT') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum.__globals__['os'].system('touch OUT') }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{{ question|attr('__class__') }}",
]
BOMBS = [
    "{{ 'x' * 10000000000 }}",
    "{{ '%9999999999d'|format(1) }}",
    "{{ 'x'.ljust(9999999999) }}",
    "{% for a in range(99999) %}{{ question * 99 }}{% endfor %}",
]
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ ('a' * 40 + 'b')|regex_replace('(a+)+$', '') }}",
]


def task(folder: Path, text: str) -> lm_tasks.TaskFile:
    """A task whose question is made by this template."""
    (folder / "items.jsonl").write_text(
        json.dumps({"question": "why?", "answer": "because"}) + "\n"
    )
    config = {
        "task": "attack",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": text,
        "doc_to_target": "{{ answer }}",
        "metric_list": [{"metric": "exact_match"}],
    }
    file = folder / "attack.yaml"
    file.write_text(json.dumps(config))
    return lm_tasks.task_file("attack", file)


def test_a_harmless_template_renders_as_in_lm_eval(tmp_path: Path) -> None:
    text = "{% if answer %}{{ question|trim }}{% endif %} {{ question|regex_replace('w', 'W') }}\n"
    assert lm_tasks.documents(task(tmp_path, text)) == [("why? Why?\n", "because")]


@pytest.mark.parametrize("text", ESCAPES)
def test_s3_a_template_reaches_no_python(tmp_path: Path, text: str) -> None:
    out = tmp_path / "owned"
    with pytest.raises(
        UsageError,
        match=r"a template of the task cannot be rendered: .*(SecurityError|UndefinedError)",
    ):
        lm_tasks.documents(task(tmp_path, text.replace("OUT", str(out))))
    assert not out.exists()


@pytest.mark.parametrize("text", BOMBS)
def test_s3_a_template_takes_no_more_than_its_memory(tmp_path: Path, text: str) -> None:
    said = (
        "cannot be rendered: (it takes more than|its text has|OverflowError|it ended the process)"
    )
    with pytest.raises(UsageError, match=said):
        lm_tasks.documents(task(tmp_path, text))


@pytest.mark.parametrize("text", ENDLESS)
def test_s3_a_template_ends(text: str) -> None:
    renderer, began = Renderer(), time.monotonic()
    try:
        with pytest.raises(UsageError, match="it does not end within"):
            renderer.render(text, {})
        assert time.monotonic() - began < RENDER_S + 10
        assert renderer.render("{{ 1 + 1 }}", {}) == "2", "the next one has a process again"
    finally:
        renderer.close()


def test_s16_an_alias_bomb_is_no_task(tmp_path: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(["task: bomb", "a0: &a0 [x, x]", *levels]))
    with pytest.raises(InvalidInput, match=r"its aliases make .* values of it"):
        lm_tasks.task_file("bomb", file)


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 5000 + "]" * 5000])
def test_s16_values_without_end_are_no_task(tmp_path: Path, text: str) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text(f"task: deep\nx: {text}" if text.startswith("[") else f"task: deep\n{text}")
    with pytest.raises(InvalidInput, match="more deeply than any task needs"):
        lm_tasks.task_file("deep", file)
