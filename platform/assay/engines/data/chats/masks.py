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
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from assay.engines.data.chats.templates import (
    CLOSED_REASONING,
    OPEN_REASONING,
    Chat,
    ChatFormat,
    Span,
    marked_turns,
    num_common,
    probe,
    render,
    split_reasoning,
)
from assay.errors import UsageError

EMPTY_REASONING = re.compile(r"\s*<think>\s*</think>\s*")
REST_OF_EMPTY_REASONING = re.compile(r"\s*</think>\s*")


class MarkedText(NamedTuple):
    """A rendered chat."""

    text: str
    answers: tuple[Span, ...]
    """What the model itself must write, one an answer of the assistant's."""


def marked(format: ChatFormat, chat: Chat, *, last_turn_only: bool = False) -> MarkedText:
    """A chat as training sees it, and what of it the model must write. Raises `UsageError` when
    that cannot be told apart from the rest."""
    if chat[-1]["role"] != "assistant":
        return MarkedText(render(format, chat, add_generation_prompt=True), ())
    if format.training is None:
        return _marked_by_prompts(format, chat, last_turn_only=last_turn_only)
    text, turns = marked_turns(format, chat)
    if format.adds_reasoning:
        text, turns = _with_reasoning(format, text, turns, chat)
    answers = _answers(chat)
    if len(turns) != len(answers):
        raise UsageError(
            f"the chat template ({format.source}) marks {len(turns)} turns where the chat has "
            f"{len(answers)} of the assistant's; name another one in `model.chat_template`"
        )
    spans = []
    for turn, answer in zip(turns, answers, strict=True):
        spans.append(_cut(format, text, turn, answer))
    _check_reasoning(format, text[spans[-1].start : spans[-1].end], answers[-1])
    if last_turn_only:
        spans = spans[-1:]
    return MarkedText(text, tuple(_with_one_end(format, text, spans)))


def _answers(chat: Chat) -> list[str]:
    return [message["content"] for message in chat if message["role"] == "assistant"]


def answer_start(format: ChatFormat, chat: Chat) -> str:
    """A chat that ends with the user's turn, up to where the words of an answer would stand: the
    server's own prompt and, for a model that reasons, an empty block of reasoning behind it. Serves
    templates that cannot be trained on, too."""
    return render(format, chat, add_generation_prompt=True) + _before_answers(format)


def _before_answers(format: ChatFormat) -> str:
    """What a trained answer stands behind, besides the server's prompt."""
    asked = render(format, probe()[:1], add_generation_prompt=True)
    try:
        text, (answer,) = marked(format, probe())
    except UsageError:
        text = ""
    if text.startswith(asked):
        return text[len(asked) : answer.start]
    return "\n</think>\n\n" if OPEN_REASONING.search(asked) else ""


def end_of_turn(format: ChatFormat) -> str | None:
    """The token with which an answer ends, which is the last that the model must write; None where
    a turn ends without one."""
    text, (answer,) = marked(format, probe())
    return _closing(format, text, answer) or None


def _with_reasoning(
    format: ChatFormat, text: str, turns: Sequence[Span], chat: Chat
) -> tuple[str, list[Span]]:
    """Puts the reasoning of each answer, or an empty block, between the header and the answer,
    where a server's prompt opens that block and the training template leaves it out."""
    answers = _answers(chat)
    header = OPEN_REASONING.sub("", format.prompt)
    whole, spans, copied = "", [], 0
    for turn, answer in zip(turns, answers, strict=False):
        at = turn.start
        # The mark may begin anywhere inside the header, which then stands a little further on.
        for n in range(len(header), -1, -1):
            if text.endswith(header, 0, turn.start + n):
                at += n
                break
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
            f"{text[turn.start : turn.start + 40]!r}, where a server's prompt ends with "
            f"{prompt!r}; name another one in `model.chat_template`"
        )
    return Span(start, _end(format, text, start, turn.end, answer))


def _check_reasoning(format: ChatFormat, turn: str, answer: str) -> None:
    """Earlier turns lose their reasoning in many templates, as they do when they are served; the
    last one must not."""
    reasoning = split_reasoning(answer)[0]
    if reasoning and reasoning not in turn and not CLOSED_REASONING.search(format.prompt):
        raise UsageError(
            f"the chat template ({format.source}) leaves out the reasoning of the data "
            f"({reasoning[:40]!r}); take it out of the data, or name another template in "
            "`model.chat_template`"
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
            f"{words[:60]!r}; name another one in `model.chat_template`"
        )
    rest = text[first + len(words) : limit].strip()
    raise UsageError(
        f"the chat template ({format.source}) ends a turn with {rest[:60]!r}, which is no token of "
        "this tokenizer, so that no server would stop there; name a template in "
        "`model.chat_template` whose tokens the model knows"
    )


@lru_cache(maxsize=8)
def _tails(end_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """The rest of a turn: a run of end tokens, and whatever of them and of white space follows."""
    ends = "|".join(re.escape(token) for token in end_tokens) or r"(?!)"
    return re.compile(rf"(?P<end>\s*(?:{ends})+)?(?:\s|{ends})*\Z")


def _with_one_end(format: ChatFormat, text: str, spans: Sequence[Span]) -> list[Span]:
    """The spans, where an earlier turn is not closed by the token that stops a server (but by one
    that says that more follows) without that token."""
    last = _closing(format, text, spans[-1])
    cut = []
    for span in spans:
        token = _closing(format, text, span)
        if token and last and token != last:
            cut.append(Span(span.start, span.end - len(token)))
        else:
            cut.append(span)
    return cut


def _closing(format: ChatFormat, text: str, span: Span) -> str:
    """The token with which a span ends; empty where it ends without one."""
    for token in format.end_tokens:
        if text.endswith(token, span.start, span.end):
            return token
    return ""


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
        so_far = render(format, chat[: index + 1], add_generation_prompt=False)
        limit = _turn_end(format, text, so_far)
        spans.append(Span(start, _end(format, text, start, limit, message["content"])))
    _check_reasoning(format, text[spans[-1].start : spans[-1].end], chat[-1]["content"])
    return MarkedText(text, tuple(_with_one_end(format, text, spans)))


def _turn_end(format: ChatFormat, text: str, turn: str) -> int:
    """Where a turn ends in a longer chat, of which it is rendered as the last. It may then be
    closed by a token that it lacks in the middle, and that begins with the same letters as the next
    turn's header."""
    if text.startswith(turn):
        return len(turn)
    common = text[: num_common(text, turn)]
    longest = 0
    for token in format.end_tokens:
        for n in range(1, len(token)):
            if common.endswith(token[:n]):
                longest = max(longest, n)
    return len(common) - longest


def _why_not(format: ChatFormat, chat: Chat, index: int) -> str:
    if len(_answers(chat)) > 1:
        what = "rewrites earlier turns when the chat goes on"
        one_turn = "train on one turn an example, or "
    else:
        end = f"its prompt ends with {format.prompt[-40:]!r}"
        what = f"writes a finished answer otherwise than it asks for one ({end})"
        one_turn = ""
    return (
        f"the chat template ({format.source}) {what}, so that the assistant's tokens cannot be "
        "told apart: it has no {% generation %} marks, and TRL keeps no training template for it. "
        f"What to do: {one_turn}name a template with marks in `model.chat_template`, a file or one "
        "of TRL's families"
    )
