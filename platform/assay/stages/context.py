"""What every stage is given besides its blocks and records: where it may work, and how it says how
far it is."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from assay.engines.cluster.progress_file import tell
from assay.records.progress import Progress
from assay.settings import Settings
from assay.store.artifacts import ArtifactStore, open_store

logger = logging.getLogger("assay")


@dataclass(frozen=True)
class Work:
    """One stage's workplace."""

    settings: Settings
    folder: Path
    """Scratch space of this stage, kept between attempts."""
    progress_file: Path
    """JSON lines of `Progress`."""
    root: Path
    """Folder that the spec's relative paths start from."""
    on_gpu: bool = False
    """Whether the cluster has GPUs."""
    store: ArtifactStore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", open_store(self.settings))
        self.folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Tells what is being done."""
        logger.info("%s: %s", self.folder.name, text)
        self.tell(Progress(step=0, num_steps=0, text=text))

    def tell(self, progress: Progress) -> None:
        """Tells how far it is."""
        tell(self.progress_file, progress)

    def fresh_folder(self, name: str) -> Path:
        """An empty folder inside the scratch space."""
        import shutil

        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        return target
