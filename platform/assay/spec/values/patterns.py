"""Regular expressions that a suite names: valid, and small enough to be compiled.

The `regex` library writes repeated groups out when it compiles them, so that a pattern of thirty
characters can take all memory (`((a{999}){999}){999}`); its time limit holds for searches alone.
"""

import re
import sys

MAX_CHARACTERS = 2_000
# Of a pattern with its repetitions written out.
MAX_NODES = 100_000
# Of groups in groups: the compiler calls itself for each.
MAX_DEPTH = 100

_COUNT = re.compile(r"\{(\d*)(?:,(\d*))?\}")


def check_pattern(pattern: str) -> str:
    """The pattern, if it can be compiled. Raises ValueError with what is wrong."""
    if len(pattern) > MAX_CHARACTERS:
        raise ValueError(f"a regular expression has at most {MAX_CHARACTERS} characters")
    if _size(pattern) > MAX_NODES:
        raise ValueError("the regular expression's repeated groups are too large when written out")
    import regex  # late: 30 ms that a spec without patterns need not pay

    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return pattern


def _size(pattern: str) -> int:
    """About how many nodes the pattern has with its repetitions written out; `sys.maxsize` for one
    nested too deeply. Letters of a class count each, which is on the safe side."""
    sizes, last, position = [0], 0, 0
    while position < len(pattern):
        character = pattern[position]
        count = _COUNT.match(pattern, position)
        if character == "(":
            sizes.append(0)
            last = 0
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop() + 1
            sizes[-1] += last
        elif character in "+*" or count:
            times = _times(count) if count else 2
            sizes[-1] += last * (times - 1)
            last *= times
        else:
            last = 1
            sizes[-1] += 1
        if len(sizes) > MAX_DEPTH:
            return sys.maxsize
        step = 1
        if count:
            step = len(count[0])
        elif character == "\\":
            step = 2
        position += step
    return sum(sizes)


def _times(count: re.Match[str]) -> int:
    """How often `{m}`, `{m,}` or `{m,n}` writes out what it repeats."""
    numbers = [int(number) for number in count.groups() if number]
    return max(numbers, default=1) + 1
