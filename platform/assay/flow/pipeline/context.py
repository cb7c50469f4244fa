"""What the stages of one run have to go by: the spec, and the records of the stages before."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import StageFailed
from assay.flow.pipeline.artifacts import champion_model
from assay.records.gate import ContaminationRecord
from assay.records.inputs import Pending
from assay.records.record import Record
from assay.records.releases.release import Champion
from assay.records.stages import (
    DatasetRecord,
    DeploymentRecord,
    ModelRecord,
    SweepRecord,
    TrainingRecord,
)
from assay.rules.gate.measurements import joined_contamination
from assay.settings import Settings
from assay.spec.data import DataSpec
from assay.spec.gate import HELD_OUT, SuiteSpec
from assay.spec.spec import Spec
from assay.spec.sweep import with_parameters
from assay.spec.train import TrainSpec
from assay.stages import evaluate
from assay.stages.deploy import Started

R = TypeVar("R", bound=Record)


def numbered(stage: str, index: int) -> str:
    """A stage's name in the training run of this index: `train`, `train-2`, `train-3`."""
    if index == 0:
        return stage
    return f"{stage}-{index + 1}"


@dataclass
class RunContext:
    """One run. `records` fills up as its stages finish; a `Pending` stands for a record that is not
    there yet."""

    spec: Spec
    suite: SuiteSpec
    root: Path
    settings: Settings
    champion: Champion | None
    records: dict[str, Record | Pending] = field(default_factory=dict)
    started: dict[str, Started] = field(default_factory=dict)
    """Engines that were told to start before the stage of this name waits for them."""

    def record(self, stage: str, kind: type[R]) -> R:
        """The record of a stage. Before the stage has run it is a `Pending`, which inputs may
        hold."""
        found = self.records.get(stage, Pending(stage))
        assert isinstance(found, kind | Pending), f"{stage} left a {type(found).__name__}"
        return cast(R, found)

    @property
    def model(self) -> ModelRecord:
        """The base model."""
        return self.record("fetch", ModelRecord)

    @property
    def data(self) -> DatasetRecord:
        """The prepared data of the first training run, with the sealed split."""
        return self.prepared(0)

    @property
    def last_data(self) -> DatasetRecord:
        """The prepared data of the last training run."""
        return self.prepared(self._last)

    @property
    def training(self) -> TrainingRecord:
        """The last training run."""
        return self.record(numbered("train", self._last), TrainingRecord)

    @property
    def merged(self) -> ModelRecord:
        """What training came to."""
        return self.record(numbered("merge", self._last), ModelRecord)

    @property
    def candidate(self) -> ModelRecord:
        """The model that will serve."""
        return self.record("compress", ModelRecord)

    @property
    def deployment(self) -> DeploymentRecord:
        """Where it stands."""
        return self.record("deploy", DeploymentRecord)

    def prepared(self, index: int) -> DatasetRecord:
        """The prepared data of one training run."""
        return self.record(numbered("prepare", index), DatasetRecord)

    def train_spec(self, index: int) -> TrainSpec:
        """One training run; the first has what the sweep chose, and waits for it."""
        train = self.spec.train_steps[index]
        if index or self.spec.sweep is None:
            return train
        sweep = self.record("sweep", SweepRecord)
        # What waits for the sweep waits for what it is made of.
        if isinstance(sweep, Pending):
            return cast(TrainSpec, sweep)
        return with_parameters(train, sweep.parameters)

    def data_spec(self, index: int) -> DataSpec:
        """The data of one training run."""
        return self.spec.train_steps[index].data or self.spec.data

    def labels(self, index: int) -> tuple[str, ...]:
        """The classes of a training run that makes a classifier with a head; none for others."""
        if not self.spec.train_steps[index].objective.classifies:
            return ()
        data = self.prepared(index)
        if isinstance(data, Pending):
            return cast(tuple[str, ...], data)
        return data.labels

    def start(self, index: int) -> ModelRecord:
        """The model that a training run starts from: what the last run before it made that can
        answer."""
        before = self.spec.train_steps[:index]
        generating = [i for i, train in enumerate(before) if train.objective.generates]
        if generating:
            return self.record(numbered("merge", generating[-1]), ModelRecord)
        return self.model

    def reward_model(self, index: int) -> ModelRecord | None:
        """The reward model that a `grpo` run asks, if it does."""
        grpo = self.spec.train_steps[index].objective.grpo
        if grpo is None or all(reward.name != "reward_model" for reward in grpo.rewards):
            return None
        before = self.spec.train_steps[:index]
        scoring = []
        for i, train in enumerate(before):
            if train.objective.reward is not None:
                scoring.append(i)
        return self.record(numbered("merge", scoring[-1]), ModelRecord)

    def teacher(self, index: int) -> ModelRecord | None:
        """The teacher of a `distill` run."""
        if self.spec.train_steps[index].objective.distill is None:
            return None
        return self.record(numbered("teacher", index), ModelRecord)

    @cached_property
    def suite_tasks(self) -> tuple[TaskFile, ...]:
        """The suite's own tasks, as their files are when they are first asked for."""
        return evaluate.tasks_of(self.suite, self.root, None)

    @property
    def tasks(self) -> tuple[TaskFile, ...]:
        """The suite's tasks, with the sealed split where the suite limits it."""
        if HELD_OUT not in self.suite.limits:
            return self.suite_tasks
        if isinstance(self.data, Pending):
            return (*self.suite_tasks, cast(TaskFile, self.data))
        return self._tasks_with_held_out

    @cached_property
    def _tasks_with_held_out(self) -> tuple[TaskFile, ...]:
        return evaluate.tasks_of(self.suite, self.root, self.data)

    @property
    def checks_contamination(self) -> bool:
        """Whether the suite's samples are looked for in the training data."""
        wanted = self.suite.contamination
        return bool(self.suite.limits) and not wanted.exact == wanted.near == "ignore"

    @property
    def contamination(self) -> ContaminationRecord | None:
        """What was found in the data of all training runs."""
        if not self.checks_contamination:
            return None
        names = []
        for index in range(len(self.spec.train_steps)):
            names.append(numbered("contamination", index))
        found = [self.record(name, ContaminationRecord) for name in names]
        pending = next((record for record in found if isinstance(record, Pending)), None)
        if pending is not None:
            return cast(ContaminationRecord, pending)
        return joined_contamination(found)

    @property
    def wants_champion(self) -> bool:
        """Whether the candidate stands beside the champion; before the first release that is the
        base model."""
        wanted = self.spec.gate.baseline == "champion" or "champion" in self.suite.references
        # Without a champion the base model would stand in its stead.
        classifies = self.spec.train_steps[-1].objective.classifies
        return wanted and not (classifies and self.champion is None)

    @property
    def wants_base(self) -> bool:
        """Whether the base model is evaluated, for itself or in the champion's stead. One without a
        head that classifies cannot be asked."""
        if self.spec.train_steps[-1].objective.classifies:
            return False
        wanted = self.spec.gate.baseline == "base" or "base" in self.suite.references
        return wanted or (self.wants_champion and self.champion is None)

    @property
    def champion_model(self) -> ModelRecord:
        """The model that has the traffic. Raises `StageFailed` when the ledger does not know it any
        more."""
        from assay.store.ledger import Ledger

        assert self.champion is not None
        model = champion_model(self.champion, Ledger(self.settings.ledger_url))
        if model is None:
            raise StageFailed(
                f"the model of the champion {self.champion.run} is not in the ledger any more"
            )
        return model

    @property
    def _last(self) -> int:
        return len(self.spec.train_steps) - 1
