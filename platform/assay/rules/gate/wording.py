"""How a limit and what was found about it are said."""

from typing import Literal

from assay.records.gate import Reference
from assay.spec.gate import Limit

NAMES: dict[Reference, str] = {"base": "base model", "champion": "champion"}


def requirement(limit: Limit, lower_is_better: bool) -> str:
    """The limit in words, such as `>= base - 2.0%`."""
    if limit.reference is None:
        if limit.at_most is not None:
            return f"<= {limit.at_most:.1%}"
        return f">= {limit.at_least:.1%}"
    margin, better = limit.margin or 0.0, limit.better_than is not None
    sign = "<" if lower_is_better else ">"
    equal = "" if better else "="
    words = f"{sign}{equal} {limit.reference}"
    if margin or not better:
        side = "+" if lower_is_better != better else "-"
        words += f" {side} {margin:.1%}"
    if limit.floor is not None:
        words += f", {sign}= {limit.floor:.1%}"
    return words


def percents(shown: float, threshold: float, sign: Literal["", "+"] = "") -> tuple[str, str]:
    """Both as percentages, with as many digits as it takes to tell them apart."""
    for digits in (1, 2, 3, 4):
        texts = f"{shown:{sign}.{digits}%}", f"{threshold:{sign}.{digits}%}"
        if texts[0] != texts[1] or shown == threshold:
            break
    return texts


def more_items(needed: int | None) -> str:
    """How many samples would settle what is open."""
    if needed is None:
        return "; more items would not settle it at this share"
    return f"; about {needed:,} items would settle it at this share"
