"""The form of a language's table, and how it is read."""

import re
from dataclasses import dataclass, field
from functools import cached_property

NAME = "\ue000"
"""Stands for a quotation inside a clause: whatever it holds is a name there, and not said by the
speaker."""


@dataclass(frozen=True)
class Table:
    """The clauses of one language that say "I do not know", and those that say nothing on the
    matter.

    Each entry is a regular expression that the whole of a clause must match, in small letters after
    NFKC. `<name>` in an entry stands for one of `slots`; `…` for the slot `rest`, which is what the
    clause goes on with. Slots may use slots that stand before them. A quotation is the one letter
    `NAME`.

    To keep the time linear, no entry may repeat without a bound what can match in two ways:
    repetitions have an upper bound or are possessive (`*+`), and `longest` bounds the clause.
    """

    name: str
    slots: dict[str, str]
    openings: tuple[str, ...]
    """May stand before an abstention, in one clause with it: "I'm afraid that"."""
    abstentions: tuple[str, ...]
    asides: tuple[str, ...]
    """Courtesies and sources: they may stand beside an abstention, and are none."""
    advice: tuple[str, ...]
    """How a sentence begins that asks or advises the other: the rest of the sentence is no answer
    either, as long as it does not state something."""
    states: str
    """What stands in a clause that states something: "is"."""
    labels: tuple[str, ...] = ()
    """What may stand before the whole response and a colon: "Answer"."""
    endings: tuple[str, ...] = ()
    """Particles and courtesies after an abstention, in one clause with it."""
    letters: str = ""
    """A clause without one of these letters is not in this language; empty when any may be."""
    variants: dict[int, int] = field(default_factory=dict)
    """Letters that are read as others, such as traditional Chinese ones, for `str.translate`."""
    longest: int = 320
    """Letters of a clause beyond which it is no abstention: nobody takes so long to say it."""

    def is_abstention(self, clause: str) -> bool:
        """Whether the clause says that something is not known."""
        return self._matches(self._abstention, clause)

    def is_aside(self, clause: str) -> bool:
        """Whether the clause says nothing on the matter."""
        return self._matches(self._aside, clause)

    def is_advice(self, clause: str) -> bool:
        """Whether the clause begins a sentence that asks or advises the other."""
        return self._advice.match(clause.translate(self.variants)) is not None

    def states_something(self, clause: str) -> bool:
        """Whether the clause says what something is, as an answer does."""
        return self._statement.search(clause.translate(self.variants)) is not None

    def _matches(self, pattern: re.Pattern[str], clause: str) -> bool:
        if len(clause) > self.longest or (self.letters and not self._letter.search(clause)):
            return False
        return pattern.fullmatch(clause.translate(self.variants)) is not None

    @cached_property
    def _letter(self) -> re.Pattern[str]:
        return re.compile(f"[{self.letters}]")

    @cached_property
    def _abstention(self) -> re.Pattern[str]:
        if self.openings:
            opening = f"(?:{'|'.join(self.openings)}){{0,3}}"
        else:
            opening = ""
        ending = f"(?:{'|'.join(self.endings)}){{0,2}}" if self.endings else ""
        return self._compiled(f"{opening}(?:{'|'.join(self.abstentions)}){ending}")

    @cached_property
    def _aside(self) -> re.Pattern[str]:
        return self._compiled("|".join(self.asides))

    @cached_property
    def _statement(self) -> re.Pattern[str]:
        return self._compiled(self.states)

    @cached_property
    def _advice(self) -> re.Pattern[str]:
        return self._compiled("|".join(self.advice))

    def _compiled(self, entry: str) -> re.Pattern[str]:
        """The entry with its slots filled, from the last to the first."""
        filled = entry
        for name, pattern in reversed(self.slots.items()):
            filled = filled.replace("…", "<rest>").replace(f"<{name}>", f"(?:{pattern})")
        return re.compile(filled)
