"""Two pieces of work at once, of which one runs while the other is stopped: trainings by steps,
others by time.

A machine of many tenants gives a third more or less from one second to the next, so that two runs
after one another tell more of the neighbours than of themselves. Turns side by side have the same
neighbours.
"""

import json
import math
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

POLL_S = 0.01
STEPS_A_TURN = 3
SETTLE_S = 2.0
"""From when what runs around the work wakes until its turn begins."""


@dataclass
class Runner:
    """A training in processes of its own, which writes a line with `step` to `progress` after each
    optimizer step."""

    name: str
    process: "subprocess.Popen[bytes]"
    progress: Path
    trainers: Callable[[], list[psutil.Process]] | None = None
    """The processes that train; all those of `process` when None."""
    around: Callable[[], list[psutil.Process]] = list
    """What runs around them, from a while before the trainers' turn: what waited in it is not to
    count."""
    seconds: list[float] = field(default_factory=list)
    """Of each turn, the first step left out."""
    began_at: float = 0.0
    """When it wrote its first line, on the monotonic clock: what it imports is loaded by then."""
    first_step_s: float = 0.0
    """From then on until the first step was done."""
    _trainers: list[psutil.Process] = field(default_factory=list)
    _around: list[psutil.Process] = field(default_factory=list)

    def num_steps(self) -> int:
        """Steps that it has done."""
        with suppress(OSError):
            lines = self.progress.read_text().splitlines()
            return sum(1 for line in lines if line.endswith("}") and json.loads(line)["step"])
        return 0

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def run(self, num_steps: int) -> None:
        """Until so many more steps are done, or it has ended; then it is stopped."""
        wanted = self.num_steps() + num_steps
        _tell(self._trainers, signal.SIGCONT)
        size = 0
        while not self.has_ended():
            if (grown := self._size()) != size:
                size = grown
                self.began_at = self.began_at or time.monotonic()
                if self.num_steps() >= wanted:
                    break
            time.sleep(POLL_S)
        if not self._trainers:
            self._trainers = self.trainers() if self.trainers else tree(self.process.pid)
            self._around = [process for process in self.around() if process not in self._trainers]
        _tell([*self._trainers, *self._around], signal.SIGSTOP)

    def take_a_turn(self) -> None:
        """As `run`, timed; what comes after the last step is no turn."""
        _tell(self._around, signal.SIGCONT)
        time.sleep(SETTLE_S if self._around else 0)
        before, began = self.num_steps(), time.monotonic()
        self.run(STEPS_A_TURN)
        if self.num_steps() == before + STEPS_A_TURN:
            self.seconds.append(time.monotonic() - began)

    def end(self) -> None:
        """Whatever state it is in."""
        _tell([*self._around, *self._trainers], signal.SIGCONT)
        if not self.has_ended():
            self.process.terminate()
            self.process.wait()

    def _size(self) -> int:
        with suppress(OSError):
            return self.progress.stat().st_size
        return 0


def run_in_turns(start: list[Callable[[], Runner]]) -> list[Runner]:
    """Starts one after the other, each up to its first step, then lets them take turns until all
    have ended."""
    runners: list[Runner] = []
    try:
        for make in start:
            runners.append(make())
            runners[-1].run(1)
            runners[-1].first_step_s = time.monotonic() - runners[-1].began_at
        while not all(runner.has_ended() for runner in runners):
            for runner in runners:
                if not runner.has_ended():
                    runner.take_a_turn()
    finally:
        for runner in runners:
            runner.end()
    return runners


@dataclass
class Slices:
    """The times at which one of two groups of processes ran, on the monotonic clock."""

    ran: list[tuple[float, float]] = field(default_factory=list)

    def seconds_of(self, began: float, ended: float) -> float:
        """How much of a span of time it ran."""
        return sum(max(0.0, min(end, ended) - max(start, began)) for start, end in self.ran)


@dataclass(frozen=True)
class Work:
    """What runs a while at a time."""

    seconds: float
    """Of each turn."""
    members: Callable[[], list[psutil.Process]]
    """The processes that do it; none once it is done."""
    around: Callable[[], list[psutil.Process]] = list
    """What runs around them, from a while before their turn: what waited in it is not to count."""


def take_slices(works: tuple[Work, Work]) -> tuple[Slices, ...]:
    """Lets two pieces of work run in turns until one is done; then the other goes on alone."""
    slices = tuple(Slices() for _ in works)
    members = [work.members() for work in works]
    around = [
        [one for one in work.around() if one not in members[turn]]
        for turn, work in enumerate(works)
    ]
    everything = [process for group in (*members, *around) for process in group]
    turn = 0
    try:
        while all(members):
            _tell(everything, signal.SIGSTOP)
            _tell(around[turn], signal.SIGCONT)
            time.sleep(SETTLE_S if around[turn] else 0)
            began = time.monotonic()
            _tell(members[turn], signal.SIGCONT)
            time.sleep(works[turn].seconds)
            _tell(members[turn], signal.SIGSTOP)
            slices[turn].ran.append((began, time.monotonic()))
            members[turn] = works[turn].members()
            turn = 1 - turn
    finally:
        _tell(everything, signal.SIGCONT)
    for each in slices:
        each.ran.append((time.monotonic(), math.inf))
    return slices


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; empty when it has ended."""
    try:
        root = psutil.Process(pid)
        return (
            [] if root.status() == psutil.STATUS_ZOMBIE else [root, *root.children(recursive=True)]
        )
    except psutil.NoSuchProcess:
        return []


def _tell(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
