"""`assay users` and `assay login`: who may do what at a place, and the token that says who one
is."""

import json
import sys
from datetime import UTC, datetime
from typing import Any, get_args

import click

from assay.cli.terminal import options
from assay.cli.terminal.echo import echo
from assay.records.releases.grant import Grant, Role
from assay.settings import Settings

DAY_S = 24 * 3600.0


@click.group()
def users() -> None:
    """Who may do what at this place: personal tokens with roles."""


@users.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(get_args(Role)),
    help="What the token opens; may be said more than once.",
)
@click.option(
    "--days", default=90, show_default=True, type=click.IntRange(1), help="How long it opens it."
)
def add(name: str, roles: tuple[Any, ...], days: int) -> None:
    """Make a token for somebody; it is shown this once."""
    from assay.flow.place.people import add_user

    token, grant = add_user(Settings(), name, roles, days * DAY_S)
    echo(f"token {grant.token} of {grant.name} ({', '.join(grant.roles)}), until {_day(grant)}")
    echo(f"shown this once, for `assay login` or ASSAY_TOKEN: {token}")


@users.command("list")
@options.as_json
def list_users(as_json: bool) -> None:
    """List every token that was given, and whether it still opens anything."""
    from assay.flow.place.book import read_place
    from assay.store.ledger import Ledger

    settings = Settings()
    ledger = Ledger(settings.ledger_url)
    place, now = read_place(settings, ledger), ledger.grants.now()
    rows = []
    for grant in place.tokens:
        state = "valid" if place.is_valid(grant, now) else "expired"
        state = "revoked" if grant.token in place.revoked else state
        rows.append({**grant.model_dump(exclude={"secret_hash"}), "state": state})
        if not as_json:
            roles = ",".join(grant.roles)
            echo(f"{grant.token}  {state:<8} until {_day(grant)}  {roles:<26} {grant.name}")
    if as_json:
        echo(json.dumps(rows))
    elif not rows:
        echo("nobody has a token; `assay users add NAME --role ROLE` makes one")


@users.command()
@click.argument("who")
def revoke(who: str) -> None:
    """Take away all tokens of a person, or the one with this prefix, from now on."""
    from assay.flow.place.people import revoke as revoke_tokens

    for grant in revoke_tokens(Settings(), who):
        echo(f"token {grant.token} of {grant.name} opens nothing any more")


@click.command()
def login() -> None:
    """Keep your token for the commands to come (mode 0600); it is read from the terminal, or from
    standard input."""
    from assay.flow.place.people import login as keep

    typed = sys.stdin.isatty()
    token = click.prompt("Token", hide_input=True) if typed else sys.stdin.readline()
    settings = Settings()
    grant = keep(settings, token.strip())
    echo(f"logged in as {grant.name} ({', '.join(grant.roles)}), until {_day(grant)}")


def _day(grant: Grant) -> str:
    return datetime.fromtimestamp(grant.expires_at, UTC).astimezone().date().isoformat()
