"""`assay data why`, `assay data models` and `assay data card`: what became of the data that a run
was trained on."""

import json
from pathlib import Path

import click

from assay.cli.terminal.echo import echo
from assay.settings import Settings


@click.command()
@click.argument("row")
@click.option("--run", "run", default=None, help="Look in this run alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def why(row: str, run: str | None, as_json: bool) -> None:
    """Say what `data.steps` did to a row, and why. ROW is its id, or FILE:LINE."""
    from assay.cli.terminal.cleaning import reason_words
    from assay.flow.pipeline.rows import stories
    from assay.store.ledger import Ledger

    found = stories(Ledger(Settings().ledger_url), row, run)
    if as_json:
        echo(json.dumps([story.model_dump() for story in found], ensure_ascii=False))
        return
    for story in found:
        echo(f"row {story.row}, {story.at}, in {story.run} ({story.stage})")
        for reason in story.reasons:
            echo(f"  {reason_words(reason)}")
        if not story.reasons:
            echo("  stays as it was read")
        if story.example is not None:
            echo(f"  is trained on as {story.example}")


@click.command()
@click.argument("row")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def models(row: str, as_json: bool) -> None:
    """List the artifacts that were trained on a row, as a request to delete it asks. ROW is its id,
    or FILE:LINE."""
    from assay.flow.pipeline.rows import models_of
    from assay.store.ledger import Ledger

    found = models_of(Ledger(Settings().ledger_url), row)
    if as_json:
        echo(json.dumps([model.model_dump() for model in found]))
        return
    for model in found:
        echo(f"{model.artifact}  {model.stage} of {model.run}")
    if not found:
        echo("nothing was trained on it")


@click.command()
@click.argument("run", default="")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Write it into this file."
)
def card(run: str, out: Path | None) -> None:
    """Print a card of a run's training data, in the form of the Hugging Face hub; of the newest run
    when none is said."""
    from assay.flow.pipeline.rows import cards
    from assay.store.ledger import Ledger

    text = "\n".join(cards(Ledger(Settings().ledger_url), run))
    if out is None:
        echo(text)
        return
    out.write_text(text, encoding="utf-8")
    echo(f"{out} written")
