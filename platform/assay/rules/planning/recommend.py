"""First guesses for a training run, from the model's size, the method and the number of examples.

They are rules of thumb, each with where it is from; a sweep or two knows better.
"""

import math
from typing import Literal, NamedTuple

Template = Literal["lora", "qlora", "full", "dpo", "classify"]

# Weights beyond which QLoRA's and Alpaca's authors halved the learning rate.
LARGE = 13e9

# Weights below which a higher rate was better here: of 1e-3, 3e-3 and 1e-2 the sweep of
# specs/country-facts.yaml chose 3e-3 for LoRA on 135 million.
SMALL = 1e9


# In one forward pass without a GPU, whose work does not get quicker with more: SmolLM2-135M keeps
# 0.8 MB for each until its backward pass.
CPU_TOKENS = 2560


class Advice(NamedTuple):
    """One setting and why."""

    value: float
    reason: str


class Recommendation(NamedTuple):
    """A first guess at a training run."""

    learning_rate: Advice
    global_batch_size: Advice
    num_epochs: Advice
    warmup_ratio: Advice


def recommend(
    template: Template, *, num_parameters: float | None, num_examples: int | None
) -> Recommendation:
    """The guess; what is unknown is taken for a model of some billions and some thousands of
    examples."""
    size, examples = num_parameters or 7e9, num_examples or 5000
    batch = _batch(template, examples)
    epochs = _epochs(template, examples)
    steps = math.ceil(epochs.value * examples / batch.value)
    return Recommendation(_learning_rate(template, size), batch, epochs, _warmup(template, steps))


def micro_batch(batch: int, tokens: int) -> Advice | None:
    """How many examples of so many tokens (long ones, of the data) a worker without a GPU takes at
    a time; None where that is the whole batch."""
    fitting = max(1, CPU_TOKENS // max(1, tokens))
    if fitting >= batch:
        return None
    divisor = next(size for size in range(fitting, 0, -1) if batch % size == 0)
    return Advice(
        divisor,
        f"without a GPU: long examples have some {tokens:,} tokens; the rest is accumulated",
    )


def _learning_rate(template: Template, size: float) -> Advice:
    """LoRA takes ten times the rate of full fine-tuning: Schulman et al., LoRA Without Regret,
    2025. Full: 2e-5 up to 7 billion, 1e-5 above (Taori et al., Alpaca, 2023). LoRA: 2e-4 up to 13
    billion, 1e-4 above (Dettmers et al., QLoRA, 2023, table 9). DPO with LoRA: 5e-6 (Tunstall et
    al., the Alignment Handbook, 2023)."""
    billions = f"{size / 1e9:.2g}B"
    if template == "dpo":
        return Advice(
            5e-6, "preferences want small steps: the Alignment Handbook's rate for DPO with LoRA"
        )
    if template == "full":
        if size < SMALL:
            return Advice(1e-4, f"a tenth of LoRA's for {billions}")
        return Advice(
            2e-5 if size <= LARGE else 1e-5, f"Alpaca's for a model like this ({billions})"
        )
    if size < SMALL:
        return Advice(1e-3, f"small models ({billions}) take more than the 2e-4 of large ones")
    return Advice(
        2e-4 if size <= LARGE else 1e-4,
        f"QLoRA's for a model like this ({billions}); ten times full's",
    )


def _batch(template: Template, examples: int) -> Advice:
    """Some 50 optimizer steps an epoch, at least 8 examples in each; 64 are DPO's (Rafailov et al.,
    2023), and 16 or 32 were enough for classifiers (Devlin et al., BERT, 2019) and for QLoRA."""
    most = {"dpo": 64, "full": 128}.get(template, 32)
    wanted = 2 ** round(math.log2(max(8, examples / 50)))
    if wanted >= most:
        return Advice(most, "as many as the authors of the method took")
    return Advice(
        max(8, wanted),
        f"some {examples // max(8, wanted)} steps an epoch from {examples:,} examples",
    )


def _epochs(template: Template, examples: int) -> Advice:
    """3 for Alpaca's 52,000 examples and for classifiers (BERT: 2 to 4); more where there are few
    (Zhou et al., LIMA, 2023, took 15 for 1,000); 1 for preferences, which overfit soon (the
    Alignment Handbook)."""
    if template == "dpo":
        return Advice(1, "preferences are soon learned by heart")
    if examples < 1000:
        return Advice(5, f"{examples:,} examples are few")
    if examples < 100_000:
        return Advice(3, "usual for thousands of examples")
    return Advice(1, "there are many examples")


def _warmup(template: Template, steps: int) -> Advice:
    """3 % (Alpaca, QLoRA); 10 % for DPO (the Alignment Handbook), and where 3 % would be a step or
    two."""
    if template == "dpo" or steps < 300:
        return Advice(
            0.10,
            "the handbook's for DPO"
            if template == "dpo"
            else f"of {steps} steps, few steps in all",
        )
    return Advice(0.03, "as Alpaca's and QLoRA's authors")
