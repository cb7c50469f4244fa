"""Reading all of a spec's data once, before anything starts."""

from collections.abc import Iterator
from pathlib import Path

from assay.engines.data.reading.examples import Example
from assay.engines.data.reading.sources import check_forms, stream_sources
from assay.errors import InvalidInput, Problem, UsageError
from assay.flow.preflight.places import Places
from assay.loader.yaml.reader import Location
from assay.spec.data import DataSpec, HeldOut, is_remote
from assay.spec.spec import FORMATS, Spec
from assay.spec.steps import FunctionSpec
from assay.spec.train import TrainSpec


class DataCheck:
    """Every broken line of every file, once, and data of a form that an objective does not learn
    from. Data that lie elsewhere are read when they are prepared."""

    def __init__(self, spec: Spec, root: Path, places: Places) -> None:
        self.root, self.places = root, places
        self.problems: list[Problem] = []
        self.counts: dict[tuple[str, ...], int] = {}
        """Examples of each list of files that was read whole."""
        for index, train in enumerate(spec.train_steps):
            at: Location = ("train", index) if isinstance(spec.train, tuple) else ("train",)
            own = train.data is not None
            self._check(train.data or spec.data, train, (*at, "data") if own else ("data",))
            if train.ewc is not None:
                self._read(
                    train.ewc.data, "auto", spec.data.system, FORMATS["sft"], (*at, "ewc", "data")
                )

    def num_held_out(self, data: DataSpec) -> int | None:
        """About how many samples the sealed split has; None where that is not known, or there is
        none."""
        if isinstance(data.gate, HeldOut):
            return self.counts.get(data.gate.source)
        total = self.counts.get(data.train)
        if data.gate is not None and total is not None:
            return round(data.gate * total)
        return None

    def _check(self, data: DataSpec, train: TrainSpec, at: Location) -> None:
        wanted = FORMATS[train.objective.name]
        for number, step in enumerate(data.steps):
            if step.function is not None:
                self._check_function(step.function, (*at, "steps", number, "function"))
            if step.deduplicate is not None and step.deduplicate.against:
                against = (*at, "steps", number, "deduplicate", "against")
                self._read(step.deduplicate.against, "auto", None, wanted, against)
        self._read(data.train, data.format, data.system, wanted, (*at, "train"))
        for name, split in (("selection", data.selection), ("gate", data.gate)):
            if isinstance(split, HeldOut):
                self._read(split.source, data.format, data.system, wanted, (*at, name))

    def _check_function(self, function: FunctionSpec, at: Location) -> None:
        """A user's step is compared with its digest, and not run."""
        from assay.engines.data.cleaning.steps.function import checked_bytes  # few specs have one

        try:
            checked_bytes(function, self.root)
        except UsageError as error:
            self.problems.append(self.places.problem(at, "function", str(error)))

    def _read(
        self,
        named: tuple[str, ...],
        format_: str,
        system: str | None,
        wanted: tuple[str, ...],
        at: Location,
    ) -> None:
        source = [pattern for pattern in named if not is_remote(pattern)]
        if not source:
            return
        counted = 0

        def examples() -> Iterator[Example]:
            nonlocal counted
            found = stream_sources(source, format_, system, self.root)  # type: ignore[arg-type]
            for _, example in found:
                counted += 1
                yield example

        try:
            check_forms(examples(), wanted, ", ".join(source))
            if len(source) == len(named):
                self.counts[named] = counted
        except InvalidInput as error:
            self.problems += [one for one in error.problems if one not in self.problems]
        except UsageError as error:
            self.problems.append(self.places.problem(at, "form", str(error)))
