"""Names of what is built: they stand in run ids, folders and URLs, so that they are plain."""

import re
import unicodedata

LONGEST = 48

NAME = rf"^[a-z0-9]([a-z0-9-]{{0,{LONGEST - 2}}}[a-z0-9])?$"
"""Lower-case letters, digits and dashes; the first and the last are no dashes."""

FALLBACK = "my-model"
"""For a name in which nothing is a letter a-z or a digit."""


def is_name(text: str) -> bool:
    """Whether it may stand as it is."""
    return re.fullmatch(NAME, text) is not None


def slug(text: str) -> str:
    """The nearest name: accents taken off, everything else that is no letter a-z or digit a
    dash."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    bare = "".join(char for char in plain if not unicodedata.combining(char))
    return re.sub(r"[^a-z0-9]+", "-", bare).strip("-")[:LONGEST].strip("-") or FALLBACK


def fault(text: str) -> str:
    """What is wrong with a name, and what it could be."""
    return (
        f"{text!r} is no name: it takes lower-case letters a-z, digits and dashes, such as "
        f"`{slug(text)}`"
    )
