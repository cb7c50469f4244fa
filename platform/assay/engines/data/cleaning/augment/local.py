"""Products that no model is asked for: slips of the pen, other words, other names. Each is drawn by
the row alone, so that partitioning does not matter."""

import random
import re
from collections.abc import Mapping, Sequence

from assay.engines.data.reading.examples import Example, Message
from assay.spec.augment import AugmentSpec
from assay.text import UNSPACED

_WORD = re.compile(rf"[{UNSPACED}]|[^\W\d_{UNSPACED}]{{3,}}")
"""What gets a slip: a letter of a script without spaces, or a word of three letters and more."""


def question_of(example: Example) -> str:
    """What a product asks otherwise: the last turn of the user's, or the text."""
    return next((turn.content for turn in reversed(_asked(example))), example.text)


def with_question(example: Example, asked: str) -> Example:
    """The example with another question; of a pair both chats have it. The answer stays."""
    if example.text:
        return example._replace(text=asked)
    old = question_of(example)
    return example._replace(
        messages=_replaced(example.messages, old, asked),
        rejected=_replaced(example.rejected, old, asked),
    )


def make(spec: AugmentSpec, example: Example, drawn: random.Random) -> Example | None:
    """One product; None where the example has nothing that could be changed."""
    if spec.swap:
        return _swapped(spec.swap, example, drawn)
    asked = question_of(example)
    if spec.noise is not None:
        changed = _with_slips(asked, spec.noise, drawn)
    else:
        changed = _with_synonyms(asked, spec.synonyms, drawn)
    return with_question(example, changed) if changed != asked else None


def _asked(example: Example) -> list[Message]:
    return [turn for turn in example.messages if turn.role == "user"]


def _replaced(turns: Sequence[Message], old: str, new: str) -> tuple[Message, ...]:
    last = max(
        (place for place, turn in enumerate(turns) if turn.role == "user" and turn.content == old),
        default=None,
    )
    return tuple(
        turn._replace(content=new) if place == last else turn for place, turn in enumerate(turns)
    )


def _with_slips(text: str, share: float, drawn: random.Random) -> str:
    words = list(_WORD.finditer(text))
    if not words:
        return text
    num_slips = max(1, round(share * len(words)))
    for word in sorted(drawn.sample(words, num_slips), key=re.Match.start, reverse=True):
        text = text[: word.start()] + _slip(word[0], drawn) + text[word.end() :]
    return text


def _slip(word: str, drawn: random.Random) -> str:
    """The first letter stays where there are more."""
    place = drawn.randrange(1, len(word)) if len(word) > 1 else 0
    ways = [word[:place] + word[place:] * 2, word[:place] + word[place + 1 :]]
    if len(word) > 1:
        ways[0] = word[: place + 1] + word[place:]
        if place < len(word) - 1:
            ways.append(word[:place] + word[place + 1] + word[place] + word[place + 2 :])
    return drawn.choice(ways)


def _with_synonyms(text: str, synonyms: Mapping[str, Sequence[str]], drawn: random.Random) -> str:
    """Every word of the list is replaced, in the case that it has."""

    def other(match: re.Match[str]) -> str:
        chosen = drawn.choice(synonyms.get(match[0]) or synonyms[match[0].lower()])
        return chosen[0].upper() + chosen[1:] if match[0][0].isupper() else chosen

    return _any_of(synonyms, re.IGNORECASE).sub(other, text)


def _swapped(
    kinds: Mapping[str, Sequence[str]], example: Example, drawn: random.Random
) -> Example | None:
    """Another name stands wherever one stood, so that question and answer agree."""
    found = []
    for kind, names in sorted(kinds.items()):
        in_question = set(_any_of(names).findall(question_of(example)))
        in_answer = set(_any_of(names).findall(_answer(example)))
        found += [(kind, name) for name in sorted(in_question & in_answer)]
    if not found:
        return None
    kind, name = drawn.choice(found)
    said = "\n".join([example.text, *(turn.content for turn in example.messages)])
    # One that is there already would make two things one.
    others = [one for one in kinds[kind] if one != name and one not in said]
    if not others:
        return None
    other, pattern = drawn.choice(others), _any_of([name])

    def put(turns: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(
            turn._replace(content=pattern.sub(lambda _: other, turn.content)) for turn in turns
        )

    return example._replace(messages=put(example.messages), rejected=put(example.rejected))


def _answer(example: Example) -> str:
    is_answered = example.messages and example.messages[-1].role == "assistant"
    return example.messages[-1].content if is_answered else ""


def _any_of(words: Sequence[str] | Mapping[str, object], flags: int = 0) -> re.Pattern[str]:
    """Whole words; between letters of scripts without spaces there is nothing to see."""
    longest_first = sorted(words, key=lambda one: (-len(one), one))
    parts = []
    for word in longest_first:
        edge = "" if re.search(f"[{UNSPACED}]", word) else "[A-Za-z0-9_]"
        before, after = (f"(?<!{edge})", f"(?!{edge})") if edge else ("", "")
        parts.append(f"{before}{re.escape(word)}{after}")
    return re.compile("|".join(parts), flags)
