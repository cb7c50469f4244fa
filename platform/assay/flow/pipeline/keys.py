"""What stands for files, folders and engines in a stage's inputs, and the id of a run."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from assay.engines.data import remote
from assay.engines.deployment.application import engine_packages
from assay.loader.named import chat_templates
from assay.loader.named.globs import matching_files
from assay.records.record import digest_of
from assay.records.releases.run_id import run_id_of
from assay.settings import Settings
from assay.spec.data import DataSpec, is_remote
from assay.spec.gate import SuiteSpec
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec
from assay.stages import evaluate, gate


def data_digests(data: DataSpec, root: Path) -> dict[str, str]:
    """Every data file of the spec with the SHA-256 of its bytes."""
    return _digests_of_files(data.patterns, root)


def ewc_digests(train: TrainSpec, root: Path) -> dict[str, str]:
    """The same of the data that elastic weight consolidation protects."""
    if train.ewc:
        return _digests_of_files(train.ewc.data, root)
    return {}


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def folder_fingerprint(model: ModelSpec, root: Path) -> dict[str, list[int]]:
    """A local model folder has no revision: the sizes and times of its files stand for one."""
    if model.kind != "folder":
        return {}
    folder = (root / model.source).expanduser()
    found = {}
    for file in sorted(folder.iterdir()):
        # Not its bytes: a plan would read gigabytes each time.
        found[file.name] = [file.stat().st_size, file.stat().st_mtime_ns]
    return found


def template_digest(model: ModelSpec, root: Path) -> str | None:
    """SHA-256 of the chat template that the spec names; None where it names none."""
    named = model.chat_template
    if named is not None:
        return digest_of(chat_templates.read(named, root))
    return None


def engine_fingerprint(engine: EngineSpec, settings: Settings) -> str:
    """The engine and its settings, as far as they bear on an answer; the number of replicas does
    not."""
    return digest_of([engine.model_dump(), engine_packages(settings.engine_python)])


def run_id(spec: Spec, suite: SuiteSpec, root: Path) -> str:
    """The spec's name and digits of what it says, its data and its suite: the same request is the
    same run."""
    tasks = evaluate.tasks_of(suite, root, None)
    data = [sorted(data_digests(one, root).items()) for one in spec.all_data]
    protected = [sorted(ewc_digests(one, root).items()) for one in spec.train_steps]
    request = [spec.model_dump(mode="json"), [*data, *protected], gate.suite_digest(suite, tasks)]
    return run_id_of(spec.name, digest_of(request))


def _digests_of_files(patterns: Sequence[str], root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern in patterns:
        for file in matching_files(pattern, root):
            found[os.path.relpath(file, root)] = file_digest(file)
        if is_remote(pattern):
            found |= dict(remote.mark(pattern))
    return found
