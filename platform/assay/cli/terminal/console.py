"""Rich's console, for tables and live displays, with the same care for foreign text as `echo`
has."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from assay.text import printable


class SafeConsole(Console):
    """A console whose text holds no control characters. Styles and the live display's own movements
    are no text."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Every renderable becomes text here, tables and their cells included."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
