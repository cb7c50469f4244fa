"""The files that a path or a pattern means."""

import glob
import os
from pathlib import Path


def matching_files(pattern: str, root: Path) -> list[Path]:
    """The files that a path or a glob (`*`, `?`, `[…]`, `**`) means, sorted."""
    if os.path.isfile(root / pattern):
        return [root / pattern]
    try:
        found = glob.glob(pattern, root_dir=root, recursive=True)
    except ValueError:  # a character that no file's name can have
        return []
    return [root / name for name in sorted(found) if os.path.isfile(root / name)]
