"""`assay console`: the pages in which people look and decide."""

import click

from assay.cli.terminal.echo import echo
from assay.settings import Settings


@click.command()
def console() -> None:
    """Serve the console until Ctrl-C; where it runs already (`assay up` starts it), say how to come
    in."""
    from assay.console import server

    settings = Settings()
    if server.is_running(settings):
        echo(f"console   {server.way_in(settings)}")
        return
    server.serve(settings, ready=lambda: echo(f"console   {server.way_in(settings)}"))
