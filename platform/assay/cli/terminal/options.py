"""Options and arguments that many commands have, said once."""

from pathlib import Path

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

run = click.argument("run", default="")
"""A run's id or the start of it; empty for the newest."""

spec = click.argument("spec", type=click.Path(path_type=Path))
"""A spec's file."""
