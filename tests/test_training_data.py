"""What training sees: which tokens bear loss, batches without padding, and DeepSpeed's
configuration."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from assay.engines.data.chats.tokens import Row, TokenizedExample, load_tokenizer, tokenize
from assay.engines.data.fitting import fit
from assay.engines.data.tokenize import write_rows, write_split
from assay.engines.training.batches import (
    PackedSplit,
    Unit,
    collate,
    collate_padded,
    rounded,
    rounded_up,
)
from assay.engines.training.objectives import Frozen, completion_loss
from assay.engines.training.split_losses import mean_and_error
from assay.errors import UsageError
from assay.spec.train import TrainSpec

WITH_NEWLINES = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor "
    "%}"
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


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32").eval()
    model.config.use_cache = False
    return model


@pytest.fixture
def split(tiny_model: Path, tmp_path: Path) -> PackedSplit:
    write_split(tiny_model, CHATS, tmp_path / "train.safetensors", max_length=64)
    return PackedSplit.load(str(tmp_path / "train.safetensors"))


@pytest.mark.parametrize("template", [None, WITH_NEWLINES])
def test_the_assistants_turns_bear_loss_up_to_their_end_token(
    tokenizer: Any, template: str | None
) -> None:
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


def test_a_split_keeps_what_fits_and_counts_what_does_not(
    tiny_model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    lengths = [len(tokenize(tokenizer, one).tokens) for one in CHATS]
    longest = max(lengths)
    counts = write_split(tiny_model, CHATS, tmp_path / "train.safetensors", max_length=longest - 1)
    split = PackedSplit.load(str(tmp_path / "train.safetensors"))
    assert (counts.num_examples, counts.num_too_long, len(split)) == (2, 1, 2)
    assert counts.num_tokens == sum(lengths) - longest
    kept = [one for one, length in zip(CHATS, lengths, strict=True) if length < longest]
    for index, one in enumerate(kept):
        ((tokens, mask),) = split[index].texts
        assert (tokens.tolist(), mask.int().tolist()) == tokenize(tokenizer, one)


def texts_of(split: PackedSplit) -> list[Any]:
    return [text for index in range(len(split)) for text in split[index].texts]


def test_packed_examples_do_not_see_each_other(model: Any, split: PackedSplit) -> None:
    """The logits of a packed batch are those of each example alone."""
    import torch

    batch = collate([split[i] for i in range(len(split))])
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "logits_to_keep")}
        packed = model(**inputs).logits[0]
        alone = []
        for tokens, mask in texts_of(split):
            logits = model(input_ids=tokens.unsqueeze(0)).logits[0]
            alone.append(logits[:-1][mask[1:]])  # those that foretell a token that bears loss
    torch.testing.assert_close(packed, torch.cat(alone))
    targets = torch.cat([tokens[mask] for tokens, mask in texts_of(split)])
    assert batch["targets"].tolist() == batch["labels"][0, 1:].tolist() == targets.tolist()
    assert batch["labels"][0, 0] == -100  # Trainer counts labels from the second on


@pytest.mark.parametrize("gather", [collate, collate_padded])
def test_the_loss_is_that_of_a_padded_batch(model: Any, split: PackedSplit, gather: Any) -> None:
    import torch

    texts = texts_of(split)
    pad = torch.nn.utils.rnn.pad_sequence
    tokens = pad([text[0] for text in texts], batch_first=True)
    attention = pad([torch.ones_like(text[0]) for text in texts], batch_first=True)
    wanted = pad(
        [text[0].masked_fill(~text[1], -100) for text in texts],
        batch_first=True,
        padding_value=-100,
    )
    with torch.no_grad():
        losses = completion_loss(
            model, gather([split[i] for i in range(len(split))]), TrainSpec(), Frozen()
        )
        padded = model(input_ids=tokens, attention_mask=attention, labels=wanted).loss
    torch.testing.assert_close(losses.totals.sum() / losses.counts.sum(), padded)
    assert losses.counts.tolist() == [int(mask.sum()) for _, mask in texts]


def test_a_batch_that_is_rounded_up_has_the_same_loss_and_gradients(
    model: Any, split: PackedSplit
) -> None:
    import torch

    units = [split[i] for i in range(len(split))]
    weight = model.get_input_embeddings().weight
    found = []
    for batch in (collate(units), rounded_up(collate(units))):
        found.append((batch["input_ids"].shape[1], len(batch["logits_to_keep"])))
        losses = completion_loss(model, batch, TrainSpec(), Frozen())
        (gradient,) = torch.autograd.grad(losses.totals.sum(), [weight])
        found.append((losses.totals, gradient))
    sizes, (totals, gradient), more, (same_totals, same_gradient) = found
    assert more == tuple(map(rounded, sizes)) != sizes
    torch.testing.assert_close(same_totals, totals)
    torch.testing.assert_close(same_gradient, gradient)


def test_sizes_that_are_rounded_up_are_few_and_little_larger() -> None:
    sizes = {rounded(size) for size in range(1, 4097)}
    assert sizes == {rounded(size) for size in sizes}
    assert len(sizes) < 60
    assert all(rounded(size) - size < max(16, size / 8) for size in range(1, 4097))
    padded = collate_padded([Unit(0, ((torch_tokens(3), torch_tokens(3).bool()),), 0)])
    assert rounded_up(padded) is padded


def torch_tokens(count: int) -> Any:
    import torch

    return torch.arange(1, count + 1)


def test_each_example_has_its_own_loss(model: Any, split: PackedSplit) -> None:
    import torch

    with torch.no_grad():
        together = completion_loss(
            model, collate([split[i] for i in range(len(split))]), TrainSpec(), Frozen()
        )
        alone = [
            completion_loss(model, collate([split[i]]), TrainSpec(), Frozen())
            for i in range(len(split))
        ]
    torch.testing.assert_close(together.totals, torch.cat([one.totals for one in alone]))


def test_a_first_token_bears_no_loss() -> None:
    """Nothing stands before it that could foretell it, least of all the example before."""
    import torch

    every = torch.tensor([True, True])
    units = [
        Unit(i, ((torch.tensor(tokens), every),), 0) for i, tokens in enumerate(([5, 6], [7, 8]))
    ]
    batch = collate(units)
    assert batch["labels"].tolist() == [[-100, 6, 8]]
    assert batch["logits_to_keep"].tolist() == [0, 2]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1]]
    assert batch["sizes"].tolist() == [1, 1]
    padded = collate_padded(units)
    assert (padded["targets"].tolist(), padded["sizes"].tolist()) == ([6, 8], [1, 1])


def test_pairs_stay_together_and_only_their_last_answers_bear_loss(
    tiny_model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    better, worse = chat("a", "b", "c", "yes"), chat("a", "b", "c", "no")
    rows = [
        Row((better, worse), label=1),
        Row((chat("a", "x" * 99), worse)),
        Row((chat("d", "e"), chat("d", "f"))),
    ]
    counts = write_rows(tiny_model, rows, tmp_path / "pairs.safetensors", max_length=64)
    assert (counts.num_examples, counts.num_too_long) == (2, 1)
    split = PackedSplit.load(str(tmp_path / "pairs.safetensors"))
    assert [tokenizer.decode(tokens[mask]) for tokens, mask in split[0].texts] == [
        "yes<|end|>",
        "no<|end|>",
    ]
    assert (len(split), split[0].label, split[1].label) == (2, 1, 0)
    counted = collate([split[0], split[1]], count_units=True)
    assert int((counted["labels"][0, 1:] != -100).sum()) == 2  # what the mean is taken over


def test_plain_text_is_cut_into_pieces_that_bear_loss(
    tiny_model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    counts = write_rows(
        tiny_model, [Row(text="abcdefghij")], tmp_path / "text.safetensors", max_length=8
    )
    split = PackedSplit.load(str(tmp_path / "text.safetensors"))
    assert [tokenizer.decode(tokens) for tokens, _ in texts_of(split)] == ["abcdefgh", "ij<|end|>"]
    assert (counts.num_examples, counts.num_tokens, counts.num_completion_tokens) == (2, 11, 11)


def test_the_mean_loss_is_per_token_and_its_error_over_examples() -> None:
    assert mean_and_error([(2.0, 1), (4.0, 3)]) == (1.5, 0.25)
    one_token_each = [0.5, 1.0, 4.0, 2.5]
    mean, error = mean_and_error([(loss, 1) for loss in one_token_each])
    assert mean == statistics.mean(one_token_each)
    assert error == pytest.approx(statistics.stdev(one_token_each) / math.sqrt(len(one_token_each)))
    assert mean_and_error([(3.0, 2)]) == (1.5, None)
    assert mean_and_error([]) == (None, None)
    diverged, error = mean_and_error([(math.nan, 1), (1.0, 1)])
    assert diverged is not None
    assert math.isfinite(diverged)  # JSON has no NaN
    assert diverged > 1e300
    assert error is None


def test_what_is_too_long_is_left_out_shortened_or_split(tokenizer: Any) -> None:
    turns = chat("a" * 40, "first", "b" * 60, "second")
    whole = len(tokenize(tokenizer, turns).tokens)
    exchange = [len(tokenize(tokenizer, part).tokens) for part in (turns[:2], turns[2:])]
    limit = max(exchange) + 2
    assert limit < whole
    assert fit(tokenizer, Row((turns,)), limit, "drop") == ([], [], False)

    shortened = fit(tokenizer, Row((turns,)), limit, "truncate")
    (text,) = shortened.units[0]
    assert limit - 2 <= len(text.tokens) <= limit
    assert learned(tokenizer, text) == learned(tokenizer, tokenize(tokenizer, turns))
    (cut,) = shortened.chats[0]
    assert [turn["content"] for turn in cut] == ["a" * 40, "first", cut[2]["content"], "second"]
    assert turns[2]["content"].startswith(cut[2]["content"])

    halves = fit(tokenizer, Row((turns,)), limit, "split")
    assert [unit[0].tokens for unit in halves.units] == [
        tokenize(tokenizer, part).tokens for part in (turns[:2], turns[2:])
    ]
    alone = fit(tokenizer, Row((turns[2:],)), exchange[1] - 1, "split")
    assert alone == ([], [], False)


def test_an_answer_alone_too_long_is_cut_and_has_no_end(tokenizer: Any) -> None:
    turns = chat("q", "a" * 80)
    (text,) = fit(tokenizer, Row((turns,)), 30, "truncate").units[0]
    assert len(text.tokens) == 30
    assert learned(tokenizer, text).strip("a") == ""
    pair = fit(tokenizer, Row((turns, chat("q", "short"))), 30, "truncate")
    assert [len(one.tokens) <= 30 for one in pair.units[0]] == [True, True]
    assert fit(tokenizer, Row((turns, chat("q", "short"))), 30, "split").units == []


def learned(tokenizer: Any, text: TokenizedExample) -> str:
    """What bears loss."""
    return str(
        tokenizer.decode(
            [token for token, bit in zip(text.tokens, text.loss_mask, strict=True) if bit]
        )
    )
