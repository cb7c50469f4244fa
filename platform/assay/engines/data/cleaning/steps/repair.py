"""`repair`: broken text is mended."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from assay.engines.data.cleaning.steps.results import Result, RowStep, map_texts, unchanged
from assay.engines.data.reading.examples import Example
from assay.spec.steps import RepairSpec

Change = Callable[[str], str]

CONTROL = re.compile(
    "["
    "\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"  # C0 but tab and line ends, C1
    "\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb"
    "]"
)
"""The zero-width joiner and non-joiner (U+200C, U+200D) stay: Persian, Hindi and emoji need
them."""
HTML = re.compile(
    r"</(p|div|span|a|html|body|table|ul|ol|li|h[1-6]|b|i|em|strong)\s*>|<br\s*/?>", re.IGNORECASE
)
"""Text with a tag that is closed; `a < b` and `List<String>` are none."""
SPACES_AT_END = re.compile(r"[ \t\u00a0\u3000]+(?=\n|$)")
BLANK_LINES = re.compile(r"\n{3,}")


def repairer(spec: RepairSpec) -> RowStep:
    """The step."""
    changes: dict[str, Change] = {}
    # Tags first: what is broken inside them would be mended for nothing. Spaces last: all others
    # leave some.
    if spec.html:
        changes["html"] = _without_html
    if spec.unicode:
        changes["unicode"] = _mended
    if spec.control:
        changes["control"] = partial(CONTROL.sub, "")
    if spec.simplify:
        changes["simplify"] = _simplified
    if spec.whitespace:
        changes["whitespace"] = _trimmed
    return partial(_repaired, changes)


def _repaired(changes: dict[str, Change], example: Example) -> Result:
    counts: Counter[str] = Counter()

    def change(text: str) -> str:
        for name, function in changes.items():
            changed = function(text)
            counts[name] += changed != text
            text = changed
        return text

    mended = map_texts(example, change)
    if mended == example:
        return unchanged(example)
    return Result(mended, {name: count for name, count in counts.items() if count})


def _mended(text: str) -> str:
    if text.isascii():
        return text
    import ftfy

    return str(ftfy.fix_text(text, _ftfy_config()))


@cache
def _ftfy_config() -> Any:
    import ftfy

    # By its defaults ftfy writes full-width punctuation, which Chinese is written with, in ASCII,
    # and straightens quotation marks. Control characters have a switch of their own here.
    return ftfy.TextFixerConfig(
        fix_character_width=False,
        uncurl_quotes=False,
        remove_control_chars=False,
        unescape_html=False,
        explain=False,
    )


def _trimmed(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return BLANK_LINES.sub("\n\n", SPACES_AT_END.sub("", text)).strip("\n \t\u00a0\u3000")


def _without_html(text: str) -> str:
    if not HTML.search(text):
        return text
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(text, main_content=True)) or text


def _simplified(text: str) -> str:
    return text if text.isascii() else str(_converter().convert(text))


@cache
def _converter() -> Any:
    import opencc

    return opencc.OpenCC("t2s")
