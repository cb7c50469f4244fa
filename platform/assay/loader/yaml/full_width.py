"""Punctuation of Chinese and Japanese input methods, where YAML wants the plain kind."""

import re

PLAIN = {
    "：": ":",
    "，": ",",
    "、": ",",
    "［": "[",
    "］": "]",
    "【": "[",
    "】": "]",
    "｛": "{",
    "｝": "}",
    "“": '"',
    "”": '"',
    "＃": "#",
    "－": "-",
    "％": "%",
    "\u3000": " ",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
}
"""What an input method writes, and what YAML reads."""

NAMES = {
    ":": "colon",
    ",": "comma",
    "[": "bracket",
    "]": "bracket",
    "{": "brace",
    "}": "brace",
    '"': "quote",
    "#": "number sign",
    "-": "dash",
    "%": "percent sign",
    " ": "space",
}

_ANY = re.compile("[" + "".join(PLAIN) + "]")
_KEY = re.compile(r"\s*(- +)?[\w.-]+\s*：")


def first(text: str) -> int | None:
    """Where the first such character stands."""
    found = _ANY.search(text)
    if found:
        return found.start()
    return None


def in_structure(line: str) -> int | None:
    """Where one stands that was meant as YAML's own: behind a key, or inside brackets; None for
    those in plain text.

    `system: 你好，世界` is text and says what it means; `name：bot` and `[5%，100%]` are not."""
    if found := _KEY.match(line):
        return found.end() - 1
    if opened := re.search(r"[\[{]", line):
        inside = first(line[opened.end() :])
        if inside is None:
            return None
        return opened.end() + inside
    indent = len(line) - len(line.lstrip())
    if "\u3000" in line[:indent]:
        return line[:indent].find("\u3000")
    return None


def named(character: str) -> tuple[str, str]:
    """What it is in words, and what to write."""
    plain = PLAIN[character]
    name = NAMES.get(plain, "digit")
    shown = "U+3000" if plain == " " else f"`{character}`"
    written = "a plain space" if plain == " " else f"`{plain}`"
    if plain == ":":
        written += " and a space"
    return f"a full-width {name} ({shown})", f"write {written}"


def plainly(text: str) -> str:
    """The text with plain characters in their place."""
    return _ANY.sub(lambda found: PLAIN[found[0]], text)
