"""Which stages a change of the spec makes run again, by the same table that makes their keys."""

from pathlib import Path
from typing import Any, TypeVar

from assay.engines.evaluation.harness import TaskFile
from assay.flow.pipeline.graph import Context, wanted_steps
from assay.loader.load import load_suites
from assay.records.record import Record
from assay.settings import Settings
from assay.spec.gate import HELD_OUT
from assay.spec.spec import Spec
from assay.stages import evaluate

R = TypeVar("R", bound=Record)


def stages_again(old: Spec, new: Spec, root: Path, settings: Settings) -> list[str]:
    """The stages of `new` whose key would be another than after a run of `old`, in their order. The files that
    the two name are read as they are now. Raises InvalidInput when a suite cannot be read."""
    before, after = (
        _keys(_Imagined(spec, load_suites(spec.gate.suite, root), root, settings, None)) for spec in (old, new)
    )
    return [name for name, key in after.items() if before.get(name) != key]


def _keys(context: "_Imagined") -> dict[str, str]:
    """The key of every stage, were each to leave a record that is as much its own as the key is."""
    keys = {}
    for step in wanted_steps(context):
        keys[step.name] = step.key(context)
        context.records[step.name] = _Token(keys[step.name])  # type: ignore[assignment]
    return keys


class _Imagined(Context):
    """A context whose stages have all run, and left tokens in place of records."""

    def record(self, stage: str, kind: type[R]) -> R:
        return self.records[stage]  # type: ignore[return-value]

    @property
    def tasks(self) -> tuple[TaskFile, ...]:
        files = evaluate.tasks_of(self.suite, self.root, None)
        data = str(self.records["prepare"])
        return (*files, TaskFile(HELD_OUT, "", data)) if HELD_OUT in self.suite.limits else files


class _Token(str):
    """Stands for a record that is not there: text of its own, whatever part of it is asked for."""

    @property
    def parameters(self) -> dict[str, float]:
        """A sweep's choice, which no other token has."""
        return {"learning_rate": (int(self[:8], 16) + 1) / 2**33}

    def __getattr__(self, name: str) -> "_Token":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "_Token":
        return self
