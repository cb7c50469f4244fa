"""Which characters of a rendered chat the model itself must write: its answers, each up to the
token that ends it.

Three ways, the first that is open:

1. the model's own template, where it has `{% generation %}` marks;
2. the training twin that TRL keeps of the model's template (the fingerprint is the template's
   text);
3. the template as it is, where the text before each answer is, to the letter, the prompt that a
   server renders for it.

Anything else is refused: a mask that is nearly right teaches the model to write what the user said.

Marks tell where a turn begins and ends, not what a served model is asked to write: some include the
header that the server puts there (`<|start|>assistant`), a closing newline after the end-of-turn
token, or an empty block of reasoning. So each marked turn is cut to what follows the server's own
generation prompt. An empty block of reasoning never bears loss: with it a model that reasons would
learn not to, and without reasoning the server's prompt already holds it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from assay.errors import UsageError
from assay.loader.named import chat_templates

Chat = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`; an answer's reasoning stands in its content between `<think>`
and `</think>`."""

MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
OPEN_REASONING = re.compile(r"<think>\s*\Z")
CLOSED_REASONING = re.compile(r"</think>\s*\Z")
EMPTY_REASONING = re.compile(r"\s*<think>\s*</think>\s*")
REST_OF_EMPTY_REASONING = re.compile(r"\s*</think>\s*")
REASONING = re.compile(r"\s*(?:<think>)?(?P<reasoning>.*?)</think>\s*(?P<answer>.*)\Z", re.DOTALL)
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""What templates call the reasoning of an answer."""
QUESTION, ANSWER = "Quid est?", "Res."
"""A chat by which a template is tried."""


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a rendered chat."""

    start: int
    end: int


class MarkedText(NamedTuple):
    """A rendered chat."""

    text: str
    answers: tuple[Span, ...]
    """What the model itself must write, one an answer of the assistant's."""


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
            "instruction-tuned model, or "
            "name a template in `model.chat_template`"
        )
    training, source = _marked_template(template)
    variables = {**tokenizer.special_tokens_map, **kwargs}
    found = ChatFormat(template, training, source, variables, ())
    found = replace(found, prompt=_generation_prompt(found))
    if training is not None and OPEN_REASONING.search(found.prompt):
        text, turns = _marked(found, _probe())
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


def marked(format: ChatFormat, chat: Chat, *, last_turn_only: bool = False) -> MarkedText:
    """A chat as training sees it, and what of it the model must write. Raises `UsageError` when
    that cannot be told apart from the rest."""
    if chat[-1]["role"] != "assistant":
        return MarkedText(render(format, chat, add_generation_prompt=True), ())
    if format.training is None:
        return _marked_by_prompts(format, chat, last_turn_only=last_turn_only)
    text, turns = _marked(format, chat)
    if format.adds_reasoning:
        text, turns = _with_reasoning(format, text, turns, chat)
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    if len(turns) != len(answers):
        raise UsageError(
            f"the chat template ({format.source}) marks {len(turns)} turns where the chat has "
            f"{len(answers)} of the "
            "assistant's; name another one in `model.chat_template`"
        )
    spans = [_cut(format, text, turn, answer) for turn, answer in zip(turns, answers, strict=True)]
    _check_reasoning(format, text[spans[-1].start : spans[-1].end], answers[-1])
    return MarkedText(
        text, tuple(_with_one_end(format, text, spans[-1:] if last_turn_only else spans))
    )


def answer_start(format: ChatFormat, chat: Chat) -> str:
    """A chat that ends with the user's turn, up to where the words of an answer would stand: the
    server's own prompt and, for a model that reasons, an empty block of reasoning behind it. Serves
    templates that cannot be trained on, too."""
    return render(format, chat, add_generation_prompt=True) + _before_answers(format)


def _before_answers(format: ChatFormat) -> str:
    """What a trained answer stands behind, besides the server's prompt."""
    asked = render(format, _probe()[:1], add_generation_prompt=True)
    try:
        text, (answer,) = marked(format, _probe())
    except UsageError:
        text = ""
    if text.startswith(asked):
        return text[len(asked) : answer.start]
    return "\n</think>\n\n" if OPEN_REASONING.search(asked) else ""


def end_of_turn(format: ChatFormat) -> str | None:
    """The token with which an answer ends, which is the last that the model must write; None where
    a turn ends without one."""
    text, (answer,) = marked(format, _probe())
    return next(
        (token for token in format.end_tokens if text.endswith(token, answer.start, answer.end)),
        None,
    )


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
    twin = chat_templates.training_twin(family) if family else None
    if twin is not None:
        return twin.read_text(encoding="utf-8"), f"TRL's {twin.stem}"
    return None, f"TRL's {family}" if family else "the model's own"


def _probe() -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def _end_tokens(tokenizer: Any, format: ChatFormat) -> tuple[str, ...]:
    """The tokenizer's added tokens, longest first, as far as they stand in a chat (some tokenizers
    have thousands)."""
    text = "".join(
        _rendered(format, template, _probe(), add_generation_prompt=False)[0]
        for template in {format.template, format.training or format.template}
    )
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    known = {token for token in added if token in text} | set(tokenizer.all_special_tokens)
    return tuple(sorted(known - {""}, key=len, reverse=True))


def _generation_prompt(format: ChatFormat) -> str:
    """What the template adds for an answer. Some end a finished chat with a token that an open one
    lacks, so that it is what follows the beginning that both have in common."""
    asked = _probe()[:1]
    opened = render(format, asked, add_generation_prompt=True)
    closed = render(format, asked, add_generation_prompt=False)
    return opened[_num_common(opened, closed) :]


def _rendered(
    format: ChatFormat,
    template: str,
    chat: Chat,
    *,
    add_generation_prompt: bool,
    with_marks: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import (
        render_jinja_template,
    )  # in a sandbox of jinja2's

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
            "data (`data.system` "
            "adds a system prompt), or name another template in `model.chat_template`"
        ) from error
    return texts[0], list(marks[0]) if with_marks else []


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


def _marked(format: ChatFormat, chat: Chat) -> tuple[str, list[Span]]:
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


def _with_reasoning(
    format: ChatFormat, text: str, turns: Sequence[Span], chat: Chat
) -> tuple[str, list[Span]]:
    """Puts the reasoning of each answer, or an empty block, between the header and the answer,
    where a server's prompt opens that block and the training template leaves it out."""
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    header = OPEN_REASONING.sub("", format.prompt)
    whole, spans, copied = "", [], 0
    for turn, answer in zip(turns, answers, strict=False):
        behind = [n for n in range(len(header) + 1) if text.endswith(header, 0, turn.start + n)]
        at = turn.start + (behind[-1] if behind else 0)
        reasoning = split_reasoning(answer)[0]
        whole += text[copied : turn.start]
        start = len(whole)
        whole += f"{text[turn.start : at]}<think>\n{reasoning}\n</think>\n\n{text[at : turn.end]}"
        spans.append(Span(start, len(whole)))
        copied = turn.end
    return whole + text[copied:], spans


def _cut(format: ChatFormat, text: str, turn: Span, answer: str) -> Span:
    """A marked turn without what the server writes, and up to the token that ends it."""
    start = turn.start
    prompt = format.prompt
    # The mark may begin anywhere inside the server's prompt, or behind it.
    behind = [n for n in range(len(prompt), -1, -1) if text.endswith(prompt, 0, start + n)]
    if behind:
        start += behind[0]
    start = _without_empty_reasoning(format, text, start)
    if not behind and start == turn.start:
        raise UsageError(
            f"the chat template ({format.source}) begins an answer with "
            f"{text[turn.start : turn.start + 40]!r}, where "
            f"a server's prompt ends with {prompt!r}; name another one in `model.chat_template`"
        )
    return Span(start, _end(format, text, start, turn.end, answer))


def _check_reasoning(format: ChatFormat, turn: str, answer: str) -> None:
    """Earlier turns lose their reasoning in many templates, as they do when they are served; the
    last one must not."""
    reasoning = split_reasoning(answer)[0]
    if reasoning and reasoning not in turn and not CLOSED_REASONING.search(format.prompt):
        raise UsageError(
            f"the chat template ({format.source}) leaves out the reasoning of the data "
            f"({reasoning[:40]!r}); take it "
            "out of the data, or name another template in `model.chat_template`"
        )


def _without_empty_reasoning(format: ChatFormat, text: str, start: int) -> int:
    opened = OPEN_REASONING.search(text, 0, start) is not None
    empty = (REST_OF_EMPTY_REASONING if opened else EMPTY_REASONING).match(text, start)
    return empty.end() if empty else start


def _end(format: ChatFormat, text: str, start: int, limit: int, answer: str) -> int:
    """Where the answer that begins at `start` ends: behind the first run of end tokens after its
    words. What follows them up to `limit` (a newline, a token that closes the whole chat) no served
    model ever writes."""
    words = split_reasoning(answer)[1].strip()
    tails = _tails(format.end_tokens)
    written = text.find(words, start, limit)
    first = written
    while written >= 0:
        # The same words may stand in a header or inside an end token: nothing but end tokens may
        # follow them.
        tail = tails.match(text, written + len(words), limit)
        if tail is not None:
            return tail.end("end") if tail["end"] else limit
        written = text.find(words, written + 1, limit)
    if first < 0:
        raise UsageError(
            f"the chat template ({format.source}) does not write an answer as the data have it: "
            f"{words[:60]!r}; name "
            "another one in `model.chat_template`"
        )
    rest = text[first + len(words) : limit].strip()
    raise UsageError(
        f"the chat template ({format.source}) ends a turn with {rest[:60]!r}, which is no token of "
        "this tokenizer, so "
        "that no server would stop there; name a template in `model.chat_template` whose tokens "
        "the model knows"
    )


@lru_cache(maxsize=8)
def _tails(end_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """The rest of a turn: a run of end tokens, and whatever of them and of white space follows."""
    ends = "|".join(re.escape(token) for token in end_tokens) or r"(?!)"
    return re.compile(rf"(?P<end>\s*(?:{ends})+)?(?:\s|{ends})*\Z")


def _with_one_end(format: ChatFormat, text: str, spans: Sequence[Span]) -> list[Span]:
    """The spans, where an earlier turn is not closed by the token that stops a server (but by one
    that says that more follows) without that token."""
    closed = [_closing(format, text, span) for span in spans]
    return [
        Span(span.start, span.end - len(token))
        if token and closed[-1] and token != closed[-1]
        else span
        for span, token in zip(spans, closed, strict=True)
    ]


def _closing(format: ChatFormat, text: str, span: Span) -> str:
    return next(
        (token for token in format.end_tokens if text.endswith(token, span.start, span.end)), ""
    )


def _marked_by_prompts(format: ChatFormat, chat: Chat, *, last_turn_only: bool) -> MarkedText:
    """The serving template as it is. Each answer must follow the very prompt that a server renders
    for it."""
    text = render(format, chat, add_generation_prompt=False)
    spans = []
    for index, message in enumerate(chat):
        if message["role"] != "assistant" or (last_turn_only and index < len(chat) - 1):
            continue
        prompt = render(format, chat[:index], add_generation_prompt=True)
        if not text.startswith(prompt):
            raise UsageError(_why_not(format, chat, index))
        start = _without_empty_reasoning(format, text, len(prompt))
        limit = _turn_end(
            format, text, render(format, chat[: index + 1], add_generation_prompt=False)
        )
        spans.append(Span(start, _end(format, text, start, limit, message["content"])))
    _check_reasoning(format, text[spans[-1].start : spans[-1].end], chat[-1]["content"])
    return MarkedText(text, tuple(_with_one_end(format, text, spans)))


def _turn_end(format: ChatFormat, text: str, turn: str) -> int:
    """Where a turn ends in a longer chat, of which it is rendered as the last. It may then be
    closed by a token that it lacks in the middle, and that begins with the same letters as the next
    turn's header."""
    if text.startswith(turn):
        return len(turn)
    common = text[: _num_common(text, turn)]
    parts = [
        n for token in format.end_tokens for n in range(1, len(token)) if common.endswith(token[:n])
    ]
    return len(common) - max(parts, default=0)


def _num_common(one: str, other: str) -> int:
    """With how many equal characters both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _why_not(format: ChatFormat, chat: Chat, index: int) -> str:
    turns = sum(message["role"] == "assistant" for message in chat)
    what = (
        "rewrites earlier turns when the chat goes on"
        if turns > 1
        else f"writes a finished answer otherwise than it asks for one (its prompt ends with {format.prompt[-40:]!r})"
    )
    one_turn = "train on one turn an example, or " if turns > 1 else ""
    return (
        f"the chat template ({format.source}) {what}, so that the assistant's tokens cannot be "
        "told apart: it has no "
        "{% generation %} marks, and TRL keeps no training template for it. "
        f"What to do: {one_turn}name a template with marks in `model.chat_template`, a file or one "
        "of TRL's families"
    )
