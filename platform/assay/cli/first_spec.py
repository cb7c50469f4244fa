"""`assay init`: a first spec that validates, with a suite for its gate."""

import re
from pathlib import Path

from assay.errors import UsageError

SPEC = """\
version: 1
name: {name}
model: {model}
data: {{train: {data}, gate: 10%}}
sweep: {{learning_rate: [1e-4, 3e-4, 1e-3]}}
train: {{num_epochs: 2}}
gate: {{suite: {suite}}}
approval: {{reviewers: [{reviewer}]}}
"""

SUITE = """\
# What the model must show on the tenth of the data that it never saw. Raise the limit to what your users need.
confidence: 0.95
limits:
  heldout: {metric: exact_match, at_least: 50%}
"""


def write_first_spec(path: Path, *, model: str, data: str, name: str | None, reviewer: str) -> list[Path]:
    """Writes the spec and its suite, and returns their paths. Raises `UsageError` when a file is there already."""
    chosen = name or re.sub(r"[^a-z0-9]+", "-", Path.cwd().name.lower()).strip("-") or "my-model"
    suite = Path("evals") / f"{chosen}.yaml"
    for file in (path, suite):
        if file.exists():
            raise UsageError(f"{file} is there already; name another, or remove it")
    suite.parent.mkdir(exist_ok=True)
    suite.write_text(SUITE)
    path.write_text(SPEC.format(name=chosen, model=model, data=data, suite=suite, reviewer=reviewer))
    return [path, suite]
