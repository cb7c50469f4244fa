"""`assay policy`: what a place demands of every spec."""

import json
from pathlib import Path

import click

from assay.cli.terminal import options
from assay.cli.terminal.echo import echo
from assay.settings import Settings


@click.group()
def policy() -> None:
    """What this place demands of every spec, whatever it says."""


@policy.command()
@options.as_json
def show(as_json: bool) -> None:
    """Print the policy that holds, defaults included."""
    from assay.flow.place.policy import current_policy

    said = current_policy(Settings()).model_dump(mode="json")
    echo(json.dumps(said) if as_json else json.dumps(said, indent=2))


@policy.command("set")
@click.argument("file", type=click.Path(path_type=Path))
def set_it(file: Path) -> None:
    """Make what a YAML file says the policy, signed by the place's key."""
    from assay.flow.place.policy import set_policy

    found = set_policy(Settings(), file)
    said = ", ".join(found.model_dump(exclude_defaults=True)) or "nothing beyond the specs"
    echo(f"the policy of this place is that of {file}: {said}")
