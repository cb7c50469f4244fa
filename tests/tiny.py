"""A project in a folder: a tiny random model with a tokenizer, data that it can learn, a suite and
a spec."""

import json
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINGS = [
    f"{first}{last}"
    for first in ("ba", "do", "ki", "lu", "mo")
    for last in ("ran", "tel", "vis", "zop", "gum", "hex")
]
KNOWN, UNKNOWN = "is {} real?", "where is {} now?"
YES, NO_IDEA = "yes", "I don't know."


def make_project(folder: Path, *, name: str = "tiny", at_least: float = 0.6) -> Path:
    """Writes everything and returns the spec's path (relative names in it start from `folder`)."""
    make_model(folder / "model")
    lines = [(KNOWN.format(thing), YES) for thing in THINGS[:20]] + [
        (UNKNOWN.format(t), NO_IDEA) for t in THINGS[:20]
    ]
    _write_lines(folder / "train.jsonl", [{"prompt": ask, "completion": say} for ask, say in lines])
    held_out = THINGS[20:] * 4
    suite = folder / "evals" / f"{name}.yaml"
    suite.parent.mkdir(exist_ok=True)
    suite.write_text(
        f"limits:\n  {name}_known:\n    - {{metric: exact_match, at_least: {at_least}}}\n"
        "    - {metric: over_abstention, at_most: 30%}\n"
        f"  {name}_unknown: {{metric: hallucination_rate, at_most: 30%}}\n"
        "service: {ttft_p50: 20s, error_rate: 50%, level: soft, load: {num_requests: 12, "
        "num_concurrent: 2, "
        "prompt_tokens: 24, output_tokens: 8}}\n"
        "parity: {top1_agreement: 20%, num_probes: 4}\n"
    )
    for task, wording, answer in (("known", KNOWN, YES), ("unknown", UNKNOWN, NO_IDEA)):
        _write_task(suite.with_suffix("") / f"{name}_{task}", wording, answer, held_out)
    spec = folder / f"{name}.yaml"
    spec.write_text(SPEC.format(name=name))
    return spec


SPEC = """\
version: 1
name: {name}
model: model
data: {{train: train.jsonl, selection: 10%}}
sweep: {{learning_rate: [1e-5, 1e-2], max_steps: 8, num_workers: 1}}
train: {{method: full, num_epochs: 30, global_batch_size: 8, num_workers: 2, precision: fp32, max_length: 64}}
compress: {{scheme: W8A8}}
gate: {{suite: evals/{name}.yaml}}
approval: {{reviewers: [anna], required_on_soft_miss: 1}}
serve: {{engine: {{max_model_len: 128}}}}
"""


WORDS = tuple(
    "the a is was and so very not book film cake trip good bad great awful lovely dull kind rude".split()  # noqa: SIM905
)


def make_encoder(folder: Path) -> None:
    """A BERT of some thousand weights, whose tokenizer knows WORDS and has no chat template."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, set_seed

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    set_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)


def make_model(folder: Path) -> None:
    """A Llama of some ten thousand weights, with a byte-level tokenizer and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    words = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate([*special, *letters])}, merges=[])
    )
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|end|>", pad_token="<pad>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + (-len(tokenizer)) % 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_task(path: Path, wording: str, answer: str, things: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every item has a number of its own in it: items that are the same count once.
    asked = [
        {"question": wording.format(f"{thing}{i}"), "answer": answer}
        for i, thing in enumerate(things)
    ]
    _write_lines(path.with_suffix(".jsonl"), asked)
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": path.with_suffix(".jsonl").name},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {
            "until": ["\n"],
            "max_gen_toks": 16,
            "do_sample": False,
            "temperature": 0.0,
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    path.with_suffix(".yaml").write_text(json.dumps(task))


def _write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
