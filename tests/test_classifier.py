"""Classifiers with a head: an encoder and a decoder, from labelled texts to a promoted model."""

import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.engines.data.chats.tokens import Row, classified, load_tokenizer
from assay.engines.data.tokenize import tokenize_rows
from assay.engines.deployment.classifier import Model
from assay.engines.models import folders
from assay.errors import InvalidInput
from assay.flow.preflight.check import check
from project import Project
from tiny import make_encoder, make_model

GOOD, BAD = ("good", "great", "lovely", "kind"), ("bad", "awful", "dull", "rude")
SPEC: dict[str, Any] = {
    "version": 1,
    "name": "mood",
    "model": "bert",
    "data": {"train": "texts.jsonl", "selection": "10%", "gate": "30%"},
    "train": {
        "method": "full",
        "objective": {"classify": {"head": "linear"}},
        "learning_rate": 5e-3,
        "num_epochs": 6,
        "global_batch_size": 16,
        "max_length": 32,
        "precision": "fp32",
    },
    "compress": {"scheme": "none"},
    "gate": {"suite": "evals/mood.yaml"},
    "approval": {"reviewers": ["anna"]},
    "serve": {"engine": {"max_model_len": 32}},
}
SUITE = {
    "limits": {
        "heldout": [
            {"metric": "exact_match", "at_least": 0.7},
            {"metric": "macro_f1", "at_least": 0.6},
        ]
    },
    "contamination": {"exact": "ignore", "near": "ignore"},
}


def texts() -> list[dict[str, str]]:
    draws = random.Random(0)
    rows = []
    for number in range(240):
        words = GOOD if number % 2 else BAD
        thing, how = draws.choice(("book", "film", "cake", "trip")), draws.choice(words)
        text = f"the {thing} was {draws.choice(('so', 'very'))} {how} and {draws.choice(words)}"
        rows.append({"text": text, "label": "pleased" if number % 2 else "cross"})
    return rows


def write_spec(folder: Path, **changes: Any) -> Path:
    (folder / "evals").mkdir(exist_ok=True)
    (folder / "evals/mood.yaml").write_text(yaml.safe_dump(SUITE))
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts()))
    (folder / "mood.yaml").write_text(yaml.safe_dump(SPEC | changes))
    return folder / "mood.yaml"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    make_encoder(folder)
    return folder


def test_an_encoders_texts_have_its_special_tokens_and_a_decoders_its_template(
    encoder: Path, tmp_path: Path
) -> None:
    chat = [{"role": "user", "content": "the film was good"}]
    rows = tokenize_rows(encoder, [Row((chat,), label=1, is_classified=True)], 32)
    words = load_tokenizer(encoder, needs_template=False).convert_ids_to_tokens(
        rows.tokens.tolist()
    )
    assert words == ["[CLS]", "the", "film", "was", "good", "[SEP]"]
    assert rows.labels.tolist() == [1]
    assert not rows.loss_mask.any()
    make_model(tmp_path / "llama")
    decoder = load_tokenizer(tmp_path / "llama")
    assert (
        decoder.decode(classified(decoder, chat).tokens)
        == "<|user|>the film was good<|end|><|assistant|>"
    )


def test_labels_have_their_names_and_a_batch_says_what_each_text_alone_says(
    encoder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "classifier"
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3).save_pretrained(
        folder
    )
    folders.copy_tokenizer(encoder, folder)
    folders.name_labels(folder, ["a", "b", "c"])
    model = Model(folder, 32)
    chats = [[{"role": "user", "content": " ".join(["good"] * count)}] for count in (1, 7, 90)]
    together = model.classify(chats)
    for chat, one in zip(chats, together, strict=True):
        (alone,) = model.classify([chat])
        assert one.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
        assert set(one.logprobs) == {"a", "b", "c"}
        assert one.logprobs[one.label] == max(one.logprobs.values())
    assert [one.num_tokens for one in together] == [
        3,
        9,
        32,
    ]  # cut at the length that the engine was given


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"compress": {"scheme": "W8A8"}}, "write compress: {scheme: none}"),
        (
            {"gate": {"suite": "evals/beside.yaml"}},
            r"evals/beside.yaml:1:.* has no head that classifies",
        ),
    ],
)
def test_what_a_head_rules_out_is_told_before(
    encoder: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    spec = write_spec(tmp_path, model=str(encoder), **changes)
    (tmp_path / "evals/beside.yaml").write_text(
        "limits: {heldout: {no_worse_than: base, margin: 10%}}"
    )
    with pytest.raises(InvalidInput, match=told):
        check(spec, root=tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, ASSAY_USER="ben")
    make_encoder(project.folder / "bert")
    write_spec(project.folder)
    try:
        yield project
    finally:
        project.assay("down")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_labelled_texts_to_a_promoted_classifier(project: Project) -> None:
    up = project.assay("up")
    key = next(line.split()[-1] for line in up.splitlines() if "API key" in line)
    assert "PASS" in project.assay("run", "mood.yaml")
    report = json.loads(project.assay("report", "mood", "--json"))
    metrics = {limit["metric"]: limit for limit in report["scorecard"]["limits"]}
    assert metrics["macro_f1"]["lower"] < metrics["macro_f1"]["observed"]
    project.assay("approve", "mood", "--as", "anna")
    project.assay("promote", "mood")
    turn = {"role": "user", "content": "the cake was lovely"}
    answer = ask(project, key, "chat/completions", messages=[turn])
    assert answer["choices"][0]["message"]["content"] == "pleased"
    found = ask(
        project, key, "classify", input=["the cake was lovely", "the film was very rude and awful"]
    )
    assert [one["label"] for one in found["data"]] == ["pleased", "cross"]
    assert all(sum(one["probs"].values()) == pytest.approx(1) for one in found["data"])


def ask(project: Project, key: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{project.gateway}/{path}",
        data=json.dumps({"model": "mood", **body}).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())
