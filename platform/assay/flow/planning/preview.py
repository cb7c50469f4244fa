"""`assay data show`: a spec's data as the model will see them, without a cluster and without the
model's weights."""

import shutil
import tempfile
from pathlib import Path

from assay.engines.data import chat_folder, preview
from assay.engines.data import remote as remote_data
from assay.engines.data.splits import Splits
from assay.engines.models import folders
from assay.errors import UsageError
from assay.flow.pipeline.keys import folder_fingerprint
from assay.records.preview import Preview
from assay.records.record import digest_of
from assay.settings import Settings
from assay.spec.data import is_remote
from assay.spec.model import ModelSpec
from assay.spec.spec import Spec


def data_preview(spec: Spec, *, step: int, num: int, root: Path, settings: Settings) -> Preview:
    """The data of training step `step`, counted from 1. Raises `UsageError` when there is no such
    step, `InvalidInput` for broken lines, and `PlaceError` when what lies elsewhere cannot be
    had."""
    if not 1 <= step <= len(spec.train_steps):
        raise UsageError(f"--step {step}: the spec has {len(spec.train_steps)}")
    train = spec.train_steps[step - 1]
    data = train.data or spec.data
    with tempfile.TemporaryDirectory() as copies:
        remote = [pattern for pattern in dict.fromkeys(data.patterns) if is_remote(pattern)]
        fetched = {
            pattern: remote_data.fetch(pattern, Path(copies) / str(number))
            for number, pattern in enumerate(remote)
        }
        splits = Splits(data, train.objective, root, fetched, frozenset())
        return preview.preview(_tokenizer(spec.model, root, settings), splits, train, num)


def _tokenizer(model: ModelSpec, root: Path, settings: Settings) -> Path:
    """The model's tokenizer with the chat template that will serve; it is kept for the next
    look."""
    template = model.chat_template
    named = template
    if template and (root / template).is_file():
        named = (root / template).read_text()
    mark = digest_of([model.model_dump(mode="json"), folder_fingerprint(model, root), named])[:16]
    folder = settings.home / "tokenizers" / mark
    if folder.is_dir():
        return folder
    draft = folder.with_name(f"{mark}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    folders.fetch_tokenizer(model, draft, root)
    chat_folder.write(model, draft, root)
    draft.rename(folder)
    return folder
