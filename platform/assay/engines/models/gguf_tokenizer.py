"""The tokenizer of a GGUF file, as its own header describes it.

transformers 5 takes the tokenizer of every file with Llama's architecture for SentencePiece: one
that is byte-level (`tokenizer.ggml.model: gpt2`) then claims `byte_fallback`, replaces "▁" by a
space when it decodes, and gets the first special token as its end of text. Token ids are right, so
that nothing fails here; but converters to other formats believe the claim and write noise.
"""

import json
from pathlib import Path
from typing import Any

BYTE_LEVEL = "gpt2"
"""What GGUF calls byte-level BPE, whatever the model is."""

SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""Names of the special tokens in transformers, and in GGUF behind `tokenizer.ggml.`."""


def correct(folder: Path, file: Path) -> None:
    """Corrects what transformers has saved into `folder` for the tokenizer of a GGUF file."""
    import gguf

    fields = gguf.GGUFReader(file).fields
    facts = {}
    for name, field in fields.items():
        # Lists are long, and right.
        if name.startswith("tokenizer.ggml.") and len(field.data) == 1:
            facts[name.removeprefix("tokenizer.ggml.")] = field.contents()
    if facts.get("model") != BYTE_LEVEL:
        return
    _edit(folder / "tokenizer.json", _as_byte_level)
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    names = {token["id"]: token["content"] for token in added}
    _edit(folder / "tokenizer_config.json", lambda said: _name_specials(said, facts, names))


def _as_byte_level(said: dict[str, Any]) -> None:
    """In place: every byte has a token, so there is nothing to fall back to."""
    said["model"] |= {"byte_fallback": False, "fuse_unk": False}
    said["decoder"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }


def _name_specials(said: dict[str, Any], facts: dict[str, Any], names: dict[int, str]) -> None:
    """In place: the special tokens that the file's header numbers."""
    said["clean_up_tokenization_spaces"] = False  # it would eat spaces that byte-level BPE keeps
    for token, number in SPECIAL_TOKENS.items():
        named = names.get(facts.get(number, -1))
        if named is not None:
            said |= {token: named, f"{token}_id": facts[number]}


def _edit(file: Path, change: Any) -> None:
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
