"""A first spec of 15 lines at most, with a suite for its gate."""

import re
from collections.abc import Iterator
from pathlib import Path

from assay.errors import AssayError, UsageError
from assay.rules.planning.recommend import Advice, Recommendation, Template, recommend

SUITE = """\
# What the model must show on the tenth of the data that it never saw. Raise the limit to what your users need.
confidence: 0.95
limits:
  heldout: {metric: exact_match, at_least: 50%}
"""

METHODS: dict[Template, str] = {
    "lora": "method: lora",
    "qlora": "method: qlora   # the base model in 4 bits",
    "full": "method: full   # every weight",
    "dpo": "objective: dpo   # from pairs: prompt, chosen, rejected",
    "classify": "objective: classify   # the label is the answer",
}
"""The line that a template is about."""

SWEPT_UP_TO = 3e9
"""Weights beyond which trying three rates costs more than a first run should."""


def write_first_spec(
    path: Path, *, template: Template, model: str, data: str, name: str | None, reviewer: str
) -> list[Path]:
    """Writes the spec and its suite, and returns their paths. Raises `UsageError` when a file is there already."""
    chosen = name or re.sub(r"[^a-z0-9]+", "-", Path.cwd().name.lower()).strip("-") or "my-model"
    suite = Path("evals") / f"{chosen}.yaml"
    for file in (path, suite):
        if file.exists():
            raise UsageError(f"{file} is there already; name another, or remove it")
    size = model_size(model)
    advice = recommend(template, num_parameters=size, num_examples=num_examples(data))
    lines = _lines(
        template, advice, chosen, model, data, suite, reviewer, may_sweep=size is None or size <= SWEPT_UP_TO
    )
    suite.parent.mkdir(exist_ok=True)
    suite.write_text(SUITE)
    path.write_text("\n".join(lines) + "\n")
    return [path, suite]


def model_size(model: str) -> float | None:
    """Weights of a model: from its files where they are here, else as its name says."""
    from assay.engines.models import folders
    from assay.engines.models import shape as model_shape
    from assay.spec.model import ModelSpec

    try:
        spec = ModelSpec(source=model)
        if spec.kind == "hf":
            shape = model_shape.known(spec.name)
        else:
            file = folders.packaged_file(spec) if spec.kind == "package" else Path(model).expanduser()
            shape = model_shape.from_gguf(file) if file.suffix == ".gguf" else model_shape.from_folder(file)
    except (AssayError, ValueError):
        return None
    if shape is not None:
        return float(shape.num_parameters)
    said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", model.rsplit("/", 1)[-1].lower().replace("-", " "))
    return float(said[1]) * {"b": 1e9, "m": 1e6}[said[2]] if said else None


def num_examples(data: str) -> int | None:
    """Lines of the data file that are not empty; None when it is not there yet."""
    try:
        with Path(data).open("rb") as lines:
            return sum(1 for line in lines if line.strip()) or None
    except OSError:
        return None


def _lines(
    template: Template,
    advice: Recommendation,
    name: str,
    model: str,
    data: str,
    suite: Path,
    reviewer: str,
    *,
    may_sweep: bool,
) -> Iterator[str]:
    rate = advice.learning_rate
    yield "version: 1"
    yield f"name: {name}"
    yield f"model: {model}"
    yield f"data: {{train: {data}, gate: 10%}}"
    if may_sweep:
        tried = ", ".join(_rate(rate.value * factor) for factor in (1 / 3, 1, 3))
        yield f"sweep: {{learning_rate: [{tried}]}}   # around {_rate(rate.value)}: {rate.reason}"
    yield "train:"
    yield f"  {METHODS[template]}"
    if not may_sweep:
        yield _said("learning_rate", _rate(rate.value), rate)
    yield _said("global_batch_size", f"{advice.global_batch_size.value:g}", advice.global_batch_size)
    yield _said("num_epochs", f"{advice.num_epochs.value:g}", advice.num_epochs)
    yield _said("warmup_ratio", f"{advice.warmup_ratio.value:.0%}", advice.warmup_ratio)
    yield f"gate: {{suite: {suite}}}"
    yield f"approval: {{reviewers: [{reviewer}]}}"


def _said(key: str, value: str, advice: Advice) -> str:
    return f"  {key}: {value}   # {advice.reason}"


def _rate(value: float) -> str:
    """As people write a learning rate: 3e-4."""
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
