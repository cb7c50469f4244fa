"""A first spec of 15 lines at most, with a suite for its gate."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from assay.engines.data.chats.templates import REASONING_FIELDS
from assay.errors import AssayError, UsageError
from assay.loader.yaml.writer import written
from assay.rules.planning.first_suite import (
    CONFIDENCE,
    AnswerProfile,
    FirstSuite,
    Form,
    first_suite,
)
from assay.rules.planning.recommend import Advice, Recommendation, Template, micro_batch, recommend
from assay.rules.planning.tokens import estimated_tokens
from assay.spec.approval import folded_name
from assay.spec.train import TrainSpec
from assay.spec.values import names

JUDGE = """\

# Words that are shared say little about free text. A judge, a model that reads answers by your
# rubric, says more; it counts as far as it agrees with people, which `assay gate selftest`
# measures. Fill in, and add a limit on `judge`:
# judge:
#   url: https://…/v1
#   model: …
#   rubric: "5: answers the question, nothing made up. 3: … 1: …"
#   labels: labels.jsonl    # in the folder named like this file: question, answer, label
#   min_agreement: 70%
"""

METHODS: dict[Template, str] = {
    "lora": "method: lora",
    "qlora": "method: qlora   # the base model in 4 bits",
    "full": "method: full   # every weight",
    "dpo": "objective: dpo   # from pairs: prompt, chosen, rejected",
    "classify": "objective: classify   # the label is the answer",
}
"""The line that a template is about."""

THINKS_UNLESS_TOLD = re.compile(r"\bQwen3(\.\d+)?-\d+(\.\d+)?B(-A\d+B)?(-Base|-FP8)?\Z")
"""Qwen3's models with both ways of answering; those of July 2025 and the embedders have other
names."""
MAX_LINE = 2**20
# Tokens that a template, an instruction and a system prompt put around a text, about.
AROUND = 50

# Weights beyond which trying three rates costs more than a first run should.
SWEPT_UP_TO = 3e9


@dataclass(frozen=True, kw_only=True)
class FirstSpec:
    """What a first spec is to be about."""

    template: Template
    model: str
    data: str
    name: str | None
    """None for the folder's."""
    reviewer: str
    user: str
    """Who will start the run."""
    has_gpu: bool = True
    """Whether the place where it will run has any, or is not known."""


def write_first_spec(path: Path, wanted: FirstSpec) -> list[Path]:
    """Writes the spec and its suite, and returns their paths. Raises `UsageError` when a file is
    there already, or the name cannot be one."""
    name = wanted.name or names.slug(Path.cwd().name)
    if not names.is_name(name):
        seen = f"; what users see may be another: `serve: {{model_name: {name}}}`"
        raise UsageError(f"--name: {names.fault(name)}{seen}")
    suite = Path("evals") / f"{name}.yaml"
    for file in (path, suite):
        if file.exists():
            raise UsageError(f"{file} is there already; name another, or remove it")
    profile = _profile(wanted.data)
    first = first_suite(profile)
    lines = _lines(wanted, name, suite, first, _micro_batch(wanted, profile))
    suite.parent.mkdir(exist_ok=True)
    suite.write_text("\n".join(_suite_lines(first)) + "\n" + (JUDGE if first.wants_judge else ""))
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
            if spec.kind == "package":
                file = folders.packaged_file(spec)
            else:
                file = Path(model).expanduser()
            if file.suffix == ".gguf":
                shape = model_shape.from_gguf(file)
            else:
                shape = model_shape.from_folder(file)
    except (AssayError, ValueError):
        return None
    if shape is not None:
        return float(shape.num_parameters)
    said = re.search(
        r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])",
        model.rsplit("/", 1)[-1].lower().replace("-", " "),
    )
    if said:
        return float(said[1]) * {"b": 1e9, "m": 1e6}[said[2]]
    return None


def num_examples(data: str) -> int | None:
    """Lines of the data file that are not empty; None when it is not there yet."""
    try:
        with Path(data).open("rb") as lines:
            return sum(1 for line in lines if line.strip()) or None
    except OSError:
        return None


def _profile(data: str) -> AnswerProfile | None:
    """What the answers of the data are like; None when there are none to look at yet."""
    from assay.engines.data.profile import MOST_EXAMPLES, answers_in

    found = answers_in(data, Path())
    if found is None:
        return None
    forms: dict[str, Form] = {
        "classification": "labels",
        "preference": "preferences",
        "kto": "preferences",
    }
    count = found.num_examples
    if found.forms.total() == MOST_EXAMPLES:  # there may be more: its lines say how many
        count = max(count, num_examples(data) or 0)
    return AnswerProfile(
        form=forms.get(found.forms.most_common(1)[0][0], "answers"),
        num_examples=count,
        commonest=found.commonest,
        median_words=found.median_words,
        json_share=found.json_share,
        long_tokens=AROUND + math.ceil(found.long_characters * _tokens_per_character(found.sample)),
    )


def _tokens_per_character(sample: str) -> float:
    return estimated_tokens(sample) / max(1, len(sample))


def _suite_lines(first: FirstSuite) -> Iterator[str]:
    yield f"# What the model must show on the {first.percent} of the data that it never saw."
    for line in wrap(first.reason, 98):
        yield f"# {line}"
    yield f"confidence: {CONFIDENCE:g}"
    yield "limits:"
    if len(first.limits) == 1:
        yield f"  heldout: {first.limits[0]}"
        return
    yield "  heldout:"
    for limit in first.limits:
        yield f"    - {limit}"


def _lines(
    wanted: FirstSpec, name: str, suite: Path, first: FirstSuite, micro: Advice | None
) -> Iterator[str]:
    advice, size = _advice(wanted), model_size(wanted.model)
    rate, data = advice.learning_rate, f"{{train: {written(wanted.data)}, gate: {first.percent}}}"
    may_sweep = size is None or size <= SWEPT_UP_TO
    yield "version: 1"
    yield f"name: {name}"
    yield _model_line(written(wanted.model), wanted.data)
    yield f"data: {data}"
    if may_sweep:
        tried = ", ".join(rate_words(rate.value * factor) for factor in (1 / 3, 1, 3))
        yield (
            f"sweep: {{learning_rate: [{tried}], scheduler: asha, num_rungs: 1}}   # around "
            f"{rate_words(rate.value)}: {rate.reason}"
        )
    yield "train:"
    yield f"  {METHODS[wanted.template]}"
    if not may_sweep:
        yield _said("learning_rate", rate_words(rate.value), rate)
    batch = advice.global_batch_size
    yield _said("global_batch_size", f"{batch.value:g}", batch)
    if micro is not None:
        yield _said("micro_batch_size", f"{micro.value:g}", micro)
    yield _said("num_epochs", f"{advice.num_epochs.value:g}", advice.num_epochs)
    yield _said("warmup_ratio", f"{advice.warmup_ratio.value:.0%}", advice.warmup_ratio)
    yield f"gate: {{suite: {suite}}}"
    yield f"approval: {_approval(wanted.reviewer, wanted.user)}"


def _advice(wanted: FirstSpec) -> Recommendation:
    size = model_size(wanted.model)
    return recommend(wanted.template, num_parameters=size, num_examples=num_examples(wanted.data))


def _micro_batch(wanted: FirstSpec, profile: AnswerProfile | None) -> Advice | None:
    """How many examples go through the model at once; the trainer's affair on a GPU."""
    if profile is None or wanted.has_gpu:
        return None
    longest = min(profile.long_tokens, TrainSpec().max_length)
    return micro_batch(int(_advice(wanted).global_batch_size.value), longest)


def _approval(reviewer: str, user: str) -> str:
    """Whoever starts a run may not approve it: who works alone has to say so, or training would end
    in a dead end."""
    named = f"reviewers: [{written(reviewer)}]"
    if folded_name(reviewer) != folded_name(user):
        return f"{{{named}}}"
    return (
        f"{{{named}, allow_self_approval: true}}   # you alone; better: name somebody else, and "
        "take this out"
    )


def _model_line(model: str, data: str) -> str:
    """A model that reasons unless it is told not to is told so, where the data have no reasoning to
    learn from."""
    if not THINKS_UNLESS_TOLD.search(model) or _has_reasoning(Path(data)):
        return f"model: {model}"
    return (
        f"model: {{source: {model}, chat_template_kwargs: {{enable_thinking: false}}}}   # the "
        "data have no reasoning"
    )


def _has_reasoning(data: Path) -> bool:
    """Whether the first example tells of reasoning."""
    try:
        with data.open(encoding="utf-8", errors="replace") as lines:
            first = lines.readline(MAX_LINE)
    except OSError:
        return False
    return "</think>" in first or any(f'"{name}"' in first for name in REASONING_FIELDS)


def _said(key: str, value: str, advice: Advice) -> str:
    return f"  {key}: {value}   # {advice.reason}"


def rate_words(value: float) -> str:
    """As people write a learning rate: 3e-4."""
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
