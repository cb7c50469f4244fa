"""Attention over texts that lie end to end in one row, a text at a time.

transformers gives torch's attention a mask over the whole row, so that it computes every pair of tokens and throws
most away: with texts of equal length as many times too much as there are texts. FlashAttention is told where texts
begin; torch's own kernel on CPU is not, and is called for each text.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "sdpa_by_text"

FAMILIES = (
    "gemma",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "starcoder2",
)
"""Models of transformers whose attention is plain and is told positions. The tests compare each with its own mask."""


def register() -> str:
    """Makes transformers know this attention, and returns its name there. No mask is made for it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME


def fits(config: Any, *, longest: int) -> bool:
    """Whether the tokens of a model attend to all that stand before them in texts of at most `longest` tokens."""
    window = getattr(config, "sliding_window", None)
    return config.model_type in FAMILIES and (window is None or window >= longest)


def attend(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    position_ids: "torch.Tensor",
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """(1, T, heads, head size) of queries, keys and values (1, heads, T, head size); `position_ids` (1, T) start at 0
    with each text."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import repeat_kv

    sizes = text_sizes(position_ids)
    groups = query.shape[1] // key.shape[1]
    parts = (query, repeat_kv(key, groups), repeat_kv(value, groups))
    texts = zip(*(part.split(sizes, 2) for part in parts), strict=True)
    attended = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True) for q, k, v in texts
    ]
    return torch.cat(attended, 2).transpose(1, 2).contiguous(), None


def text_sizes(position_ids: "torch.Tensor") -> list[int]:
    """Tokens of each text in a row."""
    starts = (position_ids[0] == 0).nonzero().squeeze(1).tolist()
    ends = [*starts[1:], position_ids.shape[1]]
    return [end - start for start, end in zip(starts, ends, strict=True)]
