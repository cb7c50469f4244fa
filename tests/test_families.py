"""Five families of models, from their data through the gate on the real engine. Their weights are
random and tiny; what is real is each family's architecture, tokenizer and chat template."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.records.gate import Evaluation, Sample
from families import make_family
from project import Project

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

SPEC = """\
version: 1
name: {family}
model: {{source: {family}, chat_template_kwargs: {arguments}}}
data: {{train: [{data}, turns.jsonl], selection: 10%}}
train: {{method: {{lora: {{r: 32}}}}, num_epochs: 40, learning_rate: 1e-2, global_batch_size: 8, precision: fp32}}
compress: {{scheme: {scheme}}}
gate: {{suite: evals/family.yaml, baseline: none}}
approval: {{reviewers: [anna, ben]}}
serve: {{engine: {{max_model_len: 256}}}}
"""
SUITE = """\
limits:
  tiny_known: {metric: exact_match, at_least: 60%}
  tiny_unknown: {metric: hallucination_rate, at_most: 30%}
contamination: {exact: ignore, near: ignore}
parity: {top1_agreement: 20%, num_probes: 4}
"""
CASES = [
    pytest.param("qwen3", "{enable_thinking: false}", "W8A8", marks=pytest.mark.long),
    pytest.param("llama3", "{}", "none", marks=pytest.mark.long),
    pytest.param("gemma3", "{}", "none", marks=pytest.mark.long),
    pytest.param("r1", "{}", "none", marks=pytest.mark.long),
    pytest.param("phi3", "{}", "none", marks=pytest.mark.long),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("families"))
    suite = project.folder / "evals" / "family.yaml"
    suite.write_text(SUITE)
    suite.with_suffix("").symlink_to(suite.with_name("tiny"))
    lines = [json.loads(line) for line in (project.folder / "train.jsonl").read_text().splitlines()]
    with_reasoning = [
        {**one, "completion": f"<think>\nHm.\n</think>\n\n{one['completion']}"} for one in lines
    ]
    (project.folder / "reasoned.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in with_reasoning)
    )
    two_turns = [
        [*_messages(one), *_messages(two)] for one, two in zip(lines[::2], lines[1::2], strict=True)
    ]
    (project.folder / "turns.jsonl").write_text(
        "".join(json.dumps({"messages": one}) + "\n" for one in two_turns)
    )
    try:
        yield project
    finally:
        project.assay("down")


@pytest.mark.parametrize(("family", "arguments", "scheme"), CASES)
def test_a_family_is_trained_served_and_evaluated(
    project: Project, family: str, arguments: str, scheme: str
) -> None:
    make_family(project.folder / family, family)
    data = "reasoned.jsonl" if family == "r1" else "train.jsonl"
    spec = SPEC.format(family=family, arguments=arguments, data=data, scheme=scheme)
    (project.folder / f"{family}.yaml").write_text(spec)
    process = project.start("run", f"{family}.yaml")
    out, err = process.communicate(timeout=600)
    assert process.returncode in (0, 10, 11), f"{out}\n{err}"  # whatever the verdict
    report = json.loads(project.assay("report", family, "--json"))
    samples = _samples(report)
    assert len(samples) == 80
    assert not [sample.error for sample in samples if sample.error]
    learned = [sample for sample in samples if sample.response.startswith(("yes", "I don't know"))]
    assert len(learned) > len(samples) / 2, [sample.response for sample in samples]
    reasoned = [sample.reasoning_tokens for sample in samples if sample.reasoning_tokens]
    assert bool(reasoned) == (family == "r1")
    deployment = report["stages"]["deploy"]
    choice = _chat(deployment, "is baran real?")
    assert choice["finish_reason"] == "stop"  # it has learned to end its turn
    assert choice["message"]["content"].strip()
    if family == "r1":
        assert choice["message"]["reasoning"].strip()
        cut = _chat(deployment, "is baran real?", thinking_token_budget=1)["message"]
        assert len(cut["reasoning"]) < len(choice["message"]["reasoning"])
        assert cut["content"].strip()  # the engine closes the reasoning, and the answer follows
    for pair in report["scorecard"]["parity"]["pairs"]:
        assert pair["top1_agreement"] > 0.5, pair


def _samples(report: dict[str, Any]) -> list[Sample]:
    folder = Path(report["stages"]["gate"]["candidate"]["evidence"]["path"])
    evaluation = Evaluation.model_validate_json((folder / "evaluation.json").read_text())
    return [sample for task in evaluation.tasks for sample in task.items]


def _messages(line: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": line["prompt"]},
        {"role": "assistant", "content": line["completion"]},
    ]


def _chat(deployment: dict[str, Any], question: str, **more: Any) -> Any:
    """The first choice of the slot's own answer, without any setting of the template."""
    body: dict[str, Any] = {
        "model": deployment["model_name"],
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
    }
    body |= {"max_tokens": 60, **more}
    request = urllib.request.Request(
        f"{deployment['url']}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["choices"][0]
