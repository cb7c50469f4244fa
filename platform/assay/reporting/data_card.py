"""A card of a run's training data, in the form of the Hugging Face hub's dataset cards: Markdown,
with the metadata that the hub reads in front."""

import json
from collections.abc import Iterator, Mapping

from assay.records.cleaning import CleaningRecord, RowProfile, StepCounts
from assay.spec.data import DataSpec
from assay.spec.steps import ALL_KINDS
from assay.text import printable

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The hub's size categories."""
LARGEST = "10M<n<100M"
BAR = 30
UNKNOWN = "?"


def data_card(name: str, run: str, data: DataSpec, record: CleaningRecord) -> str:
    """The card. It says nothing of any single row, and of licences only that nothing is known:
    the data do not bring theirs."""
    lines = [
        *_metadata(name, record.after),
        f"# Training data of {name}",
        "",
        f"Run `{run}`; the cleaned data are artifact `{record.artifact.digest}`.",
        f"Of {record.before.num_rows:,} rows {record.after.num_rows:,} are left.",
        "",
        *_sources(data, record),
        *_steps(record),
        *_personal(record),
        *_compared("Languages", record.before.languages, record.after.languages),
        *_compared(
            "Lengths, in words (a Chinese character is one), up to",
            _as_text(record.before.lengths),
            _as_text(record.after.lengths),
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _metadata(name: str, after: RowProfile) -> Iterator[str]:
    languages = [code for code in after.languages if code != UNKNOWN]
    size = LARGEST
    for most, label in reversed(SIZES):
        if after.num_rows < most:
            size = label
    yield "---"
    yield f"pretty_name: {json.dumps(name, ensure_ascii=False)}"
    yield f"language: {json.dumps(languages)}"
    yield f"size_categories: [{json.dumps(size)}]"
    yield "license: unknown"
    yield "---"
    yield ""


def _sources(data: DataSpec, record: CleaningRecord) -> Iterator[str]:
    yield "## Sources"
    yield ""
    yield "| entry of `data.train` | rows read | rows left |"
    yield "|---|---:|---:|"
    for source in data.train:
        before = record.before.sources.get(source, 0)
        after = record.after.sources.get(source, 0)
        yield f"| {_cell(source)} | {before:,} | {after:,} |"
    yield ""
    yield "Their licences are not known to Assay: write them here."
    yield ""


def _steps(record: CleaningRecord) -> Iterator[str]:
    yield "## What was done"
    yield ""
    yield "| step | rows changed | rows left out | of which, and how often |"
    yield "|---|---:|---:|---|"
    for step in record.steps:
        kinds = ", ".join(_kinds(step)) or "nothing to do"
        yield f"| {step.name} | {step.num_changed:,} | {step.num_dropped:,} | {kinds} |"
    yield ""
    for step in record.steps:
        if step.note:
            yield f"{step.name}: {step.note}."
            yield ""
    yield "`assay data why ROW` gives the reason for a single row."
    yield ""


def _kinds(step: StepCounts) -> Iterator[str]:
    for kind, number in step.changed.items():
        yield f"{kind} {number:,}"
    for rule, number in step.dropped.items():
        yield f"left out by {rule} {number:,}"
    for way, number in step.made.items():
        yield f"made by {way} {number:,}"


def _personal(record: CleaningRecord) -> Iterator[str]:
    masks = [step for step in record.steps if step.name.partition("-")[0] == "mask"]
    yield "## Personal data"
    yield ""
    if not masks:
        yield "Nothing was masked: the steps have no `mask`."
    else:
        totals = []
        for kind in ALL_KINDS:
            number = sum(step.changed.get(kind, 0) for step in masks)
            if number:
                totals.append(f"{kind} {number:,}")
        found = ", ".join(totals)
        yield f"Masked by rules: {found or 'none was found'}. Rules do not find everything."
    yield ""


def _compared(title: str, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[str]:
    """A picture: for each kind how many rows there were, and how many are left."""
    yield f"## {title.partition(',')[0]}"
    yield ""
    yield "```text"
    most = max([*before.values(), *after.values(), 1])
    width = max((len(kind) for kind in before), default=1)
    if "," in title:
        yield title
    for kind, number in before.items():
        left = after.get(kind, 0)
        full = round(BAR * left / most)
        light = max(0, round(BAR * number / most) - full)
        bar = ("█" * full + "░" * light).ljust(BAR)
        yield f"{kind.rjust(width)}  {bar}  {number:,} -> {left:,}"
    yield "```"
    yield ""


def _as_text(lengths: Mapping[int, int]) -> dict[str, int]:
    return {f"{most:,}": number for most, number in sorted(lengths.items())}


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("\n", " ")
