"""A model's dimensions without loading it: from `config.json`, from a GGUF file's header, or from a
table.

Source of the GGUF layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little-endian,
version 2 and 3).
"""

import json
import mmap
import struct
from pathlib import Path
from typing import Any

from assay.records.plan import ModelShape

NORMS_QUERIES = ("qwen3", "gemma3", "olmo2")
"""Families of transformers whose attention normalizes queries and keys."""

GgufValue = int | float | bool | str | None


def from_folder(folder: Path) -> ModelShape | None:
    """What the folder's `config.json` says; None when it is no dense decoder that we know how to
    count."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    if isinstance(config, dict):
        return from_config(config, source=str(folder / "config.json"))
    return None


def from_config(
    config: dict[str, Any], *, source: str, num_parameters: int | None = None
) -> ModelShape | None:
    """The same, of a configuration that has been read."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    if any(key in config for key in ("num_local_experts", "num_experts", "n_routed_experts")):
        return None
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        shape: dict[str, Any] = {
            "hidden_size": hidden,
            "num_layers": int(config["num_hidden_layers"]),
            "num_heads": heads,
            "num_kv_heads": int(config.get("num_key_value_heads") or heads),
            "head_dim": int(config.get("head_dim") or hidden // heads),
            "intermediate_size": int(config["intermediate_size"]),
            "vocab_size": int(config["vocab_size"]),
            "tied": bool(config.get("tie_word_embeddings", False)),
            "context_length": int(config.get("max_position_embeddings") or 0),
            "norms_queries": str(config.get("model_type") or "").startswith(NORMS_QUERIES),
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    count = num_parameters or _num_parameters(shape)
    return ModelShape(**shape, num_parameters=count, source=source)


def from_gguf(file: Path) -> ModelShape | None:
    """What a GGUF file's header says, its tensors counted; None when it cannot be read so."""
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            facts, tensors = _Gguf(data).header()
    except (OSError, ValueError, KeyError, struct.error):
        return None
    kind = facts.get("general.architecture")
    try:
        config = {ours: facts[f"{kind}.{theirs}"] for ours, theirs in _GGUF_KEYS.items()}
    except KeyError:
        return None
    config["model_type"] = kind
    config["num_key_value_heads"] = facts.get(f"{kind}.attention.head_count_kv")
    config["head_dim"] = facts.get(f"{kind}.attention.key_length")
    if "token_embd.weight" in tensors:
        config["vocab_size"] = tensors["token_embd.weight"][-1]
    else:
        config["vocab_size"] = None
    config["tie_word_embeddings"] = "output.weight" not in tensors
    total = 0
    for sides in tensors.values():
        size = 1
        for side in sides:
            size *= side
        total += size
    return from_config(config, source=f"the header of {file.name}", num_parameters=total)


def known(name: str) -> ModelShape | None:
    """A model of the hub whose dimensions stand in our own table; None for any other."""
    row = _KNOWN.get(name.lower())
    if row is None:
        return None
    family = name.lower().rpartition("/")[2].split("-")[0]
    config = {**dict(zip(_COLUMNS, row, strict=True)), "model_type": family}
    return from_config(config, source=f"the published config.json of {name}")


def known_names() -> list[str]:
    """The models in the table."""
    return list(_KNOWN)


_GGUF_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}


def _num_parameters(shape: dict[str, Any]) -> int:
    """Weights of a Llama-like decoder, small ones such as biases left out."""
    h, f = shape["hidden_size"], shape["intermediate_size"]
    q, kv = shape["num_heads"] * shape["head_dim"], shape["num_kv_heads"] * shape["head_dim"]
    layer = h * q + 2 * h * kv + q * h + 3 * h * f + 2 * h
    embedding = shape["vocab_size"] * h * (1 if shape["tied"] else 2)
    return int(shape["num_layers"] * layer + embedding + h)


class _Gguf:
    """Reads a header from its first byte to its last; arrays are stepped over."""

    _SCALARS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")
    _STRING, _ARRAY = 8, 9

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def header(self) -> tuple[dict[str, GgufValue], dict[str, tuple[int, ...]]]:
        """Its facts, and each tensor's sides, innermost first."""
        if self.data[:4] != b"GGUF":
            raise ValueError("no GGUF file")
        self.at = 4
        if self._number("<I") not in (2, 3):
            raise ValueError("an unknown version")
        num_tensors, num_facts = self._number("<Q"), self._number("<Q")
        facts: dict[str, GgufValue] = {}
        for _ in range(int(num_facts)):
            key = self._text()
            facts[key] = self._value(int(self._number("<I")))
        tensors: dict[str, tuple[int, ...]] = {}
        for _ in range(int(num_tensors)):
            name = self._text()
            tensors[name] = tuple(int(self._number("<Q")) for _ in range(int(self._number("<I"))))
            self.at += 4 + 8  # its type and its place
        return facts, tensors

    def _value(self, kind: int) -> GgufValue:
        if kind == self._STRING:
            return self._text()
        if kind == self._ARRAY:
            self._step_over()
            return None
        return self._number(self._SCALARS[kind])

    def _step_over(self) -> None:
        kind, count = int(self._number("<I")), int(self._number("<Q"))
        if kind == self._ARRAY:
            raise ValueError("arrays of arrays")
        if kind != self._STRING:
            self.at += count * struct.calcsize(self._SCALARS[kind])
            return
        at, read = self.at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + read(self.data, at)[0]
        self.at = at

    def _text(self) -> str:
        length = int(self._number("<Q"))
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def _number(self, form: str) -> int | float:
        value: int | float = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value


_COLUMNS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
    "max_position_embeddings",
)

# As each model's config.json on https://huggingface.co/NAME has them.
_KNOWN: dict[str, tuple[int, int, int, int, int, int, int, bool, int]] = {
    "qwen/qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151936, True, 40960),
    "qwen/qwen3-1.7b": (2048, 28, 16, 8, 128, 6144, 151936, True, 40960),
    "qwen/qwen3-4b": (2560, 36, 32, 8, 128, 9728, 151936, True, 40960),
    "qwen/qwen3-8b": (4096, 36, 32, 8, 128, 12288, 151936, False, 40960),
    "qwen/qwen3-14b": (5120, 40, 40, 8, 128, 17408, 151936, False, 40960),
    "qwen/qwen3-32b": (5120, 64, 64, 8, 128, 25600, 151936, False, 40960),
    "qwen/qwen2.5-0.5b-instruct": (896, 24, 14, 2, 64, 4864, 151936, True, 32768),
    "qwen/qwen2.5-1.5b-instruct": (1536, 28, 12, 2, 128, 8960, 151936, True, 32768),
    "qwen/qwen2.5-3b-instruct": (2048, 36, 16, 2, 128, 11008, 151936, True, 32768),
    "qwen/qwen2.5-7b-instruct": (3584, 28, 28, 4, 128, 18944, 152064, False, 32768),
    "qwen/qwen2.5-14b-instruct": (5120, 48, 40, 8, 128, 13824, 152064, False, 32768),
    "qwen/qwen2.5-32b-instruct": (5120, 64, 40, 8, 128, 27648, 152064, False, 32768),
    "qwen/qwen2.5-72b-instruct": (8192, 80, 64, 8, 128, 29568, 152064, False, 32768),
    "qwen/qwen2.5-coder-7b-instruct": (3584, 28, 28, 4, 128, 18944, 152064, False, 32768),
    "meta-llama/llama-3.1-8b-instruct": (4096, 32, 32, 8, 128, 14336, 128256, False, 131072),
    "meta-llama/llama-3.1-70b-instruct": (8192, 80, 64, 8, 128, 28672, 128256, False, 131072),
    "meta-llama/llama-3.2-1b-instruct": (2048, 16, 32, 8, 64, 8192, 128256, True, 131072),
    "meta-llama/llama-3.2-3b-instruct": (3072, 28, 24, 8, 128, 8192, 128256, True, 131072),
    "meta-llama/llama-3.3-70b-instruct": (8192, 80, 64, 8, 128, 28672, 128256, False, 131072),
    "mistralai/mistral-7b-instruct-v0.3": (4096, 32, 32, 8, 128, 14336, 32768, False, 32768),
    "huggingfacetb/smollm2-135m-instruct": (576, 30, 9, 3, 64, 1536, 49152, True, 8192),
    "huggingfacetb/smollm2-360m-instruct": (960, 32, 15, 5, 64, 2560, 49152, True, 8192),
    "huggingfacetb/smollm2-1.7b-instruct": (2048, 24, 32, 32, 64, 8192, 49152, True, 8192),
}
