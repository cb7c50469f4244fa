"""Others of the same form, made from a keyed digest: ranges that are reserved for examples where a
standard reserves any, and otherwise digits that have no meaning."""

import random
import re
from collections.abc import Callable

from assay.engines.data.cleaning.masking import chinese_names, english_names


def surrogate(kind: str, text: str, digest: bytes) -> str:
    """Another of the kind, written as `text` is written. The same digest gives the same one."""
    # `random` seeded by bytes is the same in every process and version of Python 3.
    drawn = random.Random(digest)
    return _BY_KIND.get(kind, _digits)(text, drawn)


def _digits(text: str, drawn: random.Random) -> str:
    """Every digit is another, and every letter; the first digit, which says what kind of
    number it is, stays."""
    first = re.search(r"\d", text)
    keeps = first.start() if first else -1
    other = ""
    for place, char in enumerate(text):
        other += char if place == keeps else _other(char, drawn)
    return other


def _other(char: str, drawn: random.Random) -> str:
    if char.isdigit():
        return str(drawn.randrange(10))
    if char.isascii() and char.isalpha():
        letter = chr(ord("a") + drawn.randrange(26))
        return letter.upper() if char.isupper() else letter
    # A name in Chinese that stayed would be no surrogate; letters of other scripts become Chinese.
    return drawn.choice(chinese_names.GIVEN) if char.isalpha() else char


def _name(text: str, drawn: random.Random) -> str:
    """Of the same tongue, with as many parts: one that somebody may have, by chance."""
    if not text.isascii() and not any(map(str.isascii, text)):
        surname = drawn.choice(chinese_names.SURNAMES)
        return surname + "".join(drawn.choice(chinese_names.GIVEN) for _ in text[1:3])
    first = drawn.choice(english_names.census_names("first:female", "first:male")).title()
    if " " not in text:
        return first
    return f"{first} {drawn.choice(english_names.census_names('last')).title()}"


def _address(text: str, drawn: random.Random) -> str:
    """In a town and a street that are none."""
    number = drawn.randrange(1, 1000)
    return f"{number} Example Street, Anytown" if text.isascii() else f"某市某区某路{number}号"


def _email(_: str, drawn: random.Random) -> str:
    """RFC 2606 reserves example.com."""
    return f"user{drawn.randrange(10**8):08d}@example.com"


def _ip(text: str, drawn: random.Random) -> str:
    """RFC 5737 and RFC 3849 reserve these for documents."""
    if ":" in text:
        return f"2001:db8::{drawn.randrange(1 << 16):x}:{drawn.randrange(1 << 16):x}"
    network = drawn.choice(("192.0.2", "198.51.100", "203.0.113"))
    return f"{network}.{drawn.randrange(1, 255)}"


def _resident_id(_: str, drawn: random.Random) -> str:
    """Of no region (000000 is none), so that it is nobody's; born on a day that there was."""
    born = f"{drawn.randrange(1950, 2010)}{drawn.randrange(1, 13):02d}{drawn.randrange(1, 29):02d}"
    return f"000000{born}{drawn.randrange(1000):03d}{drawn.choice('0123456789X')}"


def _card(text: str, drawn: random.Random) -> str:
    """The last digit is wrong by Luhn's rule: no bank has given it to anybody."""
    from assay.engines.data.cleaning.masking.recognizers import is_card

    made = _digits(text, drawn)
    while is_card(made):
        made = _digits(text, drawn)
    return made


_BY_KIND: dict[str, Callable[[str, random.Random], str]] = {
    "name": _name,
    "address": _address,
    "email": _email,
    "ip": _ip,
    "resident_id": _resident_id,
    "card": _card,
}
