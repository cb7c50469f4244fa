"""Where the files of installed packages are. Nothing is imported."""

from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path


def package_folders(package: str) -> list[Path]:
    """Where an installed package's files are, found by its import name or its distribution's;
    nothing is imported. Dashes and underscores are the same."""
    module = package.replace("-", "_")
    spec = PathFinder.find_spec(module) if "." not in module else None
    folders = []
    for place in spec.submodule_search_locations or [] if spec else []:
        folders.append(Path(place))
    try:
        distribution = metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError):
        return folders
    tops = sorted({file.parts[0] for file in distribution.files or [] if len(file.parts) > 1})
    own = []
    for top in tops:
        if not top.endswith((".dist-info", "..")):
            own.append(Path(str(distribution.locate_file(top))))
    return [*folders, *(folder for folder in own if folder.is_dir() and folder not in folders)]
