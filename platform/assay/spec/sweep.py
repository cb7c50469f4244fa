"""The `sweep:` block: what Ray Tune varies."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from assay.spec.block import Block
from assay.spec.train import TrainSpec
from assay.spec.training.rates import LearningRate

Scalar = bool | int | float | str

# Learning rates that a range test proposes.
NUM_AUTO_RATES = 3


class LogUniform(Block):
    """A range whose logarithm is drawn uniformly."""

    loguniform: tuple[LearningRate, LearningRate]
    """Lower and upper end."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogUniform":
        if self.loguniform[0] >= self.loguniform[1]:
            raise ValueError("the lower end of loguniform must be below the upper end")
        return self


class Range(Block):
    """A range of any field of `train`; exactly one of the three is set."""

    uniform: tuple[float, float] | None = None
    """Drawn evenly between the two."""

    loguniform: tuple[float, float] | None = None
    """Drawn so that its logarithm is even; both ends above 0."""

    randint: tuple[int, int] | None = None
    """Whole numbers, both ends included."""

    @model_validator(mode="after")
    def _one_range(self) -> "Range":
        given = []
        for ends in (self.uniform, self.loguniform, self.randint):
            if ends is not None:
                given.append(ends)
        if len(given) != 1:
            raise ValueError("say one of uniform, loguniform, randint")
        if given[0][0] >= given[0][1]:
            raise ValueError("the lower end of a range must be below the upper end")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError("both ends of loguniform must be above 0")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.uniform or self.loguniform or self.randint or (0.0, 0.0)


Values = Annotated[tuple[Scalar, ...], Field(min_length=1)] | Range
"""A list of values, or a range."""


class SweepSpec(Block):
    """A sweep: each trial is an ordinary training run with a budget of its own. The lowest loss on
    the selection split wins, and within its standard error the cheapest trial."""

    learning_rate: (
        Annotated[tuple[LearningRate, ...], Field(min_length=1)]
        | LogUniform
        | Literal["auto"]
        | None
    ) = None
    """A list is a grid; `{loguniform: [low, high]}` is drawn from `num_samples` times. `auto`
    raises the rate during one short run, and tries the rates around the one at which the loss falls
    fastest. `sweep: auto` says nothing else."""

    parameters: dict[str, Values] = Field({})
    """Other fields of `train`, such as `method.lora.r: [8, 16]` or `weight_decay: {uniform: [0,
    0.1]}`."""

    search: Literal["grid", "random", "optuna"] | None = None
    """All combinations, draws, or Optuna's TPE, which draws near what did well. When not said: a
    grid where there are only lists, draws otherwise."""

    num_samples: int = Field(4, ge=1)
    """Trials that are drawn; a grid runs each combination once."""

    scheduler: Literal["none", "asha", "hyperband", "pbt"] = "none"
    """`asha` ends trials that do worse than most after a part of their steps; `hyperband` lets some
    begin later, so that a slow starter has its chance. `pbt` (population-based training) ends none:
    the worst go on from the state of the best, with another learning rate between the ends of
    `learning_rate`; what is chosen is a course of rates."""

    reduction_factor: int = Field(3, ge=2)
    """One trial of so many goes on at each rung of `asha` and `hyperband`; with `pbt`, one of so
    many takes over."""

    num_rungs: int = Field(2, ge=1, le=20)
    """How often the scheduler looks. `asha` and `hyperband` do so up to 5 times, the first time at
    1 / reduction_factor^num_rungs of the steps; `pbt` at equal distances."""

    num_epochs: float | None = Field(None, gt=0)
    """A trial's passes over the training split; `train.num_epochs` when neither this nor
    `max_steps` is said."""

    max_steps: int | None = Field(None, ge=1)
    """A trial's optimizer steps."""

    num_workers: int | None = Field(None, ge=1)
    """Workers of a trial, which must divide `train.global_batch_size`; `train.num_workers` when not
    said. Fewer workers let more trials run at once."""

    max_concurrent_trials: int | None = Field(None, ge=1)
    """Trials at once; as many as the cluster can hold when not said."""

    seed: int = Field(0, ge=0)
    """Seeds the draws from a range."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`auto` alone stands for a range test of the learning rate."""
        if value == "auto":
            return {"learning_rate": "auto"}
        return value

    @field_validator("parameters")
    @classmethod
    def _not_its_own(cls, parameters: dict[str, Values]) -> dict[str, Values]:
        for name in (
            "learning_rate",
            "learning_rate_changes",
            "num_workers",
            "max_steps",
            "num_epochs",
        ):
            if name in parameters:
                raise ValueError(f"{name} is a key of the sweep itself, not one of its parameters")
        return parameters

    @model_validator(mode="after")
    def _something_is_varied(self) -> "SweepSpec":
        if self.learning_rate is None and not self.parameters:
            raise ValueError("say what to vary: learning_rate, parameters, or both")
        if self.learning_rate == "auto" and self.way != "grid":
            raise ValueError(
                "learning_rate: auto makes a grid; give the other parameters as lists, or a range "
                "here"
            )
        if self.search == "grid" and self.has_ranges:
            raise ValueError("search: grid takes lists; draw from a range with random or optuna")
        if self.num_rungs > 5 and self.scheduler != "pbt":
            raise ValueError("more than 5 rungs are for scheduler: pbt alone")
        return self

    @model_validator(mode="after")
    def _a_population(self) -> "SweepSpec":
        if self.scheduler != "pbt":
            return self
        if self.learning_rate is None or (
            isinstance(self.learning_rate, tuple) and len(set(self.learning_rate)) < 2
        ):
            raise ValueError(
                "scheduler: pbt changes the learning rate; give learning_rate two values or a range"
            )
        if self.way == "optuna":
            raise ValueError(
                "scheduler: pbt and search: optuna do not go together: a trial changes on the way; "
                "use random"
            )
        if self.num_trials < 2:
            raise ValueError("scheduler: pbt needs two trials at least")
        return self

    @property
    def rate_ends(self) -> tuple[float, float]:
        """Lowest and highest learning rate; (0, 1) while it is still to be found, or not varied."""
        if isinstance(self.learning_rate, LogUniform):
            return self.learning_rate.loguniform
        if isinstance(self.learning_rate, tuple):
            return min(self.learning_rate), max(self.learning_rate)
        return 0.0, 1.0

    @property
    def has_ranges(self) -> bool:
        """Whether something can only be drawn."""
        return isinstance(self.learning_rate, LogUniform) or any(
            isinstance(v, Range) for v in self.parameters.values()
        )

    @property
    def way(self) -> Literal["grid", "random", "optuna"]:
        """`search`, or what it is when not said."""
        return self.search or ("random" if self.has_ranges else "grid")

    @property
    def space(self) -> dict[str, tuple[Scalar, ...] | Range]:
        """Every varied field of `train`, and its values. A learning rate that is still to be found
        is left out."""
        rate = self.learning_rate
        first: dict[str, tuple[Scalar, ...] | Range] = {}
        if isinstance(rate, LogUniform):
            first["learning_rate"] = Range(loguniform=rate.loguniform)
        elif isinstance(rate, tuple):
            first["learning_rate"] = rate
        return {**first, **self.parameters}

    @property
    def num_trials(self) -> int:
        """How many trials the sweep runs."""
        if self.way != "grid":
            return self.num_samples
        return len(self.grid()) * (NUM_AUTO_RATES if self.learning_rate == "auto" else 1)

    def with_rates(self, rates: tuple[float, ...]) -> "SweepSpec":
        """The same sweep, with the learning rates that a range test has found."""
        return SweepSpec.model_validate({**self.model_dump(), "learning_rate": rates})

    def grid(self) -> list[dict[str, Scalar]]:
        """All combinations of the lists."""
        lists = {}
        for name, values in self.space.items():
            if not isinstance(values, Range):
                lists[name] = values
        return [
            dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
        ]

    def mistake(self, base: TrainSpec) -> str | None:
        """Why some value of the sweep cannot stand in `base`, in words; None when all can."""
        for name, values in self.space.items():
            for value in values.ends if isinstance(values, Range) else values:
                number = value
                if isinstance(values, Range) and values.randint:
                    number = int(value)
                try:
                    with_parameters(base, {name: number})
                except ValidationError as error:
                    first = error.errors()[0]
                    if first["type"] == "extra_forbidden":
                        return f"{name} is no field of train"
                    return f"{name}: {value} cannot stand in train: {first['msg']}"
        return None


def with_parameters(train: TrainSpec, parameters: Mapping[str, Any]) -> TrainSpec:
    """The training run with other values at dotted names such as `method.lora.r`, validated anew.
    Raises `ValidationError` for a value or a name that training would refuse."""
    data = train.model_dump()
    for name, value in parameters.items():
        *path, last = name.split(".")
        block = data
        for key in path:
            if not isinstance(block.get(key), dict):
                block[key] = {}
            block = block[key]
        block[last] = value
    return TrainSpec.model_validate(data)
