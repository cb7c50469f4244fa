"""`assay data register` and `assay data versions`: data sets that the place keeps."""

import json
import re
from pathlib import Path
from typing import get_args

import click

from assay.cli.terminal.echo import echo
from assay.errors import UsageError
from assay.settings import Settings
from assay.spec.data import DataFormat


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(DataFormat)),
    default="auto",
    help="As in `data.format`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def register(name: str, files: tuple[str, ...], format_: DataFormat, as_json: bool) -> None:
    """Keep the examples of FILES (paths or globs) as a version of NAME, for specs to name as
    registry:NAME@VERSION. The same examples are the same version."""
    from assay.engines.data import registry

    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise UsageError(f"{name!r}: a name has small letters, digits, - and _, at most 63")
    made = registry.register(Settings().home, name, files, format_, Path.cwd())
    if as_json:
        echo(made.model_dump_json())
        return
    echo(f"registry:{name}@{made.version}")
    num_bytes = sum(shard.num_bytes for shard in made.shards)
    echo(
        f"{made.num_rows:,} rows ({made.form}) of {len(made.sources)} files, in "
        f"{len(made.shards)} Parquet files, {num_bytes:,} bytes"
    )


@click.command()
@click.argument("name", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def versions(name: str, as_json: bool) -> None:
    """List the versions that are registered, of NAME or of all."""
    from assay.engines.data import registry

    home = Settings().home
    found = [
        registry.manifest(home, one, version)
        for one in ([name] if name else registry.names(home))
        for version in registry.versions(home, one)
    ]
    if as_json:
        echo(json.dumps([one.model_dump(mode="json") for one in found]))
        return
    for one in found:
        echo(f"registry:{one.name}@{one.version}  {one.num_rows:,} rows ({one.form})")
    if not found:
        echo("nothing is registered")


def import_data(source: str) -> Path:
    """Writes the rows of one data set of another trainer's list, `FILE#NAME`, into this folder; the
    name may be left out where the list has one. Raises `UsageError` when a file is there
    already."""
    from assay.engines.data.reading import foreign_lists

    file, _, name = source.partition("#")
    found = {one.name: one for one in foreign_lists.listed(Path(file))}
    if not name and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        raise UsageError(f"--from {file}#NAME: the list has {', '.join(found)}")
    target = Path(f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}.jsonl")
    if target.exists():
        raise UsageError(f"{target} is there already; remove it, or go elsewhere")
    num_rows = foreign_lists.write_rows(found[name], target)
    echo(f"wrote {target}: {num_rows:,} rows of {found[name].file}")
    return target
