"""Which stages a change of the spec makes run again: reachability in the graph that makes their
keys."""

from pathlib import Path

from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.graph import stages_of
from assay.loader.load import load_suites
from assay.records.inputs import Pending
from assay.settings import Settings
from assay.spec.spec import Spec


def stages_again(old: Spec, new: Spec, root: Path, settings: Settings) -> list[str]:
    """The stages of `new` whose key would be another than after a run of `old`, in their order. The
    files that the two name are read as they are now. Raises InvalidInput when a suite cannot be
    read."""
    before = {}
    for stage in stages_of(_context(old, root, settings)):
        before[stage.name] = stage.stored_inputs()
    context = _context(new, root, settings)
    again: list[str] = []
    for stage in stages_of(context):
        if stage.stored_inputs() != before.get(stage.name):
            again.append(stage.name)
            # What depends on this stage sees another record than the old run's.
            context.records[stage.name] = Pending(stage.name, is_new=True)
    return again


def _context(spec: Spec, root: Path, settings: Settings) -> RunContext:
    return RunContext(spec, load_suites(spec.gate.suite, root), root, settings, None)
