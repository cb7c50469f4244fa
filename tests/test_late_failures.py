"""Sixty mistakes that would show only after hours of work, and whether each is told before anything
starts."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from assay.errors import InvalidInput, Problem
from assay.flow.place.known import KnownPlace
from assay.flow.preflight.check import check

SPEC = """\
version: 1
name: bot
model: model
data:
  train: train.jsonl
  selection: 10%
  gate: 50%
sweep:
  learning_rate: [1e-4, 1e-3]
train:
  method:
    lora: {r: 8, target_modules: [q_proj, v_proj]}
  max_length: 512
  num_epochs: 2
  global_batch_size: 8
compress:
  scheme: W8A8
gate:
  suite: evals/bot.yaml
approval:
  reviewers: [anna, ben]
serve:
  engine:
    max_model_len: 1024
"""

SUITE = """\
confidence: 0.95
limits:
  heldout: {metric: exact_match, at_least: 80%}
  facts:
    - {metric: exact_match, at_least: 80%}
    - {metric: over_abstention, at_most: 10%, level: soft}
  unknowable: {metric: hallucination_rate, at_most: 10%}
  choice: {metric: acc, no_worse_than: base, margin: 10%}
tasks:
  facts:
    max_gen_toks: 64
    slice_by: [topic]
service:
  ttft_p95: 500ms
  error_rate: 5%
  load:
    num_requests: 100
    prompt_tokens: 200
    output_tokens: 100
parity:
  top1_agreement: 50%
"""

FACTS = """\
dataset_path: json
dataset_kwargs:
  data_files: facts.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: exact_match
    higher_is_better: true
"""

CHOICE = """\
dataset_path: json
dataset_kwargs: {data_files: choice.jsonl}
test_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
"""

SPEC_FILE, SUITE_FILE, FACTS_FILE = "spec.yaml", "evals/bot.yaml", "evals/bot/facts.yaml"


class Planted(NamedTuple):
    """A mistake: what is right, what was written, the text whose line must be named, and what must
    be said."""

    file: str
    right: str
    wrong: str
    at: str
    says: tuple[str, ...]
    where: str = ""
    """The file that must be named; `file` when not said."""


def spec(right: str, wrong: str, at: str, *says: str) -> Planted:
    return Planted(SPEC_FILE, right, wrong, at, says)


def suite(right: str, wrong: str, at: str, *says: str) -> Planted:
    return Planted(SUITE_FILE, right, wrong, at, says)


def facts(right: str, wrong: str, at: str, *says: str) -> Planted:
    return Planted(FACTS_FILE, right, wrong, at, says)


LIMIT = "    - {metric: exact_match, at_least: 80%}"
UNKNOWABLE = "  unknowable: {metric: hallucination_rate, at_most: 10%}"
CHOICE_LIMIT = "  choice: {metric: acc, no_worse_than: base, margin: 10%}"

PLANTED = [
    # metrics that a task does not have: found when the answers were in
    suite(LIMIT, "    - {metric: accuracy, at_least: 80%}", "accuracy", "no metric accuracy"),
    suite(LIMIT, "    - {metric: exactmatch, at_least: 80%}", "exactmatch", "`exact_match`"),
    suite(LIMIT, "    - {metric: rouge_l, at_least: 30%}", "rouge_l", "`rougeL`"),
    suite(LIMIT, "    - {metric: f1, at_least: 30%}", "metric: f1", "`token_f1`"),
    suite(LIMIT, "    - {metric: regex, at_least: 80%}", "metric: regex", "setting `regex`"),
    suite(
        LIMIT, "    - {metric: json_schema, at_least: 80%}", "json_schema", "setting `json_schema`"
    ),
    suite(
        UNKNOWABLE,
        "  unknowable: {metric: hallucinations, at_most: 10%}",
        "hallucinations",
        "`hallucination_rate`",
    ),
    suite(
        UNKNOWABLE,
        "  unknowable: {metric: abstention_rate, at_most: 10%}",
        "abstention_rate",
        "`over_abstention`",
    ),
    suite(
        CHOICE_LIMIT,
        "  choice: {metric: rougeL, at_least: 30%}",
        "rougeL",
        "generated answers",
        "multiple_choice",
    ),
    suite(
        CHOICE_LIMIT,
        "  choice: {metric: exact_match, at_least: 30%}",
        "choice:",
        "no metric exact_match",
    ),
    suite(
        "heldout: {metric: exact_match,",
        "heldout: {metric: acc,",
        "metric: acc, at_least",
        "no metric acc",
    ),
    suite("heldout: {metric: exact_match,", "heldout: {metric: bleurt,", "bleurt", "`bleu`"),
    # limits that ask for the opposite: the best model fails
    suite(
        "hallucination_rate, at_most: 10%",
        "hallucination_rate, at_least: 10%",
        "hallucination_rate",
        "at_most",
    ),
    suite(
        "over_abstention, at_most: 10%",
        "over_abstention, at_least: 90%",
        "over_abstention",
        "at_most",
    ),
    suite(
        LIMIT,
        "    - {metric: exact_match, at_most: 80%}",
        "at_most: 80%",
        "at_least",
        "higher_is_better",
    ),
    suite(LIMIT, "    - {metric: rougeL, at_most: 80%}", "at_most: 80%", "at_least"),
    suite(CHOICE_LIMIT, "  choice: {metric: acc, at_most: 50%}", "at_most: 50%", "at_least"),
    suite(CHOICE_LIMIT, "  choice: {metric: brier, at_least: 0.2}", "brier", "at_most"),
    # tasks that are not there
    suite(
        UNKNOWABLE,
        "  unknowabel: {metric: hallucination_rate, at_most: 10%}",
        "unknowabel",
        "`unknowable`",
    ),
    suite(
        "    slice_by: [topic]",
        '    slice_by: [topic]\n  choice: {source: "lm-eval:trutfulqa_mc1"}',
        "trutfulqa",
        "`truthfulqa_mc1`",
    ),
    suite(
        "    slice_by: [topic]",
        "    source: fact.yaml",
        "  facts:\n    - {",
        "no task file",
        "fact.yaml",
    ),
    # task files
    facts('doc_to_text: "{{question}}"', 'doc_to_text: "{{qestion}}"', "qestion", "`question`"),
    facts(
        'doc_to_target: "{{answer}}"',
        'doc_to_target: "{{target}}"',
        "{{target}}",
        "do not have",
        "answer",
    ),
    facts("test_split: train", "test_split: test", "test_split: test", "test_split: train"),
    facts("data_files: facts.jsonl", "data_files: fact.jsonl", "fact.jsonl", "cannot be read"),
    facts(
        "output_type: generate_until",
        "output_type: [generate_until",
        "output_type",
        "not closed",
        "check",
    ),
    facts("dataset_path: json", "include: base.yaml", "base.yaml", "base.yaml"),
    facts(
        "dataset_path: json",
        "process_results: !function score.run\ndataset_path: json",
        "score.run",
        "functions:",
    ),
    suite("slice_by: [topic]", "slice_by: [tpic]", "tpic", "`topic`"),
    suite("slice_by: [topic]", "cluster_by: customer", "customer", "no field customer", "question"),
    Planted(
        "evals/bot/facts.jsonl",
        '{"question": "q3"',
        '{"question" "q3"',
        '"question" "q3"',
        ("no JSON",),
    ),
    Planted(
        "evals/bot/facts.jsonl",
        '{"question": "q4"',
        '["question", "q4"], {',
        '["question"',
        ("JSON",),
    ),
    # lengths
    spec("max_model_len: 1024", "max_model_len: 8192", "8192", "1024 tokens", "1024 or less"),
    spec("max_length: 512", "max_length: 2048", "2048", "1024 tokens"),
    suite("max_gen_toks: 64", "max_gen_toks: 2048", "2048", "no room", "max_model_len"),
    suite(
        "prompt_tokens: 200", "prompt_tokens: 1000", "1000", "max_model_len 1024", "prompt_tokens"
    ),
    # what the model does not have
    spec("[q_proj, v_proj]", "[query, v_proj]", "query", "no module query", "v_proj"),
    spec("[q_proj, v_proj]", "[qproj]", "qproj", "`q_proj`"),
    spec("[q_proj, v_proj]}", "all-linear, layers: 0-3}", "0-3", "layers 0 to 1", "end at 1"),
    spec(
        "    lora: {r: 8, target_modules: [q_proj, v_proj]}",
        "    freeze: {last_layers: 9}",
        "freeze",
        "2 layers",
    ),
    spec(
        "    lora: {r: 8, target_modules: [q_proj, v_proj]}",
        "    freeze: {trainable: [wte]}",
        "wte",
        "no weight",
    ),
    spec("  num_epochs: 2", "  group_learning_rates: {decoder: 1e-5}", "decoder", "no weight"),
    spec(
        "scheme: W8A8",
        "steps: [{quantize: {scheme: W4A16, group_size: 128}}]",
        "W4A16",
        "128 columns",
        "group_size: 64",
    ),
    spec(
        "    max_model_len: 1024",
        "    tensor_parallel_size: 3",
        "tensor_parallel_size",
        "4 attention heads",
        "2 or 4",
    ),
    # limits that their samples can never meet
    spec("gate: 50%", "gate: 1%", "heldout:", "2 samples", "14"),
    suite(LIMIT, "    - {metric: exact_match, at_least: 99%}", "99%", "60 samples", "299"),
    suite(LIMIT, "    - {metric: exact_match, at_least: 100%}", "100%", "no number of samples"),
    suite(
        "hallucination_rate, at_most: 10%",
        "hallucination_rate, at_most: 1%",
        "at_most: 1%",
        "60 samples",
        "299",
    ),
    suite(
        "max_gen_toks: 64", "max_items: 5", "at_least: 80%}\n    - {metric: over", "5 samples", "14"
    ),
    suite(
        CHOICE_LIMIT,
        "  choice: {metric: acc, better_than: base, margin: 95%}",
        "better_than",
        "60 samples",
    ),
    suite("error_rate: 5%", "error_rate: 0.1%", "0.1%", "100 requests", "2995"),
    suite("ttft_p95: 500ms", "ttft_p99: 500ms", "ttft_p99", "100 requests", "299"),
    suite(
        "confidence: 0.95",
        "confidence: 0.95\nattempts: 100000",
        "at_least: 80%}\n    - {metric: over",
        "66",
    ),
    # people
    spec(
        "reviewers: [anna, ben]",
        "reviewers: [anna]",
        "[anna]",
        "facts over_abstention",
        "required_on_soft_miss: 1",
    ),
    spec(
        "reviewers: [anna, ben]",
        "reviewers: [anna, sam]",
        "sam]",
        "sam starts the run",
        "name one more",
    ),
    spec(
        "reviewers: [anna, ben]",
        "reviewers: [Sam]\n  required_on_soft_miss: 1",
        "Sam",
        "may not approve",
        "allow_self_approval",
    ),
    # splits
    spec("selection: 10%", "selection: 0%", "selection", "sweep", "5%"),
    spec("gate: 50%", "gate: 90%", "selection", "nothing to train on", "smaller"),
    spec(
        "  num_epochs: 2", "  objective: pretrain", "gate: 50%", "data.gate", "take data.gate out"
    ),
    spec(
        "  num_epochs: 2",
        "  objective: {dpo: {beta: 0.1}}",
        "train.jsonl",
        "learns from preference",
    ),
    # courses that come to nothing
    spec("  num_epochs: 2", "  max_steps: 1", "max_steps", "all warm-up", "raise max_steps"),
    spec("  num_epochs: 2", "  warmup_ratio: 100%", "warmup_ratio", "never reached"),
    spec(
        "  num_epochs: 2",
        "  warmup_ratio: 50%\n  schedule: wsd\n  decay_ratio: 60%",
        "warmup_ratio",
        "more than all",
    ),
    spec(
        "  num_epochs: 2",
        "  max_steps: 50\n  warmup_steps: 100",
        "warmup_steps",
        "max_steps: 50",
        "warmup_ratio",
    ),
    # the model itself
    Planted(
        "model/tokenizer_config.json",
        '"chat_template"',
        '"template"',
        "model: model",
        ("chat template",),
        SPEC_FILE,
    ),
    Planted(
        "train.jsonl", '"completion": "a7"', '"completion" "a7"', '"completion" "a7"', ("JSON",)
    ),
]


def weights(*names: str) -> bytes:
    """A safetensors file whose weights have no elements."""
    header = json.dumps(
        {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    ).encode()
    return struct.pack("<Q", len(header)) + header


def lines(number: int, make: Callable[[int], Mapping[str, object]]) -> str:
    return "".join(json.dumps(make(index)) + "\n" for index in range(number))


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 300,
    "max_position_embeddings": 1024,
}

TREE = {
    SPEC_FILE: SPEC,
    SUITE_FILE: SUITE,
    FACTS_FILE: FACTS,
    "evals/bot/unknowable.yaml": FACTS,
    "evals/bot/choice.yaml": CHOICE,
    "evals/bot/score.py": "def run(doc, results):\n    return {}\n",
    "evals/bot/facts.jsonl": lines(
        60, lambda n: {"question": f"q{n}", "answer": f"a{n}", "topic": "t"}
    ),
    "evals/bot/choice.jsonl": lines(
        60, lambda n: {"question": f"q{n}", "choices": ["a", "b"], "answer": 0}
    ),
    "train.jsonl": lines(200, lambda n: {"prompt": f"p{n}", "completion": f"a{n}"}),
    "model/config.json": json.dumps(CONFIG),
    "model/tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec and all that it names, in which nothing is wrong."""
    root = tmp_path_factory.mktemp("late")
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    names = [f"model.layers.{n}.self_attn.{part}_proj.weight" for n in (0, 1) for part in "qkvo"]
    (root / "model/model.safetensors").write_bytes(weights("model.embed_tokens.weight", *names))
    return root


def told(root: Path, **how: bool) -> list[Problem]:
    try:
        check(root / SPEC_FILE, root=root, place=KnownPlace("sam"), **how)
    except InvalidInput as error:
        return error.problems
    return []


def test_nothing_is_wrong_before_something_is_planted(tree: Path) -> None:
    assert told(tree) == []


def test_sixty_late_failures_are_told_before_anything_starts(tree: Path) -> None:
    missed = []
    for planted in PLANTED:
        text = TREE[planted.file]
        assert text.count(planted.right) == 1, planted.right
        changed = text.replace(planted.right, planted.wrong)
        (tree / planted.file).write_text(changed)
        problems = told(tree)
        (tree / planted.file).write_text(text)
        if not _is_told(planted, changed, problems):
            missed.append(
                f"{planted.wrong!r}: " + ("; ".join(map(str, problems)) or "nothing was said")
            )
    print(
        f"{len(PLANTED) - len(missed)} of {len(PLANTED)} late failures are told", *missed, sep="\n"
    )
    assert len(PLANTED) >= 60
    assert len(missed) <= len(PLANTED) // 20


def _is_told(planted: Planted, changed: str, problems: list[Problem]) -> bool:
    """Whether one of the problems names the line and the remedy."""
    for problem in problems:
        said = f"{problem.message} ({problem.hint})"
        if all(words in said for words in planted.says) and _is_there(planted, changed, problem):
            return True
    return False


def _is_there(planted: Planted, changed: str, problem: Problem) -> bool:
    named = planted.where or planted.file
    for file in (named, SUITE_FILE):  # what the data decide shows at the suite's limit
        text = changed if file == planted.file else TREE[file]
        if problem.file.endswith(file) and planted.at in text:
            return problem.line == text[: text.index(planted.at)].count("\n") + 1
    return False


def test_mistakes_of_the_spec_its_suite_and_its_tasks_are_told_together(tree: Path) -> None:
    wrong = {
        SPEC_FILE: SPEC.replace("num_epochs: 2", "num_epoch: 2").replace(
            "max_model_len: 1024", "max_model_len: 9999"
        ),
        SUITE_FILE: SUITE.replace("over_abstention, at_most", "over_abstention, at_least").replace(
            "0.95", "95"
        ),
        FACTS_FILE: FACTS.replace("{{question}}", "{{qestion}}"),
        "train.jsonl": TREE["train.jsonl"].replace('"completion": "a7"', '"completion" "a7"'),
    }
    for name, text in wrong.items():
        (tree / name).write_text(text)
    problems = told(tree)
    for name in wrong:
        (tree / name).write_text(TREE[name])
    found = {(Path(problem.file).name, problem.path) for problem in problems}
    assert found == {
        ("spec.yaml", "train.num_epoch"),
        ("spec.yaml", "serve.engine.max_model_len"),
        ("bot.yaml", "confidence"),
        ("bot.yaml", "limits.facts.1.at_least"),
        ("facts.yaml", ""),
        ("train.jsonl", ""),
    }


def test_all_contradictions_of_a_block_are_told_together(tree: Path) -> None:
    text = SPEC.replace(
        "  global_batch_size: 8", "  global_batch_size: 9\n  num_workers: 2\n  min_workers: 3"
    )
    text = text.replace(
        "num_epochs: 2", "num_epochs: 2\n  optimizer: muon\n  deepspeed: {zero_stage: 2}"
    )
    text = text.replace("lora: {r: 8, target_modules: [q_proj, v_proj]}", "prefix_tuning: {}")
    (tree / SPEC_FILE).write_text(text)
    said = "\n".join(map(str, told(tree)))
    (tree / SPEC_FILE).write_text(SPEC)
    for words in (
        "not divisible by num_workers",
        "more than num_workers 2",
        "muon steps on whole",
        "serves no prefixes",
    ):
        assert words in said


def test_what_stands_behind_a_syntax_error_is_checked_too(tree: Path) -> None:
    text = SPEC.replace("learning_rate: [1e-4, 1e-3]", "learning_rate: [1e-4, 1e-3").replace(
        "W8A8", "W9A9"
    )
    (tree / SPEC_FILE).write_text(text)
    (tree / SUITE_FILE).write_text(
        SUITE.replace("exact_match, at_least: 80%}\n    -", "exactmatch, at_least: 80%}\n    -")
    )
    problems = told(tree)
    (tree / SPEC_FILE).write_text(SPEC)
    (tree / SUITE_FILE).write_text(SUITE)
    assert [(Path(one.file).name, one.line) for one in problems] == [
        ("bot.yaml", 5),
        ("spec.yaml", 9),
        ("spec.yaml", 17),
    ]
    assert "is not closed with `]`" in problems[1].message


def test_an_underpowered_suite_may_run_where_it_says_so(tree: Path) -> None:
    text = SUITE.replace("exact_match, at_least: 80%}\n    -", "exact_match, at_least: 99%}\n    -")
    (tree / SUITE_FILE).write_text(text)
    refused = told(tree)
    (tree / SUITE_FILE).write_text("underpowered: allow\n" + text)
    allowed = told(tree)
    (tree / SUITE_FILE).write_text(SUITE)
    assert ["60 samples can never meet it" in one.message for one in refused] == [True]
    assert allowed == []
    assert told(tree, reads_data=False) == []


@pytest.mark.parametrize(
    ("right", "wrong", "line", "says"),
    [
        ("  num_epochs: 2", "  objective: grpo", 14, "grpo needs `rewards`"),
        ("  num_epochs: 2", "  objective: grpo", 14, "write {grpo: {rewards: [exact_match]}}"),
        ("name: bot", "name：bot", 2, "a full-width colon (`：`)"),
        ("  num_epochs: 2", "  num_epochs：2", 14, "write `:` and a space"),
        ("{r: 8, target_modules", "{r: 8， target_modules", 12, "a full-width comma (`，`)"),
        ("[anna, ben]", "【anna, ben】", 21, "a full-width bracket"),
        ("name: bot", "name: 客服", 2, "such as `my-model`"),
        ("name: bot", "name: Café Bot", 2, "such as `cafe-bot`"),
    ],
)
def test_messages_say_what_is_meant(
    tree: Path, right: str, wrong: str, line: int, says: str
) -> None:
    (tree / SPEC_FILE).write_text(SPEC.replace(right, wrong))
    problems = told(tree)
    (tree / SPEC_FILE).write_text(SPEC)
    assert any(one.line == line and says in f"{one.message} ({one.hint})" for one in problems), (
        problems
    )
