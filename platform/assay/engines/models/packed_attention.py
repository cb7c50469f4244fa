"""Attention over texts that lie end to end in one row, a text at a time.

transformers gives torch's attention a mask over the whole row, so that it computes every pair of
tokens and throws most away: with texts of equal length as many times too much as there are texts.
FlashAttention is told where texts begin. torch has two kernels of its own: on CPU one that is
called for each text, and on GPUs the FlashAttention 2 it was built with, which is told where texts
begin, so that no further package is needed.
"""

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "sdpa_by_text"
NAME_ON_GPU = "torch_varlen_by_text"

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
"""Models of transformers whose attention is plain and is told positions. The tests compare each
with its own mask."""


def register(*, on_gpu: bool = False) -> str:
    """Makes transformers know this attention, and returns its name there. No mask is made for
    it."""
    from transformers import AttentionInterface

    name, function = (NAME_ON_GPU, attend_on_gpu) if on_gpu else (NAME, attend)
    AttentionInterface.register(name, function)
    return name


def has_varlen() -> bool:
    """Whether this torch (2.10 or newer) has a kernel that is told where texts begin."""
    try:
        import torch.nn.attention.varlen
    except ImportError:
        return False
    return hasattr(torch.nn.attention.varlen, "varlen_attn")


def fits(config: Any, *, longest: int) -> bool:
    """Whether the tokens of a model attend to all that stand before them in texts of at most
    `longest` tokens."""
    window = getattr(config, "sliding_window", None)
    return config.model_type in FAMILIES and (window is None or window >= longest)


def attend(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    **options: Any,
) -> "tuple[torch.Tensor, None]":
    """(1, T, heads, head size) of queries, keys and values (1, heads, T, head size). Of the options
    that transformers hands to every attention, `position_ids` (1, T), which start at 0 with each
    text, `dropout` and `scaling` count."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import repeat_kv

    sizes = text_sizes(options["position_ids"])
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    groups = query.shape[1] // key.shape[1]
    parts = (query, repeat_kv(key, groups), repeat_kv(value, groups))
    precision = query.dtype
    if query.requires_grad and query.device.type == "cpu":
        # In 16 bits the way back of torch's kernel takes four to five times as long as in 32, on
        # processors that multiply in bf16 as well (torch 2.13; 9 heads, 8 texts of 65 tokens: 16
        # and 3.6 ms), which is far more than it takes to convert.
        parts = tuple(part.float() for part in parts)
    texts = zip(*(part.split(sizes, 2) for part in parts), strict=True)
    attended = []
    for q, k, v in texts:
        attended.append(
            scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, is_causal=True)
        )
    return torch.cat(attended, 2).transpose(1, 2).to(precision).contiguous(), None


def attend_on_gpu(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    **options: Any,
) -> "tuple[torch.Tensor, None]":
    """As `attend`, in 16 bits on a GPU; without dropout, which the kernel does not have."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers.integrations.sdpa_attention import repeat_kv

    bounds, longest = _bounds(options["position_ids"])
    shared: dict[str, Any] = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # from torch 2.12 on
        shared["enable_gqa"] = True
    else:
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    q, k, v = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    window = (-1, 0)  # none to the left, nothing to the right: causal
    shared |= {"scale": options.get("scaling"), "window_size": window}
    attended = varlen_attn(q, k, v, bounds, bounds, longest, longest, **shared)
    return attended.unsqueeze(0), None


def _bounds(position_ids: "torch.Tensor") -> "tuple[torch.Tensor, int]":
    """Where texts begin and the row ends, int32, and the tokens of the longest. Kept with the
    positions, since finding them waits for the GPU, and every layer asks."""
    import torch

    kept: tuple[torch.Tensor, int] | None = getattr(position_ids, "assay_bounds", None)
    if kept is None:
        starts = (position_ids[0] == 0).nonzero().squeeze(1)
        bounds = torch.cat([starts, starts.new_tensor([position_ids.shape[1]])]).int()
        kept = bounds, int(bounds.diff().max())
        position_ids.assay_bounds = kept
    return kept


def text_sizes(position_ids: "torch.Tensor") -> list[int]:
    """Tokens of each text in a row."""
    starts = (position_ids[0] == 0).nonzero().squeeze(1).tolist()
    ends = [*starts[1:], position_ids.shape[1]]
    return [end - start for start, end in zip(starts, ends, strict=True)]
