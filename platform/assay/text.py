"""Letters of every script: how texts are compared, cut into words, and shown."""

import re
import string
import unicodedata

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007"  # marks that stand for a character
    "\u3041-\u30ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Letters of scripts that put no space between words, as the inside of a character class."""

# Of text without spaces, about: what jieba 0.42 makes of 400 passages each of CMRC 2018
# (simplified Chinese) and of DRCD (traditional).
CHARACTERS_PER_WORD = 1.8

_PUNCTUATION = str.maketrans(
    {
        "\u3002": ".",  # ideographic full stop
        "\u3001": ",",  # ideographic comma
        "\u30fb": "\u00b7",  # katakana middle dot
        **dict.fromkeys("\u2018\u2019\u300e\u300f", "'"),
        **dict.fromkeys("\u201c\u201d\u300c\u300d", '"'),
    }
)
_SPACE_BESIDE_UNSPACED = re.compile(rf"(?<=[{UNSPACED}])\s+|\s+(?=[{UNSPACED}])")


def normalized(text: str) -> str:
    """The text in Unicode's compatibility form (NFKC: full-width forms, ligatures and composed
    accents become the usual letters), with the usual stops, commas and quotation marks for Chinese
    and Japanese ones, and without spaces beside letters of scripts that have none. Text in ASCII
    comes back as it is."""
    if text.isascii():
        return text
    return _SPACE_BESIDE_UNSPACED.sub(
        "", unicodedata.normalize("NFKC", text).translate(_PUNCTUATION)
    )


def without_punctuation(text: str) -> str:
    """The text without punctuation of any script; of ASCII, without what `string.punctuation`
    lists."""
    if text.isascii():
        return text.translate(_NO_ASCII_PUNCTUATION)
    return "".join(
        char
        for char in text
        if char not in string.punctuation and not unicodedata.category(char).startswith("P")
    )


_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def words(text: str) -> tuple[str, ...]:
    """The words in small letters, without punctuation; where a script has no spaces, each letter is
    one."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


_UNSPACED_WORD = re.compile(f"[{UNSPACED}]")


def word_weight(word: str) -> float:
    """How much of a word one of `words` is: a letter of a script without spaces is a part of
    one."""
    if _UNSPACED_WORD.fullmatch(word):
        return 1 / CHARACTERS_PER_WORD
    return 1.0


_UNSAFE = re.compile(
    "["
    "\u0000-\u0008\u000b-\u001f\u007f-\u009f"  # C0 but tab and newline, delete, C1
    # marks, embeddings, overrides and isolates of direction
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # separators, byte order mark, annotations
    "\ud800-\udfff"  # half of a pair
    "\U000e0000-\U000e007f"  # tags, which no terminal shows
    "]"
)


def printable(text: str) -> str:
    """The text as it may reach a terminal: what would move the cursor, change the terminal's state
    or the direction of reading, or not be seen is shown as its code (`\\u001b`), which is also how
    JSON writes it. Tabs and newlines stay."""
    return _UNSAFE.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def width(text: str) -> int:
    """Columns that the text takes in a terminal: two for a wide letter, none for one that joins its
    neighbour."""
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    if unicodedata.east_asian_width(char) in ("W", "F"):
        return 2
    return 1


def padded(text: str, columns: int) -> str:
    """The text with spaces after it, to a width in a terminal."""
    return text + " " * max(0, columns - width(text))
