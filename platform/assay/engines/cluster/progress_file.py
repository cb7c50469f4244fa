"""The file in which a stage says how far it is; several processes write to it."""

from pathlib import Path

from assay.records.progress import Progress


def tell(file: Path, progress: Progress) -> None:
    """Adds a line."""
    with file.open("a") as opened:
        opened.write(progress.model_dump_json() + "\n")
