"""`assay plan`, as people and programs read it. Plain text: a table's library would take longer
than the plan."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from assay.cli.terminal.echo import echo
from assay.errors import InvalidInput
from assay.flow.planning.plan import described, existing_ledger, plan
from assay.flow.planning.stages import as_yaml
from assay.loader.cluster import ClusterSpec
from assay.loader.diff import Change, differences
from assay.loader.parse import parse
from assay.records.plan import Cluster, LimitPlan, MemoryEstimate, Need, Plan, StagePlan
from assay.records.record import read_as
from assay.records.stages import DatasetRecord
from assay.rules.planning.memory import GIB
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.text import width as columns_of

STYLES = {"cached": "bright_black", "run": "green", "blocked": "red"}
NARROWEST = 80


def show_plan(
    spec: Spec,
    suite: SuiteSpec,
    *,
    settings: Settings,
    cluster_file: Path | None,
    against: str | None,
    as_json: bool,
) -> None:
    """Prints the plan, or with `against` what is different from an earlier run."""
    cluster = _described(cluster_file) if cluster_file else None
    earlier = _earlier_run(against, spec, settings) if against else None
    it = plan(spec, suite, root=Path.cwd(), settings=settings, cluster=cluster)
    if earlier:
        changes = [*earlier.changes, *_data_changes(earlier.data, it)]
    else:
        changes = []
    if as_json:
        said = it.model_dump(mode="json")
        if earlier:
            said["against"] = {"run": earlier.run, "changes": [vars(change) for change in changes]}
        echo(json.dumps(said))
        return
    if earlier:
        for line in _diff_lines(earlier.run, changes):
            echo(line)
    for line in _lines(it):
        echo(line)


def _described(file: Path) -> Cluster:
    block, _, problems = parse(file, ClusterSpec)
    if block is None or problems:
        raise InvalidInput(problems)
    return described(block, str(file))


class _Earlier(NamedTuple):
    """A run that the plan is compared with."""

    run: str
    changes: list[Change]
    """What its spec said differently."""
    data: DatasetRecord | None
    """Its prepared data, if it came so far."""


def _earlier_run(prefix: str, spec: Spec, settings: Settings) -> _Earlier:
    from assay.errors import UsageError

    ledger = existing_ledger(settings, [])
    if ledger is None:
        raise UsageError("there is no ledger yet, so there is no run to compare with")
    run = ledger.find_run(prefix)
    old = read_as(Spec, run.spec)
    if old is None:
        raise UsageError(f"the spec of {run.id} was written in a form that is not read any more")
    keys = [stage.key for stage in ledger.stages(run.id) if stage.stage == "prepare"]
    row = ledger.record(keys[0]) if keys else None
    data = read_as(DatasetRecord, row.record) if row else None
    return _Earlier(run.id, differences(old, spec), data)


def _data_changes(old: DatasetRecord | None, it: Plan) -> Iterator[Change]:
    """What the first training run's data count now and counted then; estimates are no change."""
    new = it.data[0]
    if old is None or new is None or not new.exact:
        return
    for path, was, now in (
        ("the data's examples", old.train.num_examples, new.num_examples),
        ("the data's tokens", old.train.num_tokens, new.num_tokens),
    ):
        if was != now:
            yield Change(path, was, now)


def _diff_lines(run: str, changes: Sequence[Change]) -> Iterator[str]:
    yield f"against {click.style(run, bold=True)}"
    if not changes:
        yield "  nothing is different"
    for change in changes:
        yield click.style(f"- {change.path}: {as_yaml(change.old)}", fg="red")
        yield click.style(f"+ {change.path}: {as_yaml(change.new)}", fg="green")
    yield ""


def _lines(it: Plan) -> Iterator[str]:
    yield f"run {click.style(it.run, bold=True)}"
    yield from _stage_lines(it.stages)
    yield ""
    yield from _work_lines(it)
    if it.needs:
        yield ""
        yield f"resources  {_cluster_words(it.cluster)}"
        for one in it.held:
            yield f"  held by {one}{', which is given back' if one.returns else ''}"
        for need in it.needs:
            yield from _need_lines(need)
    yield ""
    yield from _power_lines(it)
    for note in it.notes:
        yield f"note: {note}"


def _stage_lines(stages: Sequence[StagePlan]) -> Iterator[str]:
    for stage in stages:
        words = click.style(f"{stage.action:<8}", fg=STYLES[stage.action])
        first, *more = [
            line for text in _because(stage) for line in textwrap.wrap(text, _width() - 39)
        ]
        yield f"  {stage.stage:<17}{words}{_took(stage):>10}  {first}"
        for line in more:
            yield f"{'':<39}{line}"


def _because(stage: StagePlan) -> list[str]:
    if stage.action == "cached":
        return [f"from {stage.made_by}"]
    lines = list(stage.because) or [""]
    lines[0] = f"because {lines[0]}" if stage.action == "run" else lines[0]
    if stage.seconds_from:
        return [*lines, f"time: {stage.seconds_from}"]
    return lines


def _took(stage: StagePlan) -> str:
    if stage.seconds is None:
        if stage.action == "run":
            return "?"
        return ""
    if stage.action == "cached":
        return f"({_duration(stage.seconds)})"
    return f"~{_duration(stage.seconds)}"


def _work_lines(it: Plan) -> Iterator[str]:
    if it.model is None:
        yield "model      unknown here; its memory is known once it is fetched"
    else:
        size = f"{it.model.num_parameters / 1e6:,.0f}M parameters, {it.model.num_layers} layers"
        yield f"model      {size} ({it.model.source})"
    for data, training in zip(it.data, it.training, strict=True):
        if data is None or training is None:
            yield "data       unknown"
            continue
        about = "" if data.exact else "about "
        how = "counted" if data.exact else "estimated from the letters"
        yield (
            f"data       {about}{data.num_examples:,} examples, {about}{data.num_tokens:,} tokens "
            f"({how})"
        )
        yield (
            f"training   {training.num_steps:,} steps, {about}{training.num_tokens:,} tokens; at "
            "most some "
            f"{training.tokens_per_pass:,} in one forward pass"
        )
    if it.seconds_unknown:
        unknown = f"; unknown: {', '.join(it.seconds_unknown)}"
    else:
        unknown = ""
    time = "unknown" if it.seconds is None else f"about {_duration(it.seconds)}"
    yield f"time       {time}{unknown if it.seconds is not None else ''}"
    if it.cost is not None:
        yield f"cost       about {it.cost:.2f} (ASSAY_COST_PER_HOUR)"


def _cluster_words(cluster: Cluster | None) -> str:
    if cluster is None:
        return "the cluster does not answer, so that what fits is unknown"
    groups = []
    for node in cluster.nodes:
        gpu = f", {node.gpus:g} GPUs" if node.gpus else ""
        gpu += f" of {node.gpu_memory / GIB:g} GiB" if node.gpus and node.gpu_memory else ""
        memory = f", {node.memory / GIB:.0f} GiB" if node.memory else ""
        groups.append(f"{node.count} x ({node.cpus:g} CPUs{memory}{gpu})")
    return f"{' + '.join(groups)} ({cluster.source})"


def _need_lines(need: Need) -> Iterator[str]:
    what = f"{need.num_workers} x ({need.cpus:g} CPU{f', {need.gpus:g} GPU' if need.gpus else ''})"
    if need.memory is None:
        memory = ""
    else:
        memory = f", {_gib(need.memory.total)} of {need.memory.device} memory each"
    if need.available is not None and need.memory is not None:
        of = f" of {_gib(need.available)}"
    else:
        of = ""
    verdict = {
        None: "",
        True: click.style("  fits", fg="green"),
        False: click.style("  does not fit", fg="red"),
    }[need.fits]
    if need.waits_for:
        verdict = click.style("  waits", fg="yellow")
    yield f"  {need.stage:<10}{what}{memory}{of}{verdict}"
    for line in textwrap.wrap(need.waits_for, _width() - 12):
        yield f"{'':<12}{line}"
    for line in textwrap.wrap(need.advice, _width() - 12):
        yield f"{'':<12}{line}"
    if need.at_longest is not None:
        short = need.available is not None and need.at_longest > need.available
        words = f"{_gib(need.at_longest)} if every example of a batch were as long as may be"
        if short:
            words = click.style(f"{words}, which would not fit", fg="yellow")
        yield f"{'':<12}{words}"
    if need.memory is not None:
        yield from _wrapped(_parts(need.memory), indent=12)


def _parts(memory: MemoryEstimate) -> list[str]:
    parts = [f"{part.name} {_size(part.size)}" for part in memory.parts]
    return parts + [
        f"{part.name} {_size(part.size)} in the node's memory" for part in memory.host_parts
    ]


def _power_lines(it: Plan) -> Iterator[str]:
    yield (
        f"gate       {it.gate.confidence:.0%} confidence; what is shown in {it.gate.power:.0%} of "
        "all cases:"
    )
    for limit in it.gate.limits:
        items = "?" if limit.num_items is None else f"{limit.num_items:,}"
        yield f"  {limit.task}: {limit.requirement}, {items} items"
        yield f"{'':<12}{_shown(limit)}"


def _shown(limit: LimitPlan) -> str:
    is_difference = " within " in limit.requirement or " than " in limit.requirement
    if limit.detectable is None:
        shown = limit.note or "unknown"
    elif is_difference:
        shown = f"shows a margin of {limit.detectable:.1%} ({limit.note})"
    else:
        shown = f"met when the true value is {limit.detectable:.1%}"
    if limit.num_items_needed is None:
        return shown
    return f"{shown}; {limit.example} needs about {limit.num_items_needed:,} items"


def _wrapped(words: Sequence[str], *, indent: int) -> Iterator[str]:
    """The words with commas between, over as many lines as the terminal's width asks for."""
    width = _width() - indent
    line = ""
    for word in words:
        longer = f"{line}, {word}" if line else word
        if columns_of(longer) > width:
            yield click.style(f"{'':<{indent}}{line},", dim=True)
            longer = word
        line = longer
    yield click.style(f"{'':<{indent}}{line}", dim=True)


def _width() -> int:
    return max(NARROWEST, shutil.get_terminal_size((120, 24)).columns)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(size: int) -> str:
    if size < GIB:
        return f"{size / 2**20:,.0f} MiB"
    return _gib(size)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
