"""The losses are those of TRL's own trainers, on the same model, reference and data."""

from pathlib import Path
from typing import Any

import pytest

from assay.engines.data.chats.tokens import Row
from assay.engines.data.tokenize import write_rows
from assay.engines.training.batches import PackedSplit, collate, collate_padded, take_extras
from assay.engines.training.objectives import Frozen, objective_of, text_log_probs
from assay.spec.train import TrainSpec
from tiny import THINGS

QUESTIONS = [f"is {thing} real?" for thing in THINGS[:6]]
GOOD = ["yes", "yes, it is", "yes", "of course", "it is", "yes"]
BAD = ["no", "not at all", "hardly", "no", "nothing of the kind", "n"]


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def said(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


PAIRS = [
    {"prompt": asked(question), "chosen": said(good), "rejected": said(bad)}
    for question, good, bad in zip(QUESTIONS, GOOD, BAD, strict=True)
]


def shaken(tiny_model: Path, seed: int) -> Any:
    """The tiny model with weights that are large enough to have opinions."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    model.config.use_cache = False
    return model.eval()


def ours(
    train: dict[str, Any], rows: list[Row], tiny_model: Path, tmp_path: Path, *models: Any
) -> float:
    """The mean loss of the first model, with the second as the reference."""
    import torch

    spec = TrainSpec.model_validate(train)
    objective = objective_of(spec)
    write_rows(tiny_model, rows, tmp_path / "split.safetensors", max_length=64)
    split = PackedSplit.load(str(tmp_path / "split.safetensors"))
    units = [split[index] for index in range(len(split))]
    frozen = Frozen()
    with torch.no_grad():
        if objective.needs_reference:
            batch = collate(units)
            frozen.reference = text_log_probs(models[1], batch, take_extras(batch)).view(-1, 2)
        losses = objective.loss(
            models[0], (collate_padded if objective.scores else collate)(units), spec, frozen
        )
    return float(losses.totals.sum() / losses.counts.sum())


def theirs(trainer: Any) -> float:
    """The loss of a TRL trainer on its one batch."""
    import torch

    (batch,) = list(trainer.get_train_dataloader())
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def arguments(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "trl"),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "per_device_train_batch_size": len(PAIRS),
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


@pytest.mark.methods
@pytest.mark.parametrize("dpo", [{"beta": 0.3}, {"loss": "ipo"}, {"loss": "hinge", "beta": 0.5}])
def test_dpo_is_trls(tiny_model: Path, tmp_path: Path, dpo: dict[str, Any]) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model, reference = shaken(tiny_model, 1), shaken(tiny_model, 2)
    kind = dpo.get("loss", "sigmoid")
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(**arguments(tmp_path), beta=dpo.get("beta", 0.1), loss_type=[kind]),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    rows = [
        Row(((*one["prompt"], *one["chosen"]), (*one["prompt"], *one["rejected"]))) for one in PAIRS
    ]
    expected = theirs(trainer)
    assert ours(
        {"objective": {"dpo": dpo}}, rows, tiny_model, tmp_path, model, reference
    ) == pytest.approx(expected, rel=1e-4)


@pytest.mark.methods
def test_kto_is_trls(tiny_model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    model, reference = shaken(tiny_model, 1), shaken(tiny_model, 2)
    answers = [GOOD[i] if i % 3 else BAD[i] for i in range(len(QUESTIONS))]
    labels = [bool(i % 3) for i in range(len(QUESTIONS))]
    data = [
        {"prompt": asked(question), "completion": said(answer), "label": label}
        for question, answer, label in zip(QUESTIONS, answers, labels, strict=True)
    ]
    trainer = KTOTrainer(
        model=model,
        ref_model=reference,
        args=KTOConfig(
            **arguments(tmp_path),
            beta=0.3,
            desirable_weight=1.5,
            train_sampling_strategy="sequential",
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    others = [answers[-1], *answers[:-1]]  # TRL takes the answer before
    rows = [
        Row(((*asked(question), *said(answer)), (*asked(question), *said(other))), label=int(label))
        for question, answer, other, label in zip(QUESTIONS, answers, others, labels, strict=True)
    ]
    kto = {"objective": {"kto": {"beta": 0.3, "desirable_weight": 1.5}}}
    assert ours(kto, rows, tiny_model, tmp_path, model, reference) == pytest.approx(
        theirs(trainer), rel=1e-4
    )


@pytest.mark.methods
def test_the_reward_models_loss_is_trls(tiny_model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl import RewardConfig, RewardTrainer

    set_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, dtype="float32"
    ).eval()
    with_large_head = model.score.weight.detach() * 30
    model.score.weight.data = with_large_head
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**arguments(tmp_path), center_rewards_coefficient=0.1),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    rows = [
        Row(((*one["prompt"], *one["chosen"]), (*one["prompt"], *one["rejected"]))) for one in PAIRS
    ]
    expected = theirs(trainer)
    assert ours(
        {"objective": {"reward": {"center": 0.1}}}, rows, tiny_model, tmp_path, model
    ) == pytest.approx(expected, rel=1e-4)


@pytest.mark.methods
def test_orpos_odds_ratio_is_trls(tiny_model: Path, tmp_path: Path) -> None:
    """TRL adds it to the cross entropy of the whole chat; here it is that of the answer."""
    import torch
    from trl.experimental.orpo import ORPOTrainer

    model = shaken(tiny_model, 1)
    rows = [
        Row(((*one["prompt"], *one["chosen"]), (*one["prompt"], *one["rejected"]))) for one in PAIRS
    ]
    write_rows(tiny_model, rows, tmp_path / "s.safetensors", max_length=64)
    split = PackedSplit.load(str(tmp_path / "s.safetensors"))
    batch = collate([split[index] for index in range(len(split))])
    extras = take_extras(batch)
    with torch.no_grad():
        means = (text_log_probs(model, batch, extras) / extras["sizes"]).view(-1, 2)
    bare: Any = ORPOTrainer.__new__(ORPOTrainer)
    bare.beta, bare.accelerator = 0.2, type("Accelerator", (), {"device": "cpu"})
    odds, *_ = bare.odds_ratio_loss(means[:, 0], means[:, 1])
    expected = float((-means[:, 0] - odds).mean())
    assert ours(
        {"objective": {"orpo": {"beta": 0.2}}}, rows, tiny_model, tmp_path, model
    ) == pytest.approx(expected, rel=1e-4)


def test_distilling_from_oneself_costs_nothing(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    model = shaken(tiny_model, 1)
    train = TrainSpec.model_validate(
        {"objective": {"distill": {"teacher": "t", "teacher_weight": 1.0}}}
    )
    write_rows(
        tiny_model, [Row(((*asked("a"), *said("b")),))], tmp_path / "s.safetensors", max_length=64
    )
    batch = collate([PackedSplit.load(str(tmp_path / "s.safetensors"))[0]])
    with torch.no_grad():
        losses = objective_of(train).loss(model, dict(batch), train, Frozen(teacher=model))
        other = objective_of(train).loss(
            model, dict(batch), train, Frozen(teacher=shaken(tiny_model, 2))
        )
    assert float(losses.totals.sum()) == pytest.approx(0, abs=1e-5)
    assert float(other.totals.sum()) > 0.01
