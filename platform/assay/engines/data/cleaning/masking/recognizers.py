"""Where personal data stand in English and Chinese text: patterns, and checks of what they find.

Patterns are matched against text whose full-width letters and digits, dashes and spaces are written
in ASCII, letter for letter, so that places are the same in both. Chinese letters are word
characters to `re`: no pattern here uses `\\b` or `\\w`.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from assay.engines.data.cleaning.masking.addresses import address_spans
from assay.engines.data.cleaning.masking.names import name_spans

Check = Callable[[str], bool]


class Span(NamedTuple):
    """Where something stands."""

    start: int
    end: int
    kind: str


class Recognizer(NamedTuple):
    """One pattern for one kind; the group `it`, where there is one, is what is masked."""

    kind: str
    pattern: re.Pattern[str]
    check: Check | None = None
    context: re.Pattern[str] | None = None
    """Must be found in the `CONTEXT` characters before or after it."""


CONTEXT = 30
WHOLE_TEXT = {"address": address_spans, "name": name_spans}
"""Kinds that are found by more than a pattern. What comes first counts, and all recognizers come
before: a street may bear the name of a person."""
# Unicode's full-width forms lie at one distance from ASCII (block FF00); then dashes and spaces.
_ASCII = (
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), ord("-"))
    | dict.fromkeys((0x00A0, 0x2007, 0x202F, 0x3000), ord(" "))
)


def _luhn(text: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    total = sum(digits[::2])
    for digit in digits[1::2]:
        doubled = 2 * digit
        total += doubled if doubled <= 9 else doubled - 9
    return total % 10 == 0


_ISSUERS = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}"
    r"|(?:35\d|1800|2131)\d{11,13}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)
"""Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay."""
_WIDER = re.compile(r"(?:50|5[6-8]|6\d|9\d)\d{10,17}")
"""Maestro and national cards: a tenth of all numbers so long would be taken for one."""


def is_card(text: str) -> bool:
    """Whether it is the number of a bank card."""
    return _is_card_of(_ISSUERS, text)


def _is_wider_card(text: str) -> bool:
    return _is_card_of(_WIDER, text)


def _is_card_of(issuers: re.Pattern[str], text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    # A row of equal digits may check, too, and is a placeholder.
    return issuers.fullmatch(digits) is not None and _luhn(digits) and len(set(digits)) > 1


def is_resident_id(text: str) -> bool:
    """Whether the last of a Chinese resident's 18 digits checks (GB 11643-1999)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(weight * int(char) for weight, char in zip(weights, text, strict=False))
    return "10X98765432"[total % 11] == text[17].upper()


_IBAN_COUNTRIES = re.compile(
    "A[DELTZ]|B[AEGHRY]|C[HRYZ]|D[EKO]|E[EGS]|F[IOR]|G[BEILRT]|H[RU]|I[ELQST]|JO|K[WZ]|L[BCITUVY]"
    "|M[CDEKRTU]|N[LO]|OM|P[KLST]|QA|R[OSU]|S[ACDEIKMOTV]|T[LNR]|UA|V[AG]|XK"
)


def is_iban(text: str) -> bool:
    """Whether the country has IBANs and the remainder is 1 (ISO 13616)."""
    joined = text.replace(" ", "")
    if not _IBAN_COUNTRIES.match(joined):
        return False
    moved = joined[4:] + joined[:4]
    # A letter counts as the number that it is to the base of 36: A is 10.
    digits = "".join(str(int(char, 36)) for char in moved)
    return 15 <= len(joined) <= 34 and int(digits) % 97 == 1


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _num_digits(least: int, most: int) -> Check:
    return lambda text: least <= sum(map(str.isdigit, text)) <= most


def _re(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(pattern, re.VERBOSE | re.ASCII | flags)


_CALL = _re(
    r"phone|call|\btel|mobile|cell|fax|text|whatsapp|dial|contact|reach|ring"
    r"|my[ ]number|number[ ]is"
    r"|电话|手机|致电|联系|座机|传真|号码|拨|打给|找",
    re.I,
)
_PAY = _re(r"card|charge|pay|paid|refund|卡|账号|账户|帐号|付款|扣款|退款", re.I)

_DIGIT_GROUPS = _re(r"(?<![A-Za-z\d.])\d(?:[ -]?\d){11,18}(?!\d)")
_EXTENSION = r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,5})?"

RECOGNIZERS: tuple[Recognizer, ...] = (
    Recognizer(
        "email",
        _re(
            r"""(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}
            @(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])"""
        ),
    ),
    Recognizer(
        "iban",
        _re(
            r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?"
            r"(?![A-Za-z0-9])"
        ),
        is_iban,
    ),
    Recognizer(
        "resident_id",
        _re(
            r"""(?<![A-Za-z0-9])[1-8]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])
            (?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![A-Za-z0-9])"""
        ),
        is_resident_id,
    ),
    Recognizer("card", _DIGIT_GROUPS, is_card),
    Recognizer("card", _DIGIT_GROUPS, _is_wider_card, _PAY),
    Recognizer(
        "ip",
        _re(r"(?<![A-Za-z0-9.:])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9:]|\.\d)"),
        _is_ip,
    ),
    Recognizer(
        "ip",
        _re(r"(?<![A-Za-z0-9:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![A-Za-z0-9:])"),
        _is_ip,
    ),
    Recognizer(
        "plate",
        _re(
            r"""[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][ ·•-]?
            (?=[A-Z0-9]*\d)[A-HJ-NP-Z0-9]{4,5}[A-HJ-NP-Z0-9挂学警港澳](?![A-Za-z0-9])"""
        ),
    ),
    Recognizer(
        "wechat",
        _re(
            r"""(?:微信号?|wechat(?:[ ]id)?|weixin|(?<![A-Za-z])(?:vx|wx)|加[vV])[ ]*
            (?:号|is|是|为|叫)?[ ]*[:,]?[ ]*(?P<it>[A-Za-z][A-Za-z0-9_-]{5,19})(?![A-Za-z0-9_@-])""",
            re.I,
        ),
        lambda text: any(char.isdigit() or char in "_-" for char in text),
    ),
    Recognizer(
        "qq",
        _re(
            r"""(?:(?<![A-Za-z])QQ|扣扣|企鹅号?)[ ]*(?:号码?|群号?|number|is)*[ ]*(?:是|为|is)?[ ]*[:,]?
            [ ]*(?P<it>[1-9]\d{4,10})(?!\d)""",
            re.I,
        ),
    ),
    Recognizer(
        "ssn",
        _re(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    ),
    # China: mobile, then landline with its area code.
    Recognizer(
        "phone",
        _re(r"(?<![\d.+-])(?:(?:\+|00)?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\d]|-\d)"),
    ),
    Recognizer(
        "phone",
        _re(
            r"""(?<![\d.-])(?:\+?86[ -]?)?(?:\(0\d{2,3}\)[ -]?|0\d{2,3}[ -])[2-9]\d{2,3}[ -]?\d{4}
            (?:(?:-|[ ]?转|[ ]?分机)[ ]?\d{1,6})?(?!\d)"""
        ),
    ),
    Recognizer("phone", _re(r"(?<![\d.-])(?:400|800)[ -]?\d{3}[ -]?\d{4}(?!\d)"), None, _CALL),
    # With the country's code.
    Recognizer(
        "phone",
        _re(
            r"(?<![\d+])(?:\+|00)[1-9]\d{0,2}[ .-]?(?:\(\d{1,5}\)[ .-]?)?"
            r"\d{1,5}(?:[ .-]?\d{2,5}){1,4}" + _EXTENSION + r"(?!\d)"
        ),
        _num_digits(8, 20),
    ),
    # North America, with its separators; then the United Kingdom and its likes.
    Recognizer(
        "phone",
        _re(
            r"""(?<![\d.-])(?:1[ .-])?(?:\([2-9]\d{2}\)[ .-]?|[2-9]\d{2}[ .-])\d{3}[ .-]\d{4}
            (?:[ ]?(?:x|ext\.?)[ ]?\d{1,5})?(?![\d]|-\d)"""
        ),
    ),
    Recognizer(
        "phone",
        _re(r"(?<![\d.-])(?:\(0\d{2,4}\)[ ]?|0\d{2,4}[ -])\d{3,4}[ -]?\d{3,4}(?!\d)"),
        _num_digits(9, 12),
    ),
    Recognizer("phone", _re(r"(?<![\d.-])[2-9]\d{9}(?:x\d{1,5})?(?!\d)"), None, _CALL),
    Recognizer("phone", _re(r"(?<![\d.-])[2-9]\d{2,3}[ -]\d{4}(?![\d]|-\d)"), None, _CALL),
    Recognizer("phone", _re(r"(?<![\d.-])0\d{9,11}(?!\d)"), None, _CALL),
)
"""Those that come first count where two find the same place."""


def spans_of(
    text: str, kinds: Sequence[str], patterns: Mapping[str, re.Pattern[str]]
) -> list[Span]:
    """What is to be masked, in the order of the text; no two overlap. The user's own patterns come
    first."""
    plain = text.translate(_ASCII)
    recognizers = [Recognizer(kind, pattern) for kind, pattern in patterns.items()]
    recognizers += [one for one in RECOGNIZERS if one.kind in kinds]
    found: list[Span] = []
    for recognizer in recognizers:
        for span in _found(recognizer, plain):
            if _is_free(span, found):
                found.append(span)
    for kind, spans in WHOLE_TEXT.items():
        if kind not in kinds:
            continue
        for start, end in spans(plain):
            span = Span(start, end, kind)
            if _is_free(span, found):
                found.append(span)
    return sorted(found)


def _is_free(span: Span, found: Sequence[Span]) -> bool:
    """Whether nothing that was found lies over the span."""
    return all(span.end <= other.start or other.end <= span.start for other in found)


def _found(recognizer: Recognizer, text: str) -> Iterator[Span]:
    group = "it" if "it" in recognizer.pattern.groupindex else 0
    for match in recognizer.pattern.finditer(text):
        start, end = match.span(group)
        if start == end or (recognizer.check is not None and not recognizer.check(text[start:end])):
            continue
        beside = f"{text[max(0, start - CONTEXT) : start]} {text[end : end + CONTEXT]}"
        if recognizer.context is None or recognizer.context.search(beside):
            yield Span(start, end, recognizer.kind)
