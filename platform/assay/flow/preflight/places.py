"""Problems at the places of a spec or a suite."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from assay.errors import Problem
from assay.loader.yaml.reader import Location, Positions


@dataclass(frozen=True)
class Places:
    """Where things stand in one file, and in those that it extends."""

    positions: Positions

    def problem(self, location: Location, code: str, message: str, hint: str = "") -> Problem:
        """A problem at `location`, or at the nearest thing around it that was written."""
        written = location
        while written and written not in self.positions.values:
            written = written[:-1]
        place = self.positions.of_value(location)
        return Problem(*place, ".".join(map(str, location)), code, message, hint)


def near(name: str, offered: Iterable[str]) -> str:
    """The offered name that was probably meant, as a hint; else a few of them."""
    names = sorted(offered)
    close = get_close_matches(name, names, 1, 0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    if names:
        return f"there is: {', '.join(names[:12])}"
    return ""
