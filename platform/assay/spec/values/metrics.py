"""The metrics that a limit can name, as one table, and which of them a task has.

A metric is a score of each sample. Either the gate makes it (the table), or the task's own file
does (its `metric_list`, or the function that processes its results).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from assay.spec.gate import TaskSettings
from assay.spec.suite.judge import JudgeSpec

Needs = Literal["text", "abstention", "rightness", "probability", "judge"]
"""What a task has to have for a metric: generated text, an answer that may be an abstention, a
score that says whether an answer is right, that and the answer's probability, or a judge."""


@dataclass(frozen=True)
class Metric:
    """One metric that the gate makes itself."""

    name: str
    needs: Needs
    meaning: str
    """What it is, for people."""
    lower_is_better: bool = False
    is_zero_or_one: bool = False
    """Whether a sample scores 0 or 1 and nothing in between."""
    setting: str = ""
    """The setting of the task without which it cannot be made."""
    is_corpus_wide: bool = False
    """Whether it belongs to all samples together, and to no single one."""


METRICS: tuple[Metric, ...] = (
    Metric("auto", "text", "exact_match where the answers are short, rougeL where they are long"),
    Metric("bleu", "text", "sentence BLEU of sacrebleu, as a share of 100"),
    Metric("chrf", "text", "sentence chrF of sacrebleu, as a share of 100"),
    Metric("rouge1", "text", "F1 of the words shared with the reference, by rouge_score"),
    Metric("rouge2", "text", "the same for pairs of words"),
    Metric("rougeL", "text", "the same for the longest common subsequence"),
    Metric("rougeLsum", "text", "the same, line by line"),
    Metric("token_f1", "text", "F1 of the words as SQuAD counts it: no case, marks or articles"),
    Metric(
        "macro_f1",
        "text",
        "mean over the classes of their F1, an answer being a class",
        is_corpus_wide=True,
    ),
    Metric("contains", "text", "1 if the reference stands in the answer", is_zero_or_one=True),
    Metric(
        "regex", "text", "1 if the task's `regex` is found", is_zero_or_one=True, setting="regex"
    ),
    Metric("json_valid", "text", "1 if the answer is JSON and nothing else", is_zero_or_one=True),
    Metric(
        "json_schema",
        "text",
        "1 if the answer is JSON that meets the task's `json_schema`",
        is_zero_or_one=True,
        setting="json_schema",
    ),
    Metric("judge", "judge", "the judge's score by the suite's rubric, its scale being 0 to 1"),
    Metric(
        "hallucination_rate",
        "abstention",
        "share of the task's unanswerable questions that were answered",
        lower_is_better=True,
        is_zero_or_one=True,
    ),
    Metric(
        "over_abstention",
        "abstention",
        "share of the task's answerable questions that were not",
        lower_is_better=True,
        is_zero_or_one=True,
    ),
    Metric("penalized_score", "rightness", "right +1, abstained 0, wrong -t/(1-t)"),
    Metric(
        "brier", "probability", "squared error of the answer's probability", lower_is_better=True
    ),
    Metric(
        "ece",
        "probability",
        "expected calibration error",
        lower_is_better=True,
        is_corpus_wide=True,
    ),
)

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def _named(fits: Callable[[Metric], bool]) -> tuple[str, ...]:
    return tuple(metric.name for metric in METRICS if fits(metric))


CORPUS_WIDE = _named(lambda metric: metric.is_corpus_wide)
"""Metrics that belong to all samples together, so that no difference of samples can be bounded."""

TEXT_METRICS = _named(lambda metric: metric.needs == "text" and not metric.is_corpus_wide)
"""Metrics of single samples that compare a generated answer with the reference, or look at it
alone."""


def _is_graded(metric: Metric) -> bool:
    # `auto` is another metric in each suite, and may be one of 0 or 1.
    if metric.is_zero_or_one or metric.is_corpus_wide or metric.name == "auto":
        return False
    return metric.needs in ("text", "judge")


GRADED = _named(_is_graded)
"""Metrics with scores between 0 and 1."""

RIGHT = ("correct", "exact_match", "acc")
"""Scores of a task's own that say whether an answer is right."""

HELD_OUT_CONFIG: Mapping[str, Any] = {
    "output_type": "generate_until",
    "metric_list": [{"metric": "exact_match"}],
    "metadata": {"auto": "exact_match"},
}
"""What decides on the metrics of the task `heldout`, which has no file before the data is
prepared."""

# Answers of so many words in the median can be expected word for word.
SHORT_WORDS = 5

_LETTER = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
"""Of a script that puts no spaces between words."""

_USUAL: Mapping[str, tuple[str, ...]] = {
    "generate_until": ("exact_match",),
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
}
"""lm-eval's metrics of a task that lists none, by its `output_type`."""

_OF_NO_SAMPLE = ("bleu", "chrf", "ter", "f1", "mcc")
"""Metrics of lm-eval that it makes of all samples at once, so that no sample has a score."""


def num_words(text: str) -> int:
    """Words of a text; two letters of a script without spaces count as one."""
    letters = len(re.findall(_LETTER, text))
    return len(re.findall(r"\w+", re.sub(_LETTER, " ", text))) + (letters + 1) // 2


def fitting_metric(lengths: Mapping[int, int]) -> tuple[str, str]:
    """The metric for reference answers of these lengths in words, each with how many have it, and a
    sentence on it: word for word is asked of short ones, and of long ones that they share their
    words in the reference's order."""
    median = _median(lengths)
    said = f"the reference answers have {median} word{'' if median == 1 else 's'} in the median"
    if median <= SHORT_WORDS:
        return "exact_match", f"auto is exact_match here: {said}"
    return "rougeL", f"auto is rougeL here: {said}; name a `judge` with a rubric to have them read"


def _median(counts: Mapping[int, int]) -> int:
    """The lower median of values that are given with how often they occur; 0 where there are
    none."""
    left = sum(counts.values()) / 2
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


def own_scores(config: Mapping[str, Any]) -> frozenset[str] | None:
    """The scores that a task's file makes of each sample; None where Python of the task's own does
    and nobody knows before it has run. `config` is lm-eval's configuration of the task."""
    if config.get("process_results") is not None:
        return None
    kind = str(config.get("output_type", "generate_until"))
    listed = config.get("metric_list") or [{"metric": name} for name in _USUAL.get(kind, ())]
    named = []
    for entry in listed:
        if isinstance(entry, Mapping) and "metric" in entry:
            named.append(entry["metric"])
    # A metric may be a function of the task's own, which is then called by the function's name.
    names = []
    for name in named:
        names.append(name if isinstance(name, str) else getattr(name, "name", ""))
    return frozenset(name for name in names if name and name not in _OF_NO_SAMPLE)


def metrics_of(
    config: Mapping[str, Any], settings: TaskSettings, judge: JudgeSpec | None
) -> frozenset[str] | None:
    """Every metric that a limit on the task may name; None where the task's own Python makes its
    scores, so that any name may be right."""
    own = own_scores(config)
    if own is None:
        return None
    made = set()
    for name in BY_NAME:
        if metric_fault(name, config, settings, judge) is None:
            made.add(name)
    filters = [entry.get("name") for entry in config.get("filter_list") or ()]
    if len(filters) > 1:
        filtered = {f"{score},{name}" for score in own for name in filters}
    else:
        filtered = set()
    return frozenset(own | made | filtered)


def metric_fault(
    name: str, config: Mapping[str, Any], settings: TaskSettings, judge: JudgeSpec | None
) -> tuple[str, str] | None:
    """Why a limit on the task cannot name one of the gate's own metrics, and what to do; None if it
    can. A score that the task makes itself under the same name is that one."""
    metric, own = BY_NAME[name], own_scores(config)
    if own is None or name in own:
        return None
    kind = str(config.get("output_type", "generate_until"))
    if metric.needs in ("text", "judge") and kind != "generate_until":
        return f"{name} reads generated answers; the task's output_type is {kind}", ""
    if kind.startswith("loglikelihood"):
        return f"{name} reads answers, and the task has none: its output_type is {kind}", ""
    if name == "auto" and "auto" not in (config.get("metadata") or {}):
        hint = "name the score, or write `metadata: {auto: SCORE}` into the task's file"
        return "only `heldout` chooses its metric by itself", hint
    if metric.setting and getattr(settings, metric.setting) is None:
        hint = f"write `{metric.setting}:` under the task in the suite's `tasks`"
        return f"{name} needs the task's setting `{metric.setting}`", hint
    if metric.needs == "judge" and (judge is None or judge.rubric is None):
        return (
            "no judge with a rubric stands in the suite",
            "write `judge: {url, model, rubric, …}`",
        )
    if metric.needs in ("rightness", "probability") and not own & set(RIGHT):
        return f"{name} needs a score that says what is right: {', '.join(RIGHT)}", ""
    return None
