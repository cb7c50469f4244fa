"""Mistakes in an input file, each with the lines around its place."""

from pathlib import Path

import click

from assay.cli.terminal.echo import echo
from assay.cli.terminal.excerpt import excerpt
from assay.errors import InvalidInput
from assay.text import printable


def print_problems(error: InvalidInput) -> None:
    """Says every problem on stderr, and how many there are."""
    for problem in error.problems:
        echo(f"{click.style('error', fg='red', bold=True)}: {printable(str(problem))}", err=True)
        _show(problem.file, problem.line, problem.column)
        if (other := problem.other) is not None and other.line:
            echo(f"  and {other.path}, at {other.file}:{other.line}:{other.column}", err=True)
            _show(other.file, other.line, other.column)
    if len(error.problems) > 1:
        echo(f"{len(error.problems)} problems; nothing was started", err=True)


def _show(file: str, line: int, column: int) -> None:
    if line and Path(file).is_file():
        echo(excerpt(Path(file).read_text(errors="replace"), line, column), err=True)
