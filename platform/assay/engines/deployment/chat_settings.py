"""How a model's folder says that its chats are served: arguments of its template, and the reasoning
parser."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.loader.named import chat_templates
from assay.spec.serve import EngineSpec

NO_PARSER = "none"
PARSERS = {
    "deepseek_r1_distill": "deepseek_r1",
    "deepseekv3": "deepseek_r1",
    "glm4moe": "glm45",
    "gptoss": "openai_gptoss",
    "muse_glimmer": "muse_glimmer",
    "qwen3": "qwen3",
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"), "gemma4"),
    **dict.fromkeys(
        ("nemotron_3_5_lightning", "nemotron_3_nano", "nemotron_3_super"), "nemotron_v3"
    ),
    **dict.fromkeys(("nemotron_3_ultra",), "nemotron_v3"),
    **dict.fromkeys(("qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8"), "qwen3"),
}
"""Family of chat templates to the parser of vLLM that reads its models' answers."""
THINK_TAGS = ("<think>", "</think>")
READ_THINK_TAGS = ("deepseek_r1", "glm45", "nemotron_v3", "qwen3")
"""Parsers that do not start with a tokenizer that lacks the tags."""


@dataclass(frozen=True)
class ChatSettings:
    """What the engine is told about a model's chats."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, unless a request says otherwise."""
    reasoning_parser: str | None = None
    """vLLM's parser; None for a model that does not reason."""

    @property
    def reasons(self) -> bool:
        """Whether an answer may begin with reasoning, as far as the arguments tell."""
        return self.reasoning_parser is not None and self.kwargs.get("enable_thinking") is not False

    def engine_kwargs(self) -> dict[str, Any]:
        """In vLLM's words."""
        said: dict[str, Any] = {"default_chat_template_kwargs": self.kwargs} if self.kwargs else {}
        return said | ({"reasoning_parser": self.reasoning_parser} if self.reasoning_parser else {})


def chat_settings(folder: Path, engine: EngineSpec) -> ChatSettings:
    """What a model's folder says, where the spec does not say otherwise."""
    parser = engine.reasoning_parser or _parser_of(folder)
    return ChatSettings(
        chat_templates.arguments_of(folder), None if parser == NO_PARSER else parser
    )


def _parser_of(folder: Path) -> str | None:
    """By the family of the template; by what the template writes where it is none of TRL's."""
    template = chat_templates.of_folder(folder)
    if template is None:
        return None
    family = chat_templates.family_of(template)
    parser = PARSERS.get(family) if family else _guess(template)
    if parser in READ_THINK_TAGS and not _has_tokens(folder, THINK_TAGS):
        return None
    return parser


def _guess(template: str) -> str | None:
    """A template that opens a block of reasoning for every answer is R1's kind; one that can be
    told not to reason is Qwen's."""
    if "</think>" not in template:
        return None
    if re.search(r"\benable_thinking\b", template):
        return "qwen3"
    asked = template.rpartition("add_generation_prompt")[2]
    return "deepseek_r1" if "<think>" in asked else None


def _has_tokens(folder: Path, tokens: tuple[str, ...]) -> bool:
    """Whether the tokenizer has each of them as one token."""
    try:
        whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {token["content"] for token in whole.get("added_tokens", ())}
    except (OSError, ValueError, KeyError):
        return False
    return added.issuperset(tokens) or set(whole.get("model", {}).get("vocab", ())).issuperset(
        tokens
    )
