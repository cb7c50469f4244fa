"""A run's own log."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assay.errors import StageFailed
from assay.flow.pipeline.executor import StageExecutor
from assay.flow.pipeline.graph import Stage
from assay.flow.pipeline.log import FILE, lines, run_log
from assay.records.inputs import StageInputs
from assay.records.record import Record
from assay.settings import Settings
from assay.stages.context import Work
from assay.store.ledger import Ledger


class Made(Record):
    number: int


@dataclass(frozen=True, kw_only=True)
class Needs(StageInputs):
    number: int


class Silent:
    def began(self, *_: Any) -> None: ...

    def ended(self, *_: Any, **__: Any) -> None: ...


def stage(run: Any) -> Stage[Made]:
    return Stage("train", 1, Made, lambda: Needs(number=7), run)


@pytest.mark.filterwarnings("default")
def test_the_log_tells_of_stages_words_warnings_and_all_of_an_error(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}", user="ben")
    ledger = Ledger(settings.ledger_url)
    ledger.open_run("r-1", name="r", spec="{}", started_by="ben")
    executor = StageExecutor("r-1", settings, tmp_path, ledger, Silent(), lambda: None)
    folder = settings.run_folder("r-1")

    def fails(_: Needs, work: Work) -> Made:
        work.say("reading the data")
        warnings.warn("a library is not content", stacklevel=1)
        raise StageFailed("the disk is full")

    def works(_: Needs, work: Work) -> Made:
        return Made(number=7)

    with run_log(folder), pytest.raises(StageFailed):
        executor.record(stage(fails), needs_cluster=False)
    with run_log(folder):
        executor.record(stage(works), needs_cluster=False)
        executor.record(stage(works), needs_cluster=False)
    text = (folder / FILE).read_text()
    in_order = (
        "train: begins, key ",
        "train: reading the data",
        "a library is not content",
        "train: stopped",
        "Traceback",
        "StageFailed: the disk is full",
        "train: done",
        "train: cached, made by r-1",
    )
    places = [text.index(part) for part in in_order]
    assert places == sorted(places)
    with warnings.catch_warnings(
        record=True
    ) as raised:  # after the run they are Python's own again
        warnings.simplefilter("always")
        warnings.warn("later", stacklevel=1)
    assert "later" not in (folder / FILE).read_text()
    assert [str(one.message) for one in raised] == ["later"]


def test_a_followed_log_ends_with_its_run(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text("one\n")
    left = iter(["two\n", "three\n"])

    def goes_on() -> bool:
        added = next(left, None)
        if added is None:
            return False
        with file.open("a") as opened:
            opened.write(added)
        return True

    assert list(lines(file, goes_on=goes_on)) == ["one\n", "two\n", "three\n"]
