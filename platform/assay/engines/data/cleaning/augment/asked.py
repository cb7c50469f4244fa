"""Products that a model is asked for, within a budget of tokens."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from assay.engines.data.cleaning.augment.local import question_of, with_question
from assay.engines.data.cleaning.steps.select import language_of
from assay.engines.data.reading.examples import Example
from assay.spec.augment import AskSpec

PROMPTS_AT_ONCE = 256
"""The budget is looked at after so many."""

PARAPHRASE = (
    "Say the text below in other words, in its own language, so that it asks or says the same. "
    "Keep every number, name and unit. Write the new text alone.\n\n{}"
)
TRANSLATE = "Translate the text below into {}. Write the translation alone.\n\n{}"
INSTRUCTION = (
    "Below are a question and its answer. Make another question of the same kind, about something "
    "else, in the same language, and answer it correctly. Write them alone, as JSON: "
    '{{"question": "...", "answer": "..."}}\n\nQuestion: {}\nAnswer: {}'
)


class Prompt(NamedTuple):
    """What a model is asked."""

    text: str
    seed: int
    """Tells apart prompts with one text."""


class Answer(NamedTuple):
    """What it said, and what it cost."""

    text: str
    num_tokens: int


Ask = Callable[[AskSpec, Sequence[Prompt]], list[Answer]]
"""Answers each prompt, from file where it was answered before. Raises `StageFailed` when the server
does not."""


class Asking:
    """One step's questions; what they cost is counted from its first row on, so that a run that
    goes on stops at the same row."""

    def __init__(self, spec: AskSpec, ask: Ask) -> None:
        self.spec, self._ask = spec, ask
        self.num_tokens = 0
        self.num_skipped = 0
        """Products that were not asked for, since the budget was used up."""

    def products(self, wanted: Sequence[tuple[Example, int]]) -> list[Example | None]:
        """A product of each example, told apart by the number; None where there is none."""
        prompts = [Prompt(self._prompt(example), number) for example, number in wanted]
        answers = self._answers(prompts)
        if self.spec.task == "back_translate":
            back = [
                Prompt(TRANSLATE.format(_language(example), answer), number)
                for (example, number), answer in zip(wanted, answers, strict=True)
                if answer is not None
            ]
            returned = iter(self._answers(back))
            answers = [None if answer is None else next(returned) for answer in answers]
        return [
            None if answer is None else self._product(example, answer)
            for (example, _), answer in zip(wanted, answers, strict=True)
        ]

    def _answers(self, prompts: Sequence[Prompt]) -> list[str | None]:
        found: list[str | None] = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[start : start + PROMPTS_AT_ONCE]
            if self.num_tokens >= self.spec.budget:
                self.num_skipped += len(some)
                found += [None] * len(some)
                continue
            for answer in self._ask(self.spec, some):
                self.num_tokens += answer.num_tokens
                found.append(answer.text)
        return found

    def _prompt(self, example: Example) -> str:
        asked = question_of(example)
        if self.spec.task == "paraphrase":
            return PARAPHRASE.format(asked)
        if self.spec.task == "back_translate":
            return TRANSLATE.format(self.spec.via, asked)
        return INSTRUCTION.format(asked, example.messages[-1].content if example.messages else "")

    def _product(self, example: Example, answer: str) -> Example | None:
        if self.spec.task != "instruction":
            asked = answer.strip()
            return with_question(example, asked) if asked else None
        made = _question_and_answer(answer)
        if made is None or not example.messages or example.messages[-1].role != "assistant":
            return None
        asked, said = made
        changed = with_question(example, asked)
        last = changed.messages[-1]._replace(content=said)
        return changed._replace(messages=(*changed.messages[:-1], last), rejected=())


def _language(example: Example) -> str:
    code, _ = language_of(question_of(example))
    return f"the language with the code {code}" if code else "the original language"


def _question_and_answer(answer: str) -> tuple[str, str] | None:
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found: Any = json.loads(answer[start : end + 1])
        asked, said = found["question"], found["answer"]
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(asked, str) and isinstance(said, str) and asked.strip() and said.strip()):
        return None
    return asked.strip(), said.strip()
