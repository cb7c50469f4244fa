"""`assay init`: a short interview in a terminal; without one, what the options say."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from assay.cli.commands.first_spec import (
    FirstSpec,
    model_size,
    num_examples,
    write_first_spec,
)
from assay.cli.terminal.echo import echo
from assay.rules.planning.recommend import Template
from assay.spec.values.names import fault, is_name

DEFAULT_MODEL, DEFAULT_DATA = "hf:Qwen/Qwen3-0.6B", "train.jsonl"
LARGE = 10e9

QUESTIONS = """\
What should it learn?
  lora      to answer as your examples do, through small adapters: the usual way
  qlora     the same with the base model in 4 bits: for large models on small GPUs
  full      the same with every weight: needs some ten times the memory
  dpo       to prefer one answer to another, from pairs
  classify  to put a label on a text"""


@dataclass(frozen=True, kw_only=True)
class Typed:
    """The options of `assay init`; None where one was not given."""

    template: Template | None
    model: str | None
    data: str | None
    name: str | None
    reviewer: str | None

    @property
    def is_enough(self) -> bool:
        """Whether nothing has to be asked: a name and a reviewer have good defaults."""
        return bool(self.template and self.model and self.data)


def first_spec(path: Path, typed: Typed, *, user: str, interactive: bool, has_gpu: bool) -> None:
    """Writes the files and says what to type next. What the options leave open is asked, where
    somebody is there to be asked, and else takes its default."""
    if interactive:
        typed = _asked(typed, user)
    wanted = FirstSpec(
        template=typed.template or "lora",
        model=typed.model or DEFAULT_MODEL,
        data=typed.data or DEFAULT_DATA,
        name=typed.name,
        reviewer=typed.reviewer or user,
        user=user,
        has_gpu=has_gpu,
    )
    for file in write_first_spec(path, wanted):
        echo(f"wrote {file}")
    put = "" if num_examples(wanted.data) else f"put your examples into {wanted.data}, then "
    echo(f"next: {put}`assay validate {path}`, and `assay plan {path}`")


def _asked(typed: Typed, user: str) -> Typed:
    """The options, with an answer to each that was left open."""
    model = typed.model or _ask(
        "Base model (hf:ORG/NAME, a folder, or package:NAME/FILE)", DEFAULT_MODEL
    )
    return Typed(
        model=model,
        data=typed.data or _ask("Training data, JSON Lines", DEFAULT_DATA),
        template=typed.template or _ask_template(model),
        name=typed.name or _ask_name(),
        reviewer=typed.reviewer
        or _ask("Who may approve a release (not you, if somebody else can)", user),
    )


def _ask(question: str, default: str) -> str:
    return str(click.prompt(question, default=default, show_default=bool(default))).strip()


def _ask_name() -> str | None:
    """A name that can be one; the folder's when nothing is said."""
    while True:
        name = _ask("Name of what is built", "")
        if not name or is_name(name):
            return name or None
        echo(fault(name))


def _ask_template(model: str) -> Template:
    size = model_size(model)
    default = "qlora" if size is not None and size > LARGE else "lora"
    echo(QUESTIONS)
    chosen: Template = click.prompt("Which", default=default, type=click.Choice(get_args(Template)))
    return chosen
