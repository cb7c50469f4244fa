"""`assay models` and `assay gc`: what was made, what became of it, and what may go."""

import json
import time

import click

from assay.cli.terminal.echo import echo
from assay.settings import Settings

GB = 1e9
DAYS = 14


@click.command()
@click.argument("name", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with the lineage.")
def models(name: str, as_json: bool) -> None:
    """List the models of this place, or of the specs of one NAME: stage, verdict, what they were
    made of, and when they served."""
    from assay.flow.resources import lineage
    from assay.store.ledger import Ledger

    found = lineage.models(Ledger(Settings().ledger_url), name)
    if as_json:
        echo(json.dumps([one.model_dump(mode="json") for one in found]))
        return
    for one in found:
        size = f"{one.artifact.size / GB:.2f} GB"
        echo(f"{one.run}  {one.stage}  {one.artifact.digest[:12]}  {one.scheme}, {size}")
        data = ", ".join(digest[:12] for digest in one.data) or "unknown"
        echo(f"    from {one.base} ({one.base_digest[:12] or 'unknown'}), data {data}")
        for word in one.words:
            echo(f"    {word.decision} by {word.reviewer}, {_moment(word.given_at)}")
        for served in one.served:
            until = _moment(served.until) if served.until else "now"
            echo(f"    served in {served.slot} from {_moment(served.since)} to {until}")
    if not found:
        echo("no run has made a model yet")


@click.command()
@click.option(
    "--days",
    default=DAYS,
    show_default=True,
    help="Keep what runs of so many days have made.",
    type=click.FloatRange(min=0),
)
@click.option("--delete", is_flag=True, help="Remove it; otherwise it is only said what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def gc(days: float, delete: bool, as_json: bool) -> None:
    """Say which artifacts nothing needs any more, and remove them with --delete. Kept are those of
    the champion, the former one, approved runs, runs at work, and young ones."""
    from assay.flow.resources import collecting
    from assay.store.ledger import Ledger

    settings = Settings()
    found = collecting.collectable(settings, Ledger(settings.ledger_url), days=days)
    if delete:
        collecting.collect(settings, found)
    if as_json:
        kept = [{"run": one.run, "why": one.why} for one in found.kept]
        echo(json.dumps({"freed": found.freed, "kept": kept, "deleted": delete}))
        return
    for one in found.kept:
        echo(f"kept   {one.run}  {one.why}")
    for digest, size in sorted(found.freed.items(), key=lambda item: -item[1]):
        echo(f"{'freed' if delete else 'would free'}  {digest[:12]}  {size / GB:.3f} GB")
    total = sum(found.freed.values()) / GB
    verb = "freed" if delete else "would be freed; --delete does it"
    echo(f"{len(found.freed)} artifacts, {total:.2f} GB {verb}; {found.num_kept} are kept")


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
