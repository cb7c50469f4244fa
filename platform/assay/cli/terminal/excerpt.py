"""The lines around a place in a text, with a caret under it."""

from assay.text import width as columns_of

WIDEST = 100


def excerpt(text: str, line: int, column: int) -> str:
    """A line between its neighbours, with a caret under the column; empty where the text has no
    such line."""
    lines = text.removeprefix("\ufeff").split("\n")
    if not 1 <= line <= len(lines):
        return ""
    offset = max(0, column - WIDEST * 3 // 4)
    digits = len(str(line + 1))
    shown: list[str] = []
    for number in range(line - 1, line + 2):
        if 1 <= number <= len(lines):
            part = _printable(lines[number - 1][offset : offset + WIDEST])
            shown.append(f"{number:>{digits}} | {part}".rstrip())
        if number == line:
            before = _printable(lines[line - 1][offset : max(offset, column - 1)])
            # A place may be just behind its line.
            missing = max(0, column - 1 - max(offset, len(lines[line - 1])))
            shown.append(f"{'':>{digits}} | {' ' * (columns_of(before) + missing)}^")
    return "\n".join(shown)


def _printable(line: str) -> str:
    """The line with one visible character for each of its own, so that the caret stays under its
    place."""
    return "".join(map(_shown, line))


def _shown(char: str) -> str:
    """One character for one: the marks below a line stand under what they mean."""
    if char.isprintable():
        return char
    return {"\t": "→", "\r": " "}.get(char, "�")
