"""`assay data show`: a spec's data as the model will see them, before anything runs."""

from collections.abc import Iterator
from pathlib import Path

import click

from assay.cli.terminal.cleaning import count_line, reason_words
from assay.cli.terminal.echo import echo
from assay.flow.planning.preview import data_preview
from assay.records.preview import Preview, PreviewExample, PreviewPart, SourceFates, StepEffect
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.text import padded, width

BAR = 40
# Characters of a part that are shown; of a longer one, its two ends.
LONGEST_PART = 800
COLUMNS = (
    ("read", "num_read"),
    ("train", "num_train"),
    ("selection", "num_selection"),
    ("gate", "num_gate"),
    ("too long", "num_too_long"),
    ("cut", "num_cut"),
    ("held out elsewhere", "num_duplicates"),
    ("quotes the gate", "num_in_gate"),
    ("beyond max_samples", "num_beyond_max"),
)
# Columns; the others only where they count anything.
ALWAYS_SHOWN = 4


def show_data(
    spec: Spec, *, step: int, num: int, settings: Settings, as_json: bool, in_colour: bool
) -> None:
    """Prints the preview: examples with what the model learns marked, lengths, and what becomes of
    each source."""
    found = data_preview(spec, step=step, num=num, root=Path.cwd(), settings=settings)
    if as_json:
        echo(found.model_dump_json())
        return
    for line in _lines(found, in_colour=in_colour):
        echo(line)


def _lines(found: Preview, *, in_colour: bool) -> Iterator[str]:
    if in_colour:
        learned = click.style("what the model learns to write", fg="green")
    else:
        learned = "[[what the model learns]]"
    for number, example in enumerate(found.examples, start=1):
        yield from _example_lines(number, example, in_colour=in_colour)
        yield ""
    if found.examples:
        yield f"marked: {learned}; everything else is read, and not learned"
        yield ""
    yield from _length_lines(found)
    yield ""
    if found.steps:
        yield from step_lines(found.steps)
        yield ""
    yield from _source_lines(found.sources)
    if found.num_measured < found.num_train:
        yield (
            f"lengths, and what is too long or cut, are of the first {found.num_measured:,} "
            "training examples"
        )


def step_lines(steps: tuple[StepEffect, ...]) -> Iterator[str]:
    """What each of `data.steps` does, with its first reasons."""
    yield "steps, before anything is split:"
    for effect in steps:
        yield f"  {count_line(effect.counts)}"
        for reason in effect.reasons:
            yield f"    {reason.at}: {reason_words(reason)}"


def _example_lines(number: int, example: PreviewExample, *, in_colour: bool) -> Iterator[str]:
    counts = " and ".join(f"{text.num_tokens:,}" for text in example.texts)
    label = f", label {example.label}" if example.label is not None else ""
    cut = ", shortened or split" if example.is_cut else ""
    yield click.style(f"── {number}: {counts} tokens, from {example.source}{label}{cut}", bold=True)
    for index, text in enumerate(example.texts):
        if index:
            yield click.style("── the answer that is not preferred:", bold=True)
        yield "".join(_part(part, in_colour=in_colour) for part in text.parts).rstrip("\n")


def _part(part: PreviewPart, *, in_colour: bool) -> str:
    text = part.text
    if len(text) > LONGEST_PART:
        half = LONGEST_PART // 2
        text = f"{text[:half]} … {len(text) - LONGEST_PART:,} characters … {text[-half:]}"
    if not part.learned:
        if in_colour:
            return click.style(text, dim=True)
        return text
    if in_colour:
        return click.style(text, fg="green", bold=True)
    return f"[[{text}]]"


def _length_lines(found: Preview) -> Iterator[str]:
    yield (
        f"length in tokens: median {found.median:,}, 95 of 100 up to {found.p95:,}, longest "
        f"{found.longest:,}"
    )
    most = max(one.num_examples for one in found.lengths)
    digits = len(f"{found.lengths[-1].last:,}")
    for one in found.lengths:
        bar = "█" * max(int(one.num_examples > 0), round(BAR * one.num_examples / most))
        beyond = "  beyond max_length" if one.first > found.max_length else ""
        yield (
            f"  {one.first:>{digits},} to {one.last:>{digits},}  {padded(bar, BAR)} "
            f"{one.num_examples:,}{beyond}"
        )
    what = {"drop": "left out", "truncate": "shortened", "split": "split between turns"}[
        found.too_long
    ]
    yield f"  longer than max_length {found.max_length:,}: {what} (`data.too_long`)"


def _source_lines(sources: tuple[SourceFates, ...]) -> Iterator[str]:
    columns = []
    for number, (title, field) in enumerate(COLUMNS):
        if number < ALWAYS_SHOWN or any(getattr(source, field) for source in sources):
            columns.append((title, field))
    widest = max(width(source.source) for source in sources)
    yield padded("source", widest) + "".join(f"  {title}" for title, _ in columns)
    for source in sources:
        counts = (f"  {getattr(source, field):>{len(title)},}" for title, field in columns)
        yield padded(source.source, widest) + "".join(counts)
