"""A document that holds mistakes, as far as it can be understood: so that what stands behind a
mistake is checked, too.

Mistakes are taken out one by one, with what they make unknowable, until the rest is a block. What
is then said of the rest is only told where it does not rest on something that was taken out.
"""

import copy
import re
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from assay.errors import Problem
from assay.loader.annotations import key_hint
from assay.loader.validation_errors import keys_named, located, mistakes
from assay.loader.yaml.reader import Document, Location, Value
from assay.spec.block import Block
from assay.spec.spec import BLOCKS_ALONE

B = TypeVar("B", bound=Block)

MAX_ROUNDS = 8

STAND_INS: dict[Location, Value] = {
    ("version",): 1,
    ("name",): "unnamed",
    ("model",): "hf:unknown/unknown",
    ("model", "source"): "hf:unknown/unknown",
    ("data",): {"train": "unknown"},
    ("data", "train"): "unknown",
    ("gate",): {"suite": "unknown"},
    ("gate", "suite"): "unknown",
    ("approval",): {"reviewers": ["unknown"]},
    ("approval", "reviewers"): ["unknown"],
}
"""What stands for a key that has to be there and is not, or is wrong. Nothing is told of it."""


class Repaired(NamedTuple, Generic[B]):
    """What can be understood of a document."""

    block: B | None
    gone: frozenset[Location]
    """What was taken out of it, or stands in for what was missing."""
    problems: list[Problem]
    """Mistakes that show only when others are taken out."""

    def is_known(self, location: Location) -> bool:
        """Whether what stands at a location is what the user wrote."""
        return not any(location[: len(gone)] == gone for gone in self.gone)


def repaired(document: Document, cls: type[B]) -> Repaired[B]:
    """The block that the document comes to without its mistakes; None where nothing is left."""
    work = _Work(document, cls)
    for round_ in range(MAX_ROUNDS):
        try:
            block = cls.model_validate(work.value, context={BLOCKS_ALONE: True})
        except ValidationError as error:
            errors = error.errors(include_url=False)
            if round_:
                work.tell(errors)
            if not work.take_out(errors):
                break
        else:
            if round_:
                work.tell(_errors_between(cls, work.value))
            return Repaired(block, frozenset(work.gone), work.problems)
    return Repaired(None, frozenset(work.gone), work.problems)


def _errors_between(cls: type[Block], value: Value) -> list[Any]:
    """What the rules between the blocks say of a value whose blocks are valid."""
    try:
        cls.model_validate(value)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


class _Work:
    def __init__(self, document: Document, cls: type[Block]) -> None:
        self.document = document
        self.cls = cls
        self.value = copy.deepcopy(document.value)
        self.gone: set[Location] = {(key,) for key in document.unread}
        self.meant: set[str] = set()
        """Keys that a misspelt one was probably meant to be: nothing is known of them."""
        self.problems: list[Problem] = []

    def tell(self, errors: list[Any]) -> None:
        """Keeps the rules that are broken by what is left."""
        rules = [one for one in errors if one["type"] == "value_error"]
        found = mistakes(self.cls, Document(self.value, self.document.positions, []), rules)
        self.problems += [one for one in found if not self._rests_on_what_is_gone(one)]

    def _rests_on_what_is_gone(self, problem: Problem) -> bool:
        unknown = {str(location[-1]) for location in self.gone} | self.meant
        # A block that is empty only because its contents were wrong says nothing either.
        for location in self.gone:
            for length in range(1, len(location)):
                if not _at(self.value, location[:length]):
                    unknown.add(str(location[length - 1]))
        return bool(unknown & set(re.findall(r"\w+", problem.message)))

    def take_out(self, errors: list[Any]) -> bool:
        """Removes what is wrong, or puts in what is missing; whether anything was done."""
        before = len(self.gone)
        # Where each lies is found first: what is taken out moves the places of what is left.
        found = located(errors, self.value)
        places = [(error["type"], self._places(error, location)) for error, location in found]
        for kind, locations in places:
            for location in locations:
                if kind == "extra_forbidden" and (key := key_hint(self.cls, location)[1]):
                    self.meant.add(key)
                if kind == "missing":
                    self._fill(location)
                else:
                    self._remove(location)
        return len(self.gone) > before

    def _places(self, error: Any, location: Location) -> list[Location]:
        """What has to go for an error to go: a rule between keys goes with the keys that it
        names."""
        is_rule = error["type"] == "value_error" and isinstance(_at(self.value, location), dict)
        return (keys_named(error, location, self.value) if is_rule else []) or [location]

    def _fill(self, location: Location) -> None:
        inside = _at(self.value, location[:-1])
        if location in STAND_INS and isinstance(inside, dict):
            inside[str(location[-1])] = copy.deepcopy(STAND_INS[location])
            self.gone.add(location)
        else:
            self._remove(location[:-1])

    def _remove(self, location: Location) -> None:
        """Takes the nearest key out: of a list the whole, whose other items would else be counted
        anew."""
        while location and not isinstance(location[-1], str):
            location = location[:-1]
        if not location:
            return
        inside = _at(self.value, location[:-1])
        if not isinstance(inside, dict) or location[-1] not in inside:
            return
        del inside[str(location[-1])]
        self.gone.add(location)
        if location in STAND_INS:
            self._fill(location)


def _at(value: Value, location: Location) -> Value:
    for part in location:
        if isinstance(value, dict):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value
