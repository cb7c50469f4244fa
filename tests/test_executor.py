"""Stages, one after the other, that somebody stops."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assay.engines.cluster import signals
from assay.errors import UsageError
from assay.flow.pipeline.executor import StageExecutor, stages_now
from assay.flow.pipeline.graph import Stage
from assay.flow.place.run_lock import only_one
from assay.records.inputs import StageInputs
from assay.records.record import Record, digest_of
from assay.settings import Settings
from assay.store.ledger import Ledger


class Made(Record):
    number: int


@dataclass(frozen=True, kw_only=True)
class Needs(StageInputs):
    number: int


class Silent:
    def began(self, *_: Any) -> None: ...

    def ended(self, *_: Any, **__: Any) -> None: ...


@pytest.fixture
def executor(tmp_path: Path) -> StageExecutor:
    settings = Settings(home=tmp_path, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}", user="ben")
    ledger = Ledger(settings.ledger_url)
    ledger.open_run("r-1", name="r", spec="{}", started_by="ben")
    return StageExecutor("r-1", settings, tmp_path, ledger, Silent(), lambda: None)


@pytest.mark.parametrize("wish", signals.WISHES)
def test_who_asks_to_stop_as_a_stage_ends_stops_the_executor_with_its_record(
    executor: StageExecutor, wish: signal.Signals
) -> None:
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # these tests run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def the_last_step(*_: object) -> Made:
        def work() -> None:
            os.kill(os.getpid(), wish)
            time.sleep(0.5)

        signals.run_beside(work, ask=lambda: None, within_s=30)
        return Made(number=7)

    stage = Stage("train", 1, Made, lambda: Needs(number=7), the_last_step)
    with pytest.raises(KeyboardInterrupt):
        executor.record(stage, needs_cluster=False)
    key = stage.stored_inputs().key
    assert executor.ledger.record(key) is not None
    stored = executor.ledger.inputs(key)
    assert stored is not None
    assert json.loads(stored) == {"stage": "train", "version": 1, "inputs": {"number": 7}}
    again = executor.record(stage, needs_cluster=False)
    assert (again.number, executor.num_run) == (7, 1)


def test_a_stage_whose_process_has_gone_is_not_running(executor: StageExecutor) -> None:
    executor.ledger.begin_stage("r-1", "train", digest_of("train"))
    with only_one(executor.settings.run_folder("r-1"), "r-1"):
        assert [stage.state for stage in stages_now("r-1", executor.ledger, executor.settings)] == [
            "running"
        ]
        with (
            pytest.raises(UsageError, match="being run already"),
            only_one(executor.settings.run_folder("r-1"), "r-1"),
        ):
            pass
    assert [stage.state for stage in stages_now("r-1", executor.ledger, executor.settings)] == [
        "killed"
    ]
