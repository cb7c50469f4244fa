"""libyaml's complaints in words that say what to do."""

import re
from collections.abc import Sequence

import yaml

from assay.loader.yaml import full_width


def explained(error: yaml.MarkedYAMLError, text: str) -> tuple[int, int, str, str]:
    """A syntax error as its line, its column, what is wrong, and what to do."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    # libyaml counts one line more at the end of a text whose last line is not ended.
    if line > text.count("\n"):
        line, column = text.count("\n"), len(text) - text.rfind("\n") - 1
    shown = text.split("\n")[line]
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return line + 1, shown.index("\t") + 1, "a tab in the indentation", "indent with spaces"
    began = error.context_mark.line if error.context_mark else line
    # Before libyaml's own words: a full-width colon is text to it, and it complains of what
    # follows.
    if found := _full_width(text.split("\n"), (line, line - 1, began)):
        return found
    if above := _value_above(text.split("\n")[: line + 1]):
        hint = (
            f"line {above} has its value already, or is indented too little: indent both lines "
            "alike"
        )
        indent = len(shown) - len(shown.lstrip())
        return line + 1, indent + 1, "this line is indented deeper than the one above", hint
    problem = str(error.problem)
    for pattern, at_opening, message, hint in _SYNTAX_ERRORS:
        if pattern in f"{error.context}: {problem}":
            if at_opening and error.context_mark:
                line, column = error.context_mark.line, error.context_mark.column
            return line + 1, column + 1, message, hint
    return line + 1, column + 1, f"this is not YAML: {problem}", ""


def _full_width(lines: Sequence[str], numbers: Sequence[int]) -> tuple[int, int, str, str] | None:
    """A full-width character in one of the lines (counted from 0) that was meant as YAML's own."""
    for number in numbers:
        if not 0 <= number < len(lines):
            continue
        at = full_width.in_structure(lines[number])
        if at is not None:
            what, hint = full_width.named(lines[number][at])
            return number + 1, at + 1, f"{what} where YAML wants the plain one", hint
    return None


def _value_above(lines: list[str]) -> int:
    """The number of the line `key: value` above the last one, where that is indented deeper; 0
    where it is not."""
    *above, last = lines
    number = len(above)
    while number and not above[number - 1].strip(" -#"):
        number -= 1
    if not number or not re.match(r" *(- +)?[\w-]+:( |$)", last):
        return 0
    # A block of text, an anchor or nothing may well be followed by deeper lines.
    found = re.match(r"( *)(- +)?[\w-]+: +[^\s#|>&]", above[number - 1])
    if found is None:
        return 0
    depth = len(last) - len(last.lstrip(" "))
    if depth > len(found[1] + (found[2] or "")):
        return number
    return 0


_SYNTAX_ERRORS = (
    # what libyaml says, whether the place is where it began, what we say, what to do
    ("quoted scalar: found unexpected", True, "the quote that opens here is never closed",
     "close it"),
    ("unknown escape", False, "an unknown escape in double quotes",
     "use single quotes, or double the backslash"),
    ("flow sequence", True, "the list that opens here with `[` is not closed with `]`",
     "check commas and quotes"),
    ("flow mapping", True, "the block that opens here with `{` is not closed with `}`",
     "check commas and quotes"),
    ("scanning an alias", True, "text cannot begin with *", "put it in quotes"),
    ("scanning an anchor", True, "text cannot begin with &", "put it in quotes"),
    ("cannot start any token", False, "text cannot begin with this character", "put it in quotes"),
    ("mapping values are not allowed", False, "a colon that cannot stand here",
     "check the indentation, or put text that holds `: ` in quotes"),
    ("could not find expected ':'", True, "a colon is missing: expected `key: value`",
     "check the indentation"),
    ("sequence entries are not allowed", False, "a list item cannot begin here",
     "put `- ` on a line of its own"),
    ("did not find expected '-' indicator", False, "expected another `- ` item of the list here",
     "check the indentation"),
    ("did not find expected key", False, "expected `key: value` here",
     "check the indentation and the quotes"),
    ("did not find expected node content", False, "expected a value here", "check the brackets"),
    ("invalid Unicode", False, "an escape that is no character", "write the character itself"),
    ("did not find expected <document start>", False, "expected `key: value` here",
     "check the indentation"),
)  # fmt: skip
