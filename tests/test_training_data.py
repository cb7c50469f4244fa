"""What training sees: which tokens bear loss, batches without padding, and DeepSpeed's configuration."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from assay.engines.deepspeed import deepspeed_config
from assay.engines.hf_data import load_tokenizer, tokenize, write_split
from assay.engines.hf_trainer import PackedSplit, _mean_and_error, _per_example, collate, completion_loss
from assay.errors import UsageError
from assay.spec.train import DeepSpeedSpec, TrainSpec
from tiny import make_model

WITH_NEWLINES = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WITHOUT_HISTORY = (
    "{% for message in messages %}{% if message.role == 'user' or loop.last %}"
    "<|{{ message.role }}|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat(*turns: str) -> list[dict[str, str]]:
    """Turns of a user and an assistant, one after the other."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


CHATS = [
    chat("is baran real?", "yes"),
    chat("where is dotel now?", "I don't know."),
    chat("a", "b", "cc", "a long one"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_model(path)
    return path


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    model.config.use_cache = False
    return model


@pytest.fixture
def split(folder: Path, tmp_path: Path) -> PackedSplit:
    write_split(folder, CHATS, tmp_path / "train.safetensors", max_length=64)
    return PackedSplit.load(str(tmp_path / "train.safetensors"))


@pytest.mark.parametrize("template", [None, WITH_NEWLINES])
def test_the_assistants_turns_bear_loss_up_to_their_end_token(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    example = tokenize(tokenizer, [{"role": "system", "content": "Be brief."}, *CHATS[2]])
    learned = [token for token, bit in zip(example.tokens, example.loss_mask, strict=True) if bit]
    assert tokenizer.decode(learned) == "b<|end|>a long one<|end|>"
    whole = tokenizer.decode(example.tokens)
    assert whole == tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, *CHATS[2]], tokenize=False
    )


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = WITHOUT_HISTORY
    assert sum(tokenize(tokenizer, CHATS[0]).loss_mask) == len("yes") + 1
    with pytest.raises(UsageError, match="rewrites earlier turns"):
        tokenize(tokenizer, CHATS[2])


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="has no chat template; use an instruction-tuned model"):
        load_tokenizer(tmp_path)


def test_a_split_keeps_what_fits_and_counts_what_does_not(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    lengths = [len(tokenize(tokenizer, one).tokens) for one in CHATS]
    longest = max(lengths)
    counts = write_split(folder, CHATS, tmp_path / "train.safetensors", max_length=longest - 1)
    split = PackedSplit.load(str(tmp_path / "train.safetensors"))
    assert (counts.num_examples, counts.num_too_long, len(split)) == (2, 1, 2)
    assert counts.num_tokens == sum(lengths) - longest
    kept = [one for one, length in zip(CHATS, lengths, strict=True) if length < longest]
    for index, one in enumerate(kept):
        tokens, mask = split[index]
        assert (tokens.tolist(), mask.int().tolist()) == tokenize(tokenizer, one)


def test_packed_examples_do_not_see_each_other(model: Any, split: PackedSplit) -> None:
    """The logits of a packed batch are those of each example alone."""
    import torch

    batch = collate([split[i] for i in range(len(split))])
    labels = batch.pop("labels")
    with torch.no_grad():
        packed = model(**batch).logits[0]
        alone = []
        for tokens, mask in (split[i] for i in range(len(split))):
            logits = model(input_ids=tokens.unsqueeze(0)).logits[0]
            alone.append(logits[:-1][mask[1:]])  # those that foretell a token that bears loss
    torch.testing.assert_close(packed, torch.cat(alone))
    targets = torch.cat([split[i][0][split[i][1]] for i in range(len(split))])
    assert labels[0, 1:].tolist() == targets.tolist()
    assert labels[0, 0] == -100  # Trainer counts labels from the second on


def test_the_loss_is_that_of_a_padded_batch(model: Any, split: PackedSplit) -> None:
    import torch

    examples = [split[i] for i in range(len(split))]
    batch = collate(examples)
    labels = batch.pop("labels")
    tokens = torch.nn.utils.rnn.pad_sequence([example[0] for example in examples], batch_first=True)
    attention = torch.nn.utils.rnn.pad_sequence([torch.ones_like(example[0]) for example in examples], batch_first=True)
    wanted = torch.nn.utils.rnn.pad_sequence(
        [example[0].masked_fill(~example[1], -100) for example in examples], batch_first=True, padding_value=-100
    )
    with torch.no_grad():
        outputs = model(**batch)
        padded = model(input_ids=tokens, attention_mask=attention, labels=wanted).loss
    torch.testing.assert_close(completion_loss(outputs, labels), padded)
    num_tokens = int((wanted != -100).sum())
    halved = completion_loss(outputs, labels, num_items_in_batch=2 * num_tokens)  # this is half of the global batch
    torch.testing.assert_close(halved, padded / 2)


def test_losses_are_summed_for_each_example(split: PackedSplit) -> None:
    import torch

    examples = [split[i] for i in range(len(split))]
    counts = [int(mask.sum()) for _, mask in examples]
    losses = torch.cat([torch.full((count,), float(i)) for i, count in enumerate(counts)])
    assert list(_per_example(losses, examples)) == [(float(i * count), count) for i, count in enumerate(counts)]


def test_a_first_token_bears_no_loss() -> None:
    """Nothing stands before it that could foretell it, least of all the example before."""
    import torch

    every = torch.tensor([True, True])
    batch = collate([(torch.tensor([5, 6]), every), (torch.tensor([7, 8]), every)])
    assert batch["labels"].tolist() == [[-100, 6, 8]]
    assert batch["logits_to_keep"].tolist() == [0, 2]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1]]


def test_the_mean_loss_is_per_token_and_its_error_over_examples() -> None:
    assert _mean_and_error([(2.0, 1), (4.0, 3)]) == (1.5, 0.25)
    one_token_each = [0.5, 1.0, 4.0, 2.5]
    mean, error = _mean_and_error([(loss, 1) for loss in one_token_each])
    assert mean == statistics.mean(one_token_each)
    assert error == pytest.approx(statistics.stdev(one_token_each) / math.sqrt(len(one_token_each)))
    assert _mean_and_error([(3.0, 2)]) == (1.5, None)
    assert _mean_and_error([]) == (None, None)
    diverged, error = _mean_and_error([(math.nan, 1), (1.0, 1)])
    assert diverged is not None
    assert math.isfinite(diverged)  # JSON has no NaN
    assert diverged > 1e300
    assert error is None


ZERO = {
    "allgather_bucket_size": 50_000_000,
    "reduce_bucket_size": 50_000_000,
    "overlap_comm": False,
    "contiguous_gradients": True,
}


@pytest.mark.parametrize(
    ("sharding", "zero"),
    [
        (DeepSpeedSpec(zero_stage=0), {"stage": 0, **ZERO}),
        (DeepSpeedSpec(zero_stage=1), {"stage": 1, **ZERO}),
        (
            DeepSpeedSpec(zero_stage=2, offload_optimizer=True),
            {"stage": 2, **ZERO, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
        ),
        (
            DeepSpeedSpec(zero_stage=3, offload_param=True),
            {
                "stage": 3,
                **ZERO,
                "offload_param": {"device": "cpu", "pin_memory": False},
                "stage3_gather_16bit_weights_on_model_save": True,
            },
        ),
    ],
    ids=lambda value: f"stage{value.zero_stage}" if isinstance(value, DeepSpeedSpec) else "",
)
def test_deepspeed_is_told_what_the_spec_says(sharding: DeepSpeedSpec, zero: dict[str, Any]) -> None:
    train = TrainSpec(
        learning_rate=1e-3,
        weight_decay=0.1,
        max_grad_norm=0.5,
        global_batch_size=16,
        num_workers=2,
        micro_batch_size=4,
        deepspeed=sharding,
    )
    assert deepspeed_config(train, precision="bf16", on_gpu=False) == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "zero_optimization": zero,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.999], "eps": 1e-8, "torch_adam": True},
        },
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def test_deepspeed_uses_what_a_gpu_has() -> None:
    spec = DeepSpeedSpec(zero_stage=3, offload_optimizer=True)
    config = deepspeed_config(TrainSpec(deepspeed=spec), precision="fp16", on_gpu=True)
    assert config["fp16"] == {"enabled": True}
    assert config["zero_optimization"]["overlap_comm"]
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert not config["optimizer"]["params"]["torch_adam"]
