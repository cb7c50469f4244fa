"""Models of random weights of five families, as small as they go, each with its family's own chat
template."""

import re
import string
from functools import cache
from pathlib import Path
from typing import Any

from assay.loader.named import chat_templates

MARKUP = re.compile(
    r"<\|[^|<>\s']+\|?>|<[^|<>\s']+\|>|<｜[^<>']+?｜>|</?(?:start|end)_of_\w+>|</?think>|\[gMASK\]|<sop>"
)
"""What looks like a token in a template."""
NOT_SPECIAL = ("<think>", "</think>")
ALWAYS = ("<|begin|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
"""Tokens that some templates put together from parts."""

TEMPLATES = {
    "qwen3": "qwen3",
    "llama3": "llama3",
    "gemma3": "gemma3",
    "gemma3-vision": "gemma3",
    "r1": "deepseek_r1_distill",
    "phi3": "phi3",
}
"""Family to the name of its template."""
CORPUS = (
    "assistant\nParis is the capital\n\nof France. I don't know. 是的。 ja 🙂 a\n\nb: final end user "
    "model\nParis\n"
)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}


@cache
def tokenizer_of(template: str, kind: str = "bytes") -> Any:
    """Bytes, or a tokenizer of another kind with some merges; and a token of its own for everything
    in the template that looks like one."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    words = _KINDS[kind]()
    markup = sorted({*MARKUP.findall(template), *ALWAYS})
    words.add_tokens(
        [AddedToken(token, normalized=False, special=token not in NOT_SPECIAL) for token in markup]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|begin|>", eos_token="<|endoftext|>"
    )
    made.chat_template = template
    return made


def _bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    return words


def _trimmed() -> Any:
    """As Llama 3's: offsets without the white space at a token's ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.post_processor = processors.ByteLevel(trim_offsets=True)
    return _trained(words, sorted(pre_tokenizers.ByteLevel.alphabet()))


def _across_lines() -> Any:
    """One whose tokens reach from one line into the next, and so from a server's prompt into the
    answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    return _trained(words, sorted(pre_tokenizers.ByteLevel.alphabet()))


def _sentencepiece() -> Any:
    """As Llama 2's and Phi 3's: a space is put before every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    words.pre_tokenizer = pre_tokenizers.Split(
        "\n", "isolated"
    )  # a line's end is a token of its own
    words.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _trained(words, sorted(set(string.printable) | set(CORPUS) | {"▁"}))


_KINDS = {
    "bytes": _bytes,
    "trimmed": _trimmed,
    "across lines": _across_lines,
    "sentencepiece": _sentencepiece,
}
KINDS = tuple(_KINDS)


def _trained(words: Any, alphabet: list[str]) -> Any:
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator([CORPUS] * 20, trainer)
    return words


def make_family(folder: Path, family: str) -> None:
    """Writes a model of the family: weights as safetensors, tokenizer and template."""
    from transformers import set_seed

    tokenizer = tokenizer_of(chat_templates.families()[TEMPLATES[family]].read_text())
    set_seed(0)
    model = _model(family, len(tokenizer) + -len(tokenizer) % 64, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _model(family: str, vocab_size: int, tokenizer: Any) -> Any:
    import transformers as hf

    ends = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": None,
    }
    said = {"vocab_size": vocab_size, **SIZES, **ends}
    if (
        family == "qwen3"
    ):  # heads wider than the hidden size divided by their number; embeddings tied to the head
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**said, head_dim=64, tie_word_embeddings=True))
    if family == "gemma3":  # a sliding window in five of six layers
        layers = {
            "num_hidden_layers": 6,
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 16,
        }
        return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**{**said, **layers}))
    if family == "gemma3-vision":  # as Gemma 3 of 4 billion weights and more: with eyes
        text = {**said, "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16}
        eyes = {**SIZES, "hidden_size": 32, "image_size": 28, "patch_size": 14}
        tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
        whole = hf.Gemma3Config(
            text_config=text, vision_config=eyes, mm_tokens_per_image=4, **tokens
        )
        return hf.Gemma3ForConditionalGeneration(whole)
    if family == "phi3":  # queries, keys and values in one matrix
        return hf.Phi3ForCausalLM(hf.Phi3Config(**said, sliding_window=64))
    if family == "r1":
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**said))
    return hf.LlamaForCausalLM(hf.LlamaConfig(**said))
