"""Every method with every objective trains a tiny model for real: the loss falls, and what is saved
says the same."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import workers
from assay.engines.checkpoints.callback import CheckpointConfig
from assay.engines.data.chats.tokens import Row
from assay.engines.models import folders, methods
from assay.engines.models import shape as model_shape
from assay.engines.models.kernels import Kernels
from assay.engines.training.batches import PackedSplit, collate, collate_padded
from assay.engines.training.job import is_padded, read_outcome
from assay.engines.training.objectives import Frozen, objective_of
from assay.engines.workers.retry import run_with_retries
from assay.errors import UsageError
from assay.records.stages import PauseReport, TrainingOutcome
from assay.rules.planning.weights import trained_parameters
from assay.spec.method import MethodSpec
from assay.spec.objective import ObjectiveSpec
from assay.spec.train import TrainSpec
from tiny import THINGS
from training import make_job, train_here

pytestmark = (
    pytest.mark.filterwarnings(  # peft, of its own AdaLoRA adapters, some of which have the rank 0
        "ignore:The following rank_pattern keys", "ignore:Adapter 'default'"
    )
)

METHODS: dict[str, Any] = {
    "lora": "lora",
    "dora": {"lora": {"use_dora": True}},
    "rslora": {"lora": {"use_rslora": True}},
    "pissa": {"lora": {"init": "pissa", "r": 4, "alpha": 4}},
    "olora": {"lora": {"init": "olora", "r": 4, "alpha": 4}},
    "qlora": "qlora",
    "adalora": "adalora",
    "ia3": "ia3",
    "bottleneck": "bottleneck",
    "pfeiffer": {"bottleneck": {"placement": "after_mlp", "size": 16}},
    "houlsby": {"bottleneck": {"placement": "after_both", "size": 16, "layers": 1}},
    "prefix_tuning": "prefix_tuning",
    "prompt_tuning": "prompt_tuning",
    "p_tuning": "p_tuning",
    "freeze": {"freeze": {"last_layers": 1, "trainable": ["lm_head"]}},
    "full": "full",
}
OBJECTIVES: dict[str, Any] = {
    "sft": "sft",
    "pretrain": "pretrain",
    "classify": {"classify": {"head": "linear"}},
    "classify_in_words": "classify",
    "reward": "reward",
    "dpo": "dpo",
    "kto": "kto",
    "orpo": "orpo",
    "grpo": {
        "grpo": {"rewards": [{"name": "regex", "pattern": "^no"}], "max_completion_length": 4}
    },
    "distill": {"distill": {"teacher": "teacher"}},
}
RATES = {
    "rslora": 3e-3,
    "ia3": 0.1,
    "prefix_tuning": 0.1,
    "prompt_tuning": 0.3,
    "p_tuning": 0.03,
    "full": 3e-3,
    "freeze": 1e-2,
}
QUICK = [
    ("lora", "sft"),
    ("full", "dpo"),
    ("freeze", "orpo"),
    ("lora", "kto"),
    ("lora", "reward"),
    ("p_tuning", "sft"),
]


def chat(question: str, answer: str = "") -> list[dict[str, str]]:
    asked = [{"role": "user", "content": question}]
    return [*asked, {"role": "assistant", "content": answer}] if answer else asked


def as_prompt(folder: Path, question: str) -> Any:
    """(1, tokens): what the model is asked."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        chat(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return asked["input_ids"]


def rows(objective: str) -> list[Row]:
    """Data that the objective can learn something from in a few steps."""
    questions = [f"is {thing} real?" for thing in THINGS[:16]]
    if objective == "pretrain":
        return [Row(text=f"{question} yes it is") for question in questions]
    if objective == "classify":
        return [
            Row((chat(text),), label=index % 2)
            for index, text in enumerate(["yes yes", "no no"] * 8)
        ]
    if objective in ("reward", "dpo", "orpo"):
        return [Row((chat(question, "yes"), chat(question, "no"))) for question in questions]
    if objective == "kto":
        answers = [("yes", "no"), ("no", "yes")]
        return [
            Row(
                (chat(question, answers[i % 2][0]), chat(question, answers[i % 2][1])),
                label=int(i % 2 == 0),
            )
            for i, question in enumerate(questions)
        ]
    return [Row((chat(question, "yes"),)) for question in questions]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture(scope="module")
def waverer(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has learned to say yes or no, whatever it is asked."""
    output = tmp_path_factory.mktemp("waverer") / "out"
    both = [
        Row((chat(f"is {thing} real?", answer),))
        for thing in THINGS[:16]
        for answer in ("yes", "no")
    ]
    train_here(model, both, output, {"method": "full", "learning_rate": 3e-3, "max_steps": 60})
    folders.copy_tokenizer(model, output / "weights")
    return output / "weights"


def settings(method: str, objective: str, **more: Any) -> dict[str, Any]:
    return {
        "method": METHODS[method],
        "objective": OBJECTIVES[objective],
        "learning_rate": RATES.get(method, 1e-2),
        "max_steps": 32 if objective == "grpo" else 16,
        "global_batch_size": 32 if objective == "grpo" else 8,
        "deepspeed": {"zero_stage": 0},
        **more,
    }


def trained(
    model: Path, output: Path, method: str, objective: str, **more: Any
) -> tuple[TrainSpec, TrainingOutcome]:
    train = settings(method, objective, **more)
    job = {
        "classify": {"num_labels": 2},
        "reward": {"num_labels": 1},
        "distill": {"teacher": str(model)},
    }
    outcome = train_here(model, rows(objective), output, train, **job.get(objective, {}))
    return TrainSpec.model_validate({"precision": "fp32", "max_length": 64, **train}), outcome


def reloaded(base: Path, output: Path, train: TrainSpec, num_labels: int | None) -> Any:
    """What was saved, as anybody would load it."""
    if not train.method.is_adapter:
        folders.copy_tokenizer(base, output / "weights")
        base = output / "weights"
    model = methods.base(str(base), train.method, precision="fp32", num_labels=num_labels)
    if not train.method.is_adapter:
        return model.eval()
    model.config.use_cache = False
    return folders.with_adapter(model, output / "weights").eval()


def mean_loss(model: Any, output: Path, train: TrainSpec, teacher: Any = None) -> float:
    """The mean loss on the split that was trained on, counted anew."""
    import torch
    from safetensors.torch import load_file

    objective = objective_of(train)
    reference = (
        load_file(output / "reference.safetensors")["train"] if objective.needs_reference else None
    )
    frozen = Frozen(reference=reference, teacher=teacher)
    split = PackedSplit.load(str(output.with_suffix(".safetensors")))
    gather = collate_padded if is_padded(train) else collate
    for one in (model, *([teacher] if teacher else [])):
        one.config.use_cache = False
    with torch.no_grad():
        batches = [
            gather([split[index] for index in range(first, first + 8)])
            for first in range(0, len(split), 8)
        ]
        losses = [objective.loss(model, batch, train, frozen) for batch in batches]
    return float(
        sum(loss.totals.sum() for loss in losses) / sum(loss.counts.sum() for loss in losses)
    )


def allowed(method: str, objective: str) -> bool:
    try:
        TrainSpec.model_validate({"method": METHODS[method], "objective": OBJECTIVES[objective]})
    except ValidationError:
        return False
    return True


def check(model: Path, output: Path, method: str, objective: str) -> None:
    train, outcome = trained(model, output, method, objective)
    assert outcome.selection_loss is not None
    assert outcome.num_steps == train.max_steps
    assert all(point.grad_norm is not None for point in outcome.history)
    again = reloaded(model, output, train, {"classify": 2, "reward": 1}.get(objective))
    if objective == "grpo":
        assert share_of_nos(again, model) == pytest.approx(-outcome.selection_loss)
        rewards = [-point.loss for point in outcome.history]
        assert sum(rewards[-4:]) / 4 > 0.05 + sum(rewards[:4]) / 4, rewards
        return
    teacher = methods.base(str(model), MethodSpec(full=True), precision="fp32", num_labels=None)
    loss = mean_loss(again, output, train, teacher.eval() if objective == "distill" else None)
    assert loss == pytest.approx(outcome.selection_loss, rel=1e-4, abs=1e-5)
    assert outcome.selection_loss < 0.97 * outcome.history[0].loss


def share_of_nos(model: Any, folder: Path) -> float:
    """How many of the questions that were trained on a model answers with no."""
    from transformers import AutoTokenizer

    tokenizer, said = AutoTokenizer.from_pretrained(folder), []
    for thing in THINGS[:16]:
        asked = as_prompt(folder, f"is {thing} real?")
        tokens = model.generate(
            input_ids=asked, attention_mask=asked > -1, do_sample=False, max_new_tokens=4
        )
        said.append(tokenizer.decode(tokens[0, asked.shape[1] :], skip_special_tokens=True))
    return sum(answer.startswith("no") for answer in said) / len(said)


@pytest.mark.parametrize(("method", "objective"), QUICK)
def test_training_lowers_the_loss_and_what_is_saved_says_the_same(
    model: Path, tmp_path: Path, method: str, objective: str
) -> None:
    check(model, tmp_path / "out", method, objective)


REST = [
    pair for pair in itertools.product(METHODS, OBJECTIVES) if pair not in QUICK and allowed(*pair)
]


@pytest.mark.methods
@pytest.mark.parametrize(("method", "objective"), REST)
def test_every_other_pair_does_too(
    request: pytest.FixtureRequest, tmp_path: Path, method: str, objective: str
) -> None:
    base = request.getfixturevalue("waverer" if objective == "grpo" else "model")
    check(base, tmp_path / "out", method, objective)


def test_no_method_and_no_objective_is_forgotten() -> None:
    assert {MethodSpec.model_validate(method).name for method in METHODS.values()} == set(
        MethodSpec.model_fields
    )
    named = {ObjectiveSpec.model_validate(objective).name for objective in OBJECTIVES.values()}
    assert named == set(ObjectiveSpec.model_fields)


@pytest.mark.methods
@pytest.mark.parametrize(
    ("method", "objective", "zero_stage", "more"),
    [
        ("full", "dpo", 3, {}),
        ("houlsby", "reward", 3, {}),
        ("bottleneck", "sft", 2, {"contrastive": {}}),
        ("lora", "sft", 3, {}),
        ("lora", "kto", 2, {}),
        ("freeze", "reward", 1, {}),
        ("adalora", "sft", 0, {}),
        ("full", "orpo", 0, {"optimizer": "muon"}),
        (
            "full",
            "sft",
            2,
            {
                "layerwise_lr_decay": 0.5,
                "group_learning_rates": {"lm_head": 1e-3},
                "schedule": "wsd",
            },
        ),
    ],
)
def test_two_workers_learn_together(
    model: Path, tmp_path: Path, method: str, objective: str, zero_stage: int, more: dict[str, Any]
) -> None:
    """Under every ZeRO stage, and without DeepSpeed where that cannot be used."""
    output = tmp_path / "out"
    how = settings(method, objective, deepspeed={"zero_stage": zero_stage}, num_workers=2, **more)
    num_labels = {"num_labels": 1} if objective == "reward" else {}
    workers.attempt(make_job(model, rows(objective), output, how, **num_labels))
    outcome = read_outcome(output)
    assert isinstance(outcome, TrainingOutcome)
    assert outcome.selection_loss is not None
    train = TrainSpec.model_validate({"precision": "fp32", "max_length": 64, **how})
    again = mean_loss(reloaded(model, output, train, num_labels.get("num_labels")), output, train)
    assert again == pytest.approx(outcome.selection_loss, rel=1e-4, abs=1e-5)
    assert outcome.selection_loss < 0.97 * outcome.history[0].loss


@pytest.mark.methods
@pytest.mark.parametrize(("method", "objective"), [("lora", "dpo"), ("adalora", "sft")])
def test_a_run_that_pauses_goes_on_to_the_same_weights(
    model: Path, tmp_path: Path, method: str, objective: str
) -> None:
    """With the reference of its beginning; and where DeepSpeed writes no checkpoint."""
    made = {}
    for name in ("whole", "paused"):
        keeping = CheckpointConfig(folder=str(tmp_path / f"{name}-kept"), job="job", attempt="")
        job = make_job(
            model, rows(objective), tmp_path / name, settings(method, objective), keeping=keeping
        )
        if name == "paused":
            first = job.model_copy(update={"keeping": keeping.model_copy(update={"until": 0.5})})
            assert isinstance(run_with_retries(first, workers.attempt), PauseReport)
        assert isinstance(run_with_retries(job, workers.attempt), TrainingOutcome)
        made[name] = (tmp_path / name / "weights" / "adapter_model.safetensors").read_bytes()
    assert made["paused"] == made["whole"]


@pytest.mark.methods
@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor", "lion", "lion_8bit", "muon"])
def test_every_optimizer_lowers_the_loss(model: Path, tmp_path: Path, optimizer: str) -> None:
    rate = {"muon": 1e-2, "adafactor": 3e-2}.get(optimizer, 3e-3)
    _, outcome = trained(
        model, tmp_path / "out", "full", "sft", optimizer=optimizer, learning_rate=rate
    )
    assert outcome.history[-1].loss < 0.9 * outcome.history[0].loss


@pytest.mark.methods
def test_a_merged_reward_model_rewards(model: Path, tmp_path: Path) -> None:
    """It is merged as the classifier that it is, and scores the answers of online training."""
    _, outcome = trained(model, tmp_path / "reward", "lora", "reward")
    facts = folders.merge(model, tmp_path / "reward" / "weights", tmp_path / "scorer")
    assert facts.architecture == "LlamaForSequenceClassification"
    train = TrainSpec.model_validate(settings("lora", "reward"))
    scorer = methods.base(
        str(tmp_path / "scorer"), train.method, precision="fp32", num_labels=1
    ).eval()
    # merged in bf16
    assert mean_loss(scorer, tmp_path / "reward", train) == pytest.approx(
        outcome.selection_loss, rel=0.2, abs=0.02
    )
    grpo = {
        "rewards": ["reward_model", {"name": "length", "target_tokens": 4}],
        "num_generations": 4,
    }
    how = {
        "objective": {"grpo": {**grpo, "max_completion_length": 4}},
        "max_steps": 2,
        "global_batch_size": 8,
    }
    rewarded = train_here(
        model, rows("sft"), tmp_path / "out", how, scorer=str(tmp_path / "scorer")
    )
    assert rewarded.num_steps == 2
    assert rewarded.selection_loss is not None


def test_learned_prompts_become_tokens_of_the_model(model: Path, tmp_path: Path) -> None:
    """The merged model, given its chat template's prompt, answers as the model with the adapter
    does."""
    import torch
    from transformers import AutoModelForCausalLM

    train, _ = trained(model, tmp_path / "out", "prompt_tuning", "sft")
    folders.merge(model, tmp_path / "out" / "weights", tmp_path / "merged")
    texts = {folder: as_prompt(folder, "is baran real?") for folder in (model, tmp_path / "merged")}
    assert texts[tmp_path / "merged"].shape[1] == texts[model].shape[1] + 16
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32").eval()
    adapted = reloaded(model, tmp_path / "out", train, None)
    with torch.no_grad():
        ours = merged(input_ids=texts[tmp_path / "merged"]).logits[0, -1]
        theirs = adapted(
            input_ids=texts[model], attention_mask=torch.ones_like(texts[model])
        ).logits[0, -1]
    assert (ours[len(theirs) :] == 0).all()
    torch.testing.assert_close(ours[: len(theirs)], theirs, atol=0.05, rtol=0.05)  # merged in bf16


@pytest.mark.parametrize("method", ["pissa", "qlora", "adalora", "bottleneck"])
def test_a_merged_adapter_answers_as_the_adapter_does(
    model: Path, tmp_path: Path, method: str
) -> None:
    from transformers import AutoModelForCausalLM

    train, outcome = trained(model, tmp_path / "out", method, "sft")
    folders.merge(model, tmp_path / "out" / "weights", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32").eval()
    # qlora's adapter is added to the weights before they were quantized
    assert mean_loss(merged, tmp_path / "out", train) == pytest.approx(
        outcome.selection_loss, rel=0.1, abs=0.02
    )


@pytest.mark.parametrize("method", ["lora", "bottleneck", "pfeiffer", "houlsby"])
def test_as_many_weights_are_trained_as_the_plan_counts(model: Path, method: str) -> None:
    train = TrainSpec.model_validate(settings(method, "sft"))
    plain = Kernels("sdpa", (), {})
    learning = methods.load(
        str(model), train, plain, precision="fp32", num_labels=None, num_steps=4
    )
    count = sum(weight.numel() for weight in learning.parameters() if weight.requires_grad)
    shape = model_shape.from_folder(model)
    assert shape is not None
    assert count == trained_parameters(train, shape)


def test_a_bottleneck_behind_a_layers_part_is_no_part_of_a_model(
    model: Path, tmp_path: Path
) -> None:
    trained(model, tmp_path / "out", "pfeiffer", "sft", max_steps=2)
    with pytest.raises(UsageError, match="cannot be added"):
        folders.merge(model, tmp_path / "out" / "weights", tmp_path / "merged")


@pytest.mark.methods
def test_what_is_protected_is_forgotten_less(model: Path, tmp_path: Path) -> None:
    """Elastic weight consolidation: after a second task, the loss on the first is lower with it
    than without."""
    from assay.engines.data.tokenize import write_rows

    first, second = (
        rows("sft"),
        [Row((chat(f"where is {thing} now?", "no idea"),)) for thing in THINGS[:16]],
    )
    write_rows(model, first, tmp_path / "first.safetensors", max_length=64)
    how = {"method": "full", "learning_rate": 3e-3, "max_steps": 80, "global_batch_size": 8}
    train_here(model, first, tmp_path / "one", how)
    folders.copy_tokenizer(model, tmp_path / "one" / "weights")
    start, train = tmp_path / "one" / "weights", TrainSpec.model_validate(how)
    write_rows(model, second, tmp_path / "one.safetensors", max_length=64)
    unlearned = mean_loss(reloaded(start, tmp_path / "one", train, None), tmp_path / "one", train)
    learned, forgotten = {}, {}
    for name, more in (("without", {}), ("with", {"ewc": {"data": "first.jsonl"}})):
        ewc_file = {"ewc_file": str(tmp_path / "first.safetensors")} if more else {}
        again = {**how, "learning_rate": 1e-3, "max_steps": 40, **more}
        learned[name] = (
            train_here(start, second, tmp_path / name, again, **ewc_file).selection_loss or 0
        )
        (tmp_path / f"{name}.safetensors").write_bytes(
            (tmp_path / "first.safetensors").read_bytes()
        )
        forgotten[name] = mean_loss(
            reloaded(start, tmp_path / name, train, None), tmp_path / name, train
        )
    assert forgotten["with"] < 0.4 * forgotten["without"]
    assert learned["without"] < learned["with"] < 0.6 * unlearned  # it has a price


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"method": "qlora", "deepspeed": {"zero_stage": 3}}, "which ZeRO-3 cannot shard"),
        ({"method": "adalora", "deepspeed": {"zero_stage": 3}}, "whole weights and gradients"),
        ({"method": {"lora": {"init": "pissa", "use_dora": True}}}, "use_dora"),
        ({"method": {"qlora": {"init": "olora"}}}, "which qlora keeps quantized"),
        ({"method": {"lora": {"init": "olora"}}, "objective": "reward"}, "would be lost"),
        ({"method": "prompt_tuning", "objective": "dpo"}, "do not go together"),
        ({"objective": "dpo", "contrastive": {}}, "has another loss"),
        ({"objective": {"classify": {"head": "linear"}}, "contrastive": {}}, "has another loss"),
        (
            {"objective": {"grpo": {"rewards": ["contains"]}}, "method": "adalora"},
            "method: adalora and objective: grpo",
        ),
        (
            {"objective": {"grpo": {"rewards": ["contains"]}}, "neftune_alpha": 5},
            "neftune_alpha and objective: grpo",
        ),
        ({"method": "p_tuning", "objective": "reward"}, "new layer"),
        ({"objective": "dpo", "label_smoothing": 0.1}, "has another loss"),
        ({"optimizer": "lion", "deepspeed": {"offload_optimizer": True}}, "computes AdamW"),
        (
            {"objective": {"grpo": {"rewards": ["contains"]}}, "global_batch_size": 12},
            "a multiple of it",
        ),
        (
            {"objective": {"grpo": {"rewards": ["regex"]}}},
            "`pattern` and the reward `regex` go together",
        ),
        (
            {"deepspeed": {"raw": {"bf16": {"enabled": True}}}},
            "raw sets bf16.enabled, which is said by train.precision",
        ),
        ({"deepspeed": {"offload_param": "nvme", "zero_stage": 3}}, "nvme_path"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_cannot_work_together_is_refused_with_the_reason(
    train: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainSpec.model_validate(train)
