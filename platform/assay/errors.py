"""The error tree and the exit codes.

    AssayError                  1   something failed while working
    ├── UsageError              2   the call, the spec, the suite or the data is wrong; nothing was
    started
    │   ├── InvalidInput        2   the same, with places (file, line, column)
    │   └── NothingEvaluated    2   no answers are on record that could be used
    ├── PlaceError              2   the machine or the cluster lacks something; nothing was started
    │   ├── MissingExtra        2   a library is not installed
    │   └── Unreachable         2   nobody answers there now; it may be worth asking again
    ├── StageFailed             1   a stage stopped; the run can go on later
    ├── NotApproved            12   an approval is missing, stale or forbidden
    └── IntegrityError         13   the bytes, the slot or the champion are not those that were
    approved
        └── Superseded         13   another controller has taken over; nothing was changed by this
        one

A failed gate is a verdict, not an error: the command line turns verdicts into `ExitCode`s.
"""

from dataclasses import asdict, dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What the `assay` process says to its caller. Verdicts start at 10."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    GATE_FAILED = 10
    GATE_INCONCLUSIVE = 11
    NOT_APPROVED = 12
    DRIFT = 13
    ROLLED_BACK = 14


EXIT_CODE_MEANINGS = {
    ExitCode.DONE: "done, or waiting for approval after a passing gate",
    ExitCode.FAILED: "something failed; finished stages are kept",
    ExitCode.USAGE: (
        "wrong usage, invalid spec, suite or data, or a place that lacks something; "
        "nothing was started"
    ),
    ExitCode.GATE_FAILED: "the gate failed the candidate",
    ExitCode.GATE_INCONCLUSIVE: "the gate has too little evidence to decide",
    ExitCode.NOT_APPROVED: "approval is missing, stale or forbidden",
    ExitCode.DRIFT: "the bytes, the slot or the champion are not those that were approved",
    ExitCode.ROLLED_BACK: "the candidate was given traffic and rolled back",
}


class AssayError(Exception):
    """Something failed. The message says where, what, and what to do."""

    exit_code: ExitCode = ExitCode.FAILED


class UsageError(AssayError):
    """The request itself is wrong; nothing was started."""

    exit_code = ExitCode.USAGE


class NothingEvaluated(UsageError):
    """No stored answers are there to work on."""


@dataclass(frozen=True)
class OtherLocation:
    """The second place of a rule between two fields. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    path: str


@dataclass(frozen=True)
class Problem:
    """One mistake in an input file, with its place. Lines and columns count from 1; 0 means
    unknown."""

    file: str
    line: int
    column: int
    path: str
    code: str
    message: str
    hint: str = ""
    other: OtherLocation | None = None

    def __str__(self) -> str:
        if self.line:
            place = f"{self.file}:{self.line}:{self.column}"
        else:
            place = self.file
        subject = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}: {subject}{self.message}{hint}"

    def as_dict(self) -> dict[str, object]:
        """The problem as JSON-ready data."""
        return asdict(self)


class InvalidInput(UsageError):
    """A spec, suite or data file holds mistakes; all of them are listed."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class PlaceError(AssayError):
    """The machine or the cluster lacks something that the work needs, and nothing was started. What
    turns up missing in the middle of a run is a `StageFailed`."""

    exit_code = ExitCode.USAGE


class MissingExtra(PlaceError):
    """A library is not installed; the message names the extra that brings it."""


class Unreachable(PlaceError):
    """Nobody answers there now; it may be worth asking again."""


class StageFailed(AssayError):
    """A stage stopped. What was finished is kept; `assay run` goes on from there."""


class NotApproved(AssayError):
    """An approval is missing, stale or forbidden."""

    exit_code = ExitCode.NOT_APPROVED


class IntegrityError(AssayError):
    """The bytes on disk, the slot or the champion are not those that were approved."""

    exit_code = ExitCode.DRIFT


class Superseded(IntegrityError):
    """Another controller has taken over meanwhile; this one may change nothing any more."""
