"""How a model's chats are written: its template, what a server puts before an answer, and the
tokens that end a turn."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from assay.errors import UsageError
from assay.loader.named import chat_templates

Chat = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`; an answer's reasoning stands in its content between `<think>`
and `</think>`."""

MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

OPEN_REASONING = re.compile(r"<think>\s*\Z")

CLOSED_REASONING = re.compile(r"</think>\s*\Z")

REASONING = re.compile(r"\s*(?:<think>)?(?P<reasoning>.*?)</think>\s*(?P<answer>.*)\Z", re.DOTALL)

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""What templates call the reasoning of an answer."""

QUESTION, ANSWER = "Quid est?", "Res."
"""A chat by which a template is tried."""


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a rendered chat."""

    start: int
    end: int


@dataclass(frozen=True)
class ChatFormat:
    """How a model's chats are written."""

    template: str
    """The template that serves."""
    training: str | None
    """The template whose marks tell the answers apart; None where the serving template is used as
    it is."""
    source: str
    """Where the marks come from, in words."""
    variables: Mapping[str, Any]
    """Special tokens and the spec's arguments, as the template sees them."""
    end_tokens: tuple[str, ...]
    """Tokens that can end a turn, longest first."""
    prompt: str = ""
    """What the server puts behind the last message for an answer to begin."""
    adds_reasoning: bool = False
    """Whether the prompt opens a block of reasoning that the training template leaves out of the
    answer."""


def chat_format(tokenizer: Any, kwargs: Mapping[str, Any]) -> ChatFormat:
    """How chats are written with this tokenizer. Raises `UsageError` when it has no template, or
    one that does not write what it is given."""
    template = serving_template(tokenizer)
    if not template:
        raise UsageError(
            f"the tokenizer in {tokenizer.name_or_path} has no chat template; use an "
            "instruction-tuned model, or name a template in `model.chat_template`"
        )
    training, source = _marked_template(template)
    variables = {**tokenizer.special_tokens_map, **kwargs}
    found = ChatFormat(template, training, source, variables, ())
    found = replace(found, prompt=_generation_prompt(found))
    if training is not None and OPEN_REASONING.search(found.prompt):
        text, turns = marked_turns(found, probe())
        found = replace(
            found, adds_reasoning=bool(turns) and "<think>" not in text[turns[0].start :]
        )
    return replace(found, end_tokens=_end_tokens(tokenizer, found))


def serving_template(tokenizer: Any) -> str | None:
    """The template that a server uses; of named ones the one named `default`."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return str(template) if template else None


def render(format: ChatFormat, chat: Chat, *, add_generation_prompt: bool) -> str:
    """A chat as the served model sees it. Raises `UsageError` with the template's own words when it
    refuses."""
    return _rendered(format, format.template, chat, add_generation_prompt=add_generation_prompt)[0]


def split_reasoning(content: str) -> tuple[str, str]:
    """(reasoning, answer) of what an assistant said; the reasoning is empty where there is none."""
    found = REASONING.match(content) if "</think>" in content else None
    if found is None:
        return "", content
    return found["reasoning"].strip(), found["answer"]


def _marked_template(template: str) -> tuple[str | None, str]:
    if MARK.search(template):
        return template, "the model's own, with marks"
    family = chat_templates.family_of(template)
    if family is None:
        return None, "the model's own"
    twin = chat_templates.training_twin(family)
    if twin is None:
        return None, f"TRL's {family}"
    return twin.read_text(encoding="utf-8"), f"TRL's {twin.stem}"


def probe() -> list[dict[str, str]]:
    """The shortest chat, by which a template is tried."""
    return [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def _end_tokens(tokenizer: Any, format: ChatFormat) -> tuple[str, ...]:
    """The tokenizer's added tokens, longest first, as far as they stand in a chat (some tokenizers
    have thousands)."""
    text, _ = _rendered(format, format.template, probe(), add_generation_prompt=False)
    if format.training is not None:
        text += _rendered(format, format.training, probe(), add_generation_prompt=False)[0]
    known = set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        if str(token) in text:
            known.add(str(token))
    return tuple(sorted(known - {""}, key=len, reverse=True))


def _generation_prompt(format: ChatFormat) -> str:
    """What the template adds for an answer. Some end a finished chat with a token that an open one
    lacks, so that it is what follows the beginning that both have in common."""
    asked = probe()[:1]
    opened = render(format, asked, add_generation_prompt=True)
    closed = render(format, asked, add_generation_prompt=False)
    return opened[num_common(opened, closed) :]


def _rendered(
    format: ChatFormat,
    template: str,
    chat: Chat,
    *,
    add_generation_prompt: bool,
    with_marks: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    from jinja2 import TemplateError

    # In a sandbox of jinja2's: a template is code of whoever made the model.
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [_message(format, template, message) for message in chat]
    try:
        texts, marks = render_jinja_template(
            [messages],
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=with_marks,
            **format.variables,
        )
    except (TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in chat))
        raise UsageError(
            f"the chat template ({format.source}) refuses a chat of {roles}: {error}. Change the "
            "data (`data.system` adds a system prompt), or name another template in "
            "`model.chat_template`"
        ) from error
    if not with_marks:
        return texts[0], []
    return texts[0], list(marks[0])


def _message(format: ChatFormat, template: str, message: Mapping[str, str]) -> dict[str, str]:
    """The message in the words of the template. Reasoning goes into fields of its own where the
    template reads them."""
    plain = dict(message)
    if message["role"] != "assistant":
        return plain
    reasoning, answer = split_reasoning(message["content"])
    if CLOSED_REASONING.search(format.prompt):  # no server leaves room for it
        return {**plain, "content": answer}
    names = [name for name in REASONING_FIELDS if re.search(rf"\b{name}\b", template)]
    if reasoning and names:
        return {**plain, "content": answer, **dict.fromkeys(names, reasoning)}
    if format.adds_reasoning and template == format.training:
        return {**plain, "content": answer}
    return plain


def marked_turns(format: ChatFormat, chat: Chat) -> tuple[str, list[Span]]:
    """A chat by the training template, with the spans that it marks; those that touch are one."""
    assert format.training is not None
    text, marks = _rendered(
        format, format.training, chat, add_generation_prompt=False, with_marks=True
    )
    spans: list[Span] = []
    for start, end in marks:
        if spans and spans[-1].end == start:
            spans[-1] = Span(spans[-1].start, end)
        else:
            spans.append(Span(start, end))
    return text, spans


def num_common(one: str, other: str) -> int:
    """With how many equal characters both begin."""
    for index, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return index
    return min(len(one), len(other))
