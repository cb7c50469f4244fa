"""`assay keys`, `assay verify` and `assay audit`: what can be shown afterwards, and to whom."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli.terminal import options
from assay.cli.terminal.echo import echo
from assay.settings import Settings

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

NO_KEY = ("no key yet; `assay keys init` makes one",)


@click.group()
def keys() -> None:
    """The keys that sign this place's receipts."""


@keys.command()
def init() -> None:
    """Make the first key; nothing is done where there is one."""
    from assay.flow.place.book import place_keys

    found = place_keys(Settings())
    key = found.current() or found.make()
    echo(f"key {key[:12]} signs; its public part is {found.public_file(key)}")


@keys.command()
def rotate() -> None:
    """Make another key, which signs from now on; what the others have signed stays valid."""
    from assay.flow.place.book import place_keys

    found = place_keys(Settings())
    key = found.make()
    echo(f"key {key[:12]} signs from now on; its public part is {found.public_file(key)}")


@keys.command()
def show() -> None:
    """List the public keys, and print the one that signs."""
    from assay.flow.place.book import place_keys

    found = place_keys(Settings())
    current = found.current()
    for file in found.public_files():
        echo(f"{file.stem[:12]}  {'signs' if file.stem == current else 'signed before'}  {file}")
    for line in found.public_file(current).read_text().splitlines() if current else NO_KEY:
        echo(line)


@click.command()
@click.argument("what")
@click.option(
    "--key",
    "key_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A public key; the place's when not said.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Also check that these model files are the artifact.",
)
@options.as_json
def verify(what: str, key_files: tuple[Path, ...], model: Path | None, as_json: bool) -> None:
    """Check receipts: of a run of this place, of a folder, or one file. A folder or a file needs
    nothing but itself and a public key, on any machine."""
    from assay.flow.place.book import place_keys
    from assay.flow.release.receipts import receipt_store, verify_folder
    from assay.store.receipts import open_receipt

    settings, path = Settings(), Path(what)
    public = list(key_files) or place_keys(settings).public_files()
    if path.is_file():
        statement = open_receipt(path, public)
    else:
        statement = verify_folder(
            _folder(what, settings, receipt_store(settings).folder), public, model=model
        )
    if as_json:
        echo(json.dumps({"kind": statement.kind, **json.loads(statement.payload())}))
    else:
        echo(
            f"{statement.kind} of {statement.run}, artifact {statement.artifact[:12]}: the "
            "signatures hold"
        )


@click.command()
@click.option(
    "--verify",
    "verify_it",
    is_flag=True,
    help="Check the chain, and the ledger's tables against it.",
)
@click.option(
    "--at", "at", default=None, help="What had the traffic at this time, such as 2026-11-27T15:00."
)
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    help="Write the newest event, signed, to this file, to be kept elsewhere.",
)
@click.option(
    "--since",
    type=click.Path(path_type=Path),
    help="Check that nothing up to this exported head was rewritten.",
)
@options.as_json
def audit(
    verify_it: bool, at: str | None, export: Path | None, since: Path | None, as_json: bool
) -> None:
    """Every act, by whom, in the order of the ledger; or what served whom at a time."""
    from assay.flow.release.audit import check_audit, events_until, served_at
    from assay.store.ledger import Ledger

    settings = Settings()
    ledger = Ledger(settings.ledger_url)
    if export is not None or since is not None:
        _compare_heads(ledger, settings, export, since)
        return
    if verify_it:
        echo(
            f"{check_audit(ledger, settings)} events, none changed, and the ledger says what they "
            "say"
        )
        return
    if at is not None:
        moment = datetime.fromisoformat(at).astimezone().timestamp()
        served = served_at(ledger, moment)
        echo(json.dumps(served) if as_json else _told(served))
        return
    events = events_until(ledger, None)
    if as_json:
        echo(json.dumps([event.model_dump() for event in events]))
        return
    for event in events:
        time = datetime.fromtimestamp(event.at, UTC).astimezone().isoformat(timespec="seconds")
        actor = (
            f"{event.actor.name or '-'} ({event.actor.os_user}@{event.actor.host}, "
            f"{event.actor.process})"
        )
        said = event.content.get("state") or event.content.get("stage") or ""
        echo(f"{event.sequence:5}  {time}  {event.kind:<8} {said:<12} {event.run}  {actor}")


def _compare_heads(
    ledger: "Ledger", settings: Settings, export: Path | None, since: Path | None
) -> None:
    from assay.flow.place.book import place_keys
    from assay.flow.release.audit import check_since, export_head

    if since is not None:
        num_new = check_since(ledger, settings, since, place_keys(settings).public_files())
        echo(f"nothing up to {since} was rewritten; {num_new} events since")
    if export is not None:
        echo(f"event {export_head(ledger, settings, export)}, signed, is in {export}")


def _folder(what: str, settings: Settings, receipts: Path) -> Path:
    from assay.store.ledger import Ledger

    if Path(what).is_dir():
        return Path(what)
    return receipts / Ledger(settings.ledger_url).find_run(what).id


def _told(served: dict[str, object] | None) -> str:
    if served is None:
        return "nobody had the traffic"
    return (
        f"{served['run']} (slot {served['slot']}, artifact {str(served['artifact'])[:12]}), given "
        f"by {served['by']}"
    )
