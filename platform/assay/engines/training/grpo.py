"""Online reinforcement learning by TRL's GRPO trainer: it draws answers, rewards them, and learns
from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.engines.data.chats.templates import split_reasoning
from assay.engines.training.job import TrainingJob
from assay.engines.training.rewards import reward
from assay.loader.named import chat_templates
from assay.spec.objective import GrpoSpec, RewardFunctionSpec


def read_prompts(file: str) -> list[dict[str, Any]]:
    """What `hf_data.write_prompts` wrote: `prompt` messages and the data's `answer`."""
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def make_trainer(
    job: TrainingJob,
    grpo: GrpoSpec,
    *,
    model: Any,
    arguments: dict[str, Any],
    make_optimizer: Callable[[Any], Any],
    callbacks: list[Any],
) -> Any:
    """A trainer over the prompts of the job's file. `arguments` are transformers' own; a batch is
    counted in answers."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        """GRPO's trainer with the optimizer of a `TrainSpec`."""

        optimizer: Any

        def create_optimizer(self, model: Any = None) -> Any:
            if self.optimizer is None:
                self.optimizer = make_optimizer(model if model is not None else self.model)
            return self.optimizer

    tokenizer = AutoTokenizer.from_pretrained(job.model, padding_side="left")
    template_arguments = chat_templates.arguments_of(Path(job.model))
    functions, tokenizers = [], []
    for spec in grpo.rewards:
        functions.append(_function(spec, job.scorer))
        is_model = spec.name == "reward_model"
        tokenizers.append(AutoTokenizer.from_pretrained(job.scorer) if is_model else None)
    return Trainer(
        model=model,
        reward_funcs=functions,
        reward_processing_classes=tokenizers,
        args=GRPOConfig(
            **arguments,
            chat_template_kwargs=template_arguments or None,
            num_generations=grpo.num_generations,
            max_completion_length=grpo.max_completion_length,
            temperature=grpo.temperature,
            beta=grpo.beta,
            epsilon=grpo.epsilon,
            reward_weights=[spec.weight for spec in grpo.rewards],
        ),
        train_dataset=Dataset.from_list(read_prompts(job.train_file)),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def selection_losses(
    trainer: Any, grpo: GrpoSpec, file: str, *, batch_size: int
) -> list[tuple[float, int]]:
    """(negated reward, 1) of the most probable answer to every prompt of a split. Every worker does
    its share."""
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    prompts = read_prompts(file)
    size = batch_size * world
    mine: list[tuple[int, float]] = []
    for first in range(0, len(prompts), size):
        chosen = range(first + rank, min(first + size, len(prompts)), world)
        values = _rewarded(trainer, grpo, [prompts[index] for index in chosen] or prompts[:1])
        mine += zip(chosen, values, strict=False)
    everyone: list[list[tuple[int, float]]] = [[] for _ in range(world)]
    dist.all_gather_object(everyone, mine)
    pairs = [pair for share in everyone for pair in share]
    return [(-value, 1) for _, value in sorted(pairs)]


def _rewarded(trainer: Any, grpo: GrpoSpec, prompts: list[dict[str, Any]]) -> list[float]:
    """The weighted reward of one greedy answer to each prompt."""
    import torch
    from trl.models.utils import unwrap_model_for_generation

    tokenizer = trainer.processing_class
    more = trainer.args.chat_template_kwargs or {}
    texts = []
    for prompt in prompts:
        text = tokenizer.apply_chat_template(
            prompt["prompt"], tokenize=False, add_generation_prompt=True, **more
        )
        texts.append(text)
    # Answers are written to the right of the prompts, so the filling stands to the left; and the
    # template has written the special tokens already.
    encoded = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    # Nothing else: some tokenizers add token types, which `generate` refuses.
    inputs = {}
    for name in ("input_ids", "attention_mask"):
        inputs[name] = encoded[name].to(trainer.args.device)
    with (
        torch.no_grad(),
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
    ):
        generated = model.generate(
            **inputs,
            do_sample=False,
            use_cache=True,
            max_new_tokens=grpo.max_completion_length,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=trainer.eos_token_ids,
        )
    new = generated[:, inputs["input_ids"].shape[1] :]
    replies, ids = [], []
    for row in new:
        tokens = [int(token) for token in row if token != tokenizer.pad_token_id]
        ids.append(tokens)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        replies.append([{"role": "assistant", "content": text}])
    chats = []
    for one, reply in zip(prompts, replies, strict=True):
        chats.append([*one["prompt"], *reply])
    answers = [one["answer"] for one in prompts]
    total = torch.zeros(len(prompts))
    for spec, function, its_tokenizer in zip(
        grpo.rewards, trainer.reward_funcs, trainer.reward_processing_classes, strict=True
    ):
        # TRL takes models and functions alike; a model reads whole chats.
        if isinstance(function, torch.nn.Module):
            values = _scores(function, its_tokenizer, chats)
        else:
            values = function(completions=replies, answer=answers, completion_ids=ids)
        total += spec.weight * torch.tensor(values)
    rewards: list[float] = total.tolist()
    return rewards


def _scores(scorer: Any, tokenizer: Any, chats: list[list[dict[str, str]]]) -> list[float]:
    """A reward model's score of each chat."""
    import torch

    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
    )
    inputs = {name: inputs[name].to(scorer.device) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        scores: list[float] = scorer(**inputs).logits[:, 0].float().tolist()
    return scores


def _function(spec: RewardFunctionSpec, scorer: str | None) -> Any:
    """A reward as TRL calls it: a function of all answers at once, or a model."""
    if spec.name == "reward_model":
        from transformers import AutoModelForSequenceClassification

        assert scorer is not None
        return AutoModelForSequenceClassification.from_pretrained(
            scorer, num_labels=1, dtype="auto"
        ).eval()

    def rewards(
        completions: list[Any], answer: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        return [
            reward(spec, split_reasoning(said[0]["content"])[1], wanted, len(ids))
            for said, wanted, ids in zip(completions, answer, completion_ids, strict=True)
        ]

    rewards.__name__ = spec.name  # TRL names its figures after it
    return rewards
