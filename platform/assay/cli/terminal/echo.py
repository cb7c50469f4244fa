"""What commands print line by line: foreign text (answers, data, a server's words) can be read, and
can do nothing."""

import re

import click

from assay.text import printable

_OWN_STYLES = re.compile(r"(\x1b\[[0-9;]*m)")
"""What `click.style` puts around words: colours and weights, which move nothing."""


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """`click.echo` of text without control characters, styles aside. Foreign text in a line with
    styles of ours is made `printable` before, so that it brings none of its own."""
    parts = _OWN_STYLES.split(str(text))
    # Splitting by a group puts what it matched, our own colours, at every second place.
    parts[::2] = map(printable, parts[::2])
    click.echo("".join(parts), err=err, nl=nl)


def echo_foreign(text: str, *, err: bool = False, nl: bool = True) -> None:
    """The same of text that has no styles of ours: those that it brings are shown as codes, too."""
    click.echo(printable(text), err=err, nl=nl)
