"""Postal addresses in English and Chinese text: what has a number, and says the street, the post
box, the village or the building."""

import re
from collections.abc import Iterator

_SUFFIX = (
    r"(?:Street|St|Avenue|Ave|Av|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Circle|Cir"
    r"|Place|Pl|Terrace|Ter|Trail|Trl|Parkway|Pkwy|Highway|Hwy|Square|Sq|Way|Crescent|Close|Mews"
    r"|Row|Alley|Walk|Wharf|Quay|Gardens|Grove|Hill|Rise|Green|View|Loop|Pike|Turnpike|Plaza"
    r"|Causeway|Path|Expressway|Freeway|Broadway|Embankment|Parade)\b\.?"
)
_NUMBER = r"(?<![\w.,$€£#/-])\d{1,6}(?:-\d{1,5})?[A-Za-z]?(?:\ 1/2)?(?![\w.,]*\d)"
_TOWARDS = (
    r"(?:[NSEW]\.?|NE|NW|SE|SW|North|South|East|West|Northeast|Northwest|Southeast|Southwest)"
)
_NAME = r"(?:(?:[A-Z][A-Za-z'\u2019-]*|\d{1,3}(?:st|nd|rd|th))\.?)"
_UNIT = (
    r"(?:(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Room|Rm|Bldg|Building|Flat|Lot)\.?\ ?\#?"
    r"[A-Z]?\d{0,5}[A-Za-z]?(?:-\d+)?|\#\ ?[A-Z]?\d{1,5}[A-Za-z]?|\d{1,2}(?:st|nd|rd|th)\ [Ff]loor)"
)
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]"
    r"|T[NX]|UT|V[AT]|W[AIVY]|PR)"
)
_ZIP = r"\d{5}(?:-\d{4})?"
_POSTCODE = r"[A-Z]{1,2}\d[A-Z\d]?\ ?\d[A-Z]{2}"
_CITY = r"[A-Z][A-Za-z'\u2019.-]+(?:\ [A-Z][A-Za-z'\u2019.-]+){0,2}"
_TOWN = (
    rf"(?:,?[ \n](?:{_STATE}\ {_ZIP}|{_POSTCODE}|{_ZIP})\b"
    rf"|,[ \n]?{_CITY}(?:,?\ (?:{_STATE}|{_CITY}),?\ {_ZIP}|\ {_ZIP}|,?\ {_POSTCODE}|,\ {_STATE})\b"
    rf"|\n{_CITY},?\ (?:{_STATE}\ {_ZIP}|{_POSTCODE})\b)"
)
_INSIDE = rf"(?:,?[ \n]{_UNIT})?"
_TAIL = rf"{_INSIDE}{_TOWN}?(?:,?\ (?:USA|U\.S\.A\.|United\ States|UK|United\ Kingdom)\b)?"
_HEAD = rf"(?:{_UNIT},?\ )?"

_ENGLISH = tuple(
    re.compile(pattern, re.VERBOSE)
    for pattern in (
        rf"(?<!\w)[Pp]\.?\ ?[Oo]\.?\ ?[Bb]ox\ \#?\d{{1,7}}{_TAIL}",
        # Before the suffix stands a name: `2 Street` and `3 Court` are no addresses.
        rf"{_HEAD}{_NUMBER},?\ (?:{_TOWARDS}\ )?{_NAME}(?:\ {_NAME}){{0,3}}?\ {_SUFFIX}"
        rf"(?:\ {_TOWARDS}(?!\w))?{_TAIL}",
        rf"{_HEAD}{_NUMBER},?\ (?:{_TOWARDS}\ )?"
        rf"(?:Broadway|(?:County|State|Rural|Farm)\ (?:Road|Rd|Route)"
        rf"|Route|Rte|Highway|Hwy|Avenue\ (?:[A-Z]\b|of\ the\ [A-Z]\w+))(?:\ \d{{1,4}})?{_TAIL}",
        # Without a suffix the town and its code must follow.
        rf"{_HEAD}{_NUMBER},?\ {_NAME}(?:\ {_NAME}){{0,3}}{_INSIDE}"
        rf",\ {_CITY},?\ (?:{_STATE}\ {_ZIP}|{_POSTCODE})\b",
    )
)
_NO_ADDRESS = re.compile(
    r"(?:Supreme|District|High|Superior|Federal|Circuit|Appeals?|Crown|Criminal) Court"
    r"|(?:Long|Half|Right|Wrong|Only|Best) Way|(?:Hard|Flash|Test|Google|Disk|USB|Tape) Drive"
    r"|Wall Street Journal|Sesame Street"
)

_HAN = r"[\u4e00-\u9fa5]"
_COUNT = r"[A-Za-z]?(?:\d{1,5}(?:-\d{1,5}){0,3}|[一二三四五六七八九十百]{1,4})[A-Za-z]?"
_PART = r"(?:号楼|号院|号门|号|栋|幢|座|单元|弄|支弄|层|楼|室|房|组|队|户|区|期|段)"
_PLACE = (
    r"(?:小区|花园|公寓|大厦|广场|家园|新村|新城|中心|校区|苑|大楼|写字楼|产业园|科技园|工业园)"
)
_ROAD = rf"(?:{_HAN}(?:大道|大街|步行街|胡同)|{_HAN}{{2}}[东西南北中]?(?:路|街|巷|道|弄|里))"
_VILLAGE = rf"{_HAN}{{1,6}}(?:村|屯|庄|寨|镇|乡)"
_CHINESE = re.compile(
    rf"(?:(?:{_ROAD}|{_VILLAGE})[东西南北中]?|{_HAN}{{2}}{_PLACE})\ ?"
    rf"(?:(?:{_HAN}{{2,8}}?{_PLACE})?{_COUNT}{_PART}(?:{_HAN}{{2,8}}?{_PLACE})?\ ?)+"
    r"(?:\d{1,4}(?:-\d{1,4})?(?![\d元%年月日个点次件]))?"
)
_NO_ROAD = re.compile(
    r"(?:[这那哪几两每]|一)[条个]?[路街村道]|[马公网线铁思逛知味频渠报]路?[路街道]\d|频道|街道\d"
)
_LEADING = re.compile(
    r".*(?:[住在到至寄往于是：:，。！？、；,.;!?\s“‘（(我您你他她们的了把请去来从给址家送搬为（]|师傅|昨天|今天|明天"
    r"|上周|[周期][一二三四五六日天末])",
    re.DOTALL,
)
"""All up to the last letter or word that stands before an address, and in none, or hardly one."""
_LONGEST_REGION = 30


def address_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where addresses stand."""
    for pattern in _ENGLISH:
        for match in pattern.finditer(text):
            if not _NO_ADDRESS.search(match[0]):
                yield match.span()
    if text.isascii():
        return
    for match in _CHINESE.finditer(text):
        if not _NO_ROAD.search(match[0]):
            yield _begin(text, match.start()), match.end()


def _begin(text: str, start: int) -> int:
    """Where the name of the road, with its province, town and district, begins."""
    first = max(0, start - _LONGEST_REGION)
    leading = _LEADING.match(text[first : start + 1])
    return first + leading.end() if leading else first
