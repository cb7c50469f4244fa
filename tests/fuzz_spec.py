"""A hundred thousand specs and suites that nobody meant to write: each must end as a spec, or as
errors with places.

`make fuzz-spec` runs them all and prints the counts, the slowest and the largest; a test runs a
thousand. The same seed makes the same inputs.
"""

import json
import os
import random
import resource
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from assay.cli.terminal.excerpt import excerpt
from assay.errors import InvalidInput, Problem
from assay.loader.load import load_spec, load_suite, resolve_spec
from assay.loader.yaml.reader import read_yaml

ROOT = Path(__file__).resolve().parents[1]
NUM_INPUTS = 100_000
MAX_SECONDS = 0.050
"""Of the process's own time; an input that takes longer is loaded again, and the quickest
counts."""
MAX_BYTES = 20 * 2**20
ONE_IN_TRACED = 100
"""Of so many inputs one is watched by tracemalloc, and its time is not counted."""
PLACELESS = {"empty", "no_file", "too_large"}
"""Codes of problems that a whole file has."""

MEMORY = Path("/dev/shm")
"""Where files are quickly written, if there is such a place."""

SEEDS = {
    "spec": [path.read_text() for path in sorted((ROOT / "specs").glob("*.yaml"))],
    "suite": [path.read_text() for path in sorted((ROOT / "evals").glob("*.yaml"))],
}
CORPUS = [path.read_bytes() for path in sorted((ROOT / "tests/corpus").iterdir())]

PIECES = [
    "",
    "x",
    "5%",
    "-1",
    "1e999",
    ".nan",
    "true",
    "null",
    "~",
    "[",
    "]",
    "{",
    "}",
    ": ",
    ":",
    "- ",
    "? ",
    "\n",
]
PIECES += [
    "\t",
    "  ",
    '"',
    "'",
    "*a",
    "&a ",
    "!t ",
    "!!python/object:x ",
    "#",
    "|",
    ">",
    "%",
    "---\n",
    "...\n",
    "<<: *a",
]
PIECES += [
    "\x00",
    "\x7f",
    "\u2028",
    "é",
    "\U0001f600",
    '"\\0"',
    '"\\ud800"',
    "/",
    "..",
    "${env:HOME}",
    "${env:",
    "hf:",
]
PIECES += [
    "<<: *a",
    "train:",
    "lora",
    "gate",
    "extends: spec.yaml\n",
    "[" * 60,
    "9" * 200,
    "0x",
    "0o7",
    "12:30",
    "=",
    "@",
    "`",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    10**30,
    0.5,
    -0.0,
    1e-300,
    "",
    "x",
    "5%",
    "10m",
    "5min",
    "W8A8",
]
VALUES += [
    [],
    {},
    [[]],
    [{}],
    {"": 1},
    {"a": {"a": {"a": 1}}},
    "lora",
    "full",
    "dpo",
    "${env:HOME}",
    "a.jsonl",
    "hf:a/b",
]
VALUES += [
    ["a", "b"],
    [1, 2.5],
    [{"seed": 1}, {"objective": "dpo"}],
    {"lora": {"r": 0}},
    "\u2028",
    "1" * 300,
    "null",
]


@dataclass
class Found:
    """What came of some inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds, and the input's number."""
    largest: tuple[int, int] = (0, -1)
    """Peak bytes of those that were traced, and the input's number."""
    grown: int = 0
    """Bytes of resident memory, from the hundredth input to the last."""
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Takes in what another process found."""
        self.outcomes += other.outcomes
        self.codes += other.codes
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        self.grown = max(self.grown, other.grown)
        self.faults += other.faults


def fuzz(numbers: range) -> Found:
    """Loads the inputs of these numbers, in a folder of their own."""
    found, before = Found(), 0
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        (Path(folder) / "spec").symlink_to(ROOT / "evals/country-facts")
        for count, number in enumerate(numbers):
            _load(number, Path(folder), found)
            if count == 100:
                before = _resident()
        found.grown = max(0, _resident() - before) if before else 0
    return found


def _load(number: int, folder: Path, found: Found) -> None:
    load = _input(random.Random(number), folder)
    is_traced = number % ONE_IN_TRACED == 0
    if is_traced:
        tracemalloc.start()
    seconds, problems, fault = _timed(load)
    if fault:
        found.faults.append(f"input {number}: {fault}")
    if is_traced:
        found.largest = max(found.largest, (tracemalloc.get_traced_memory()[1], number))
        tracemalloc.stop()
    else:
        if seconds > MAX_SECONDS:  # the machine may have been busy, or collecting garbage
            seconds = min(seconds, *(_timed(load)[0] for _ in range(3)))
        found.slowest = max(found.slowest, (seconds, number))
    found.outcomes["valid" if problems is None else "refused"] += 1
    if problems is not None:
        found.codes.update(problem.code for problem in problems)
        found.faults += [f"input {number}: {fault}" for fault in _faults(problems)]


def _timed(load: Callable[[], object]) -> tuple[float, list[Problem] | None, str]:
    """Seconds of the process's own time, the problems if it was refused, and what went wrong if
    that is neither."""
    problems, fault = None, ""
    began = time.process_time()
    try:
        load()
    except InvalidInput as error:
        problems = error.problems
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return time.process_time() - began, problems, fault


def _faults(problems: list[Problem]) -> list[str]:
    """What is wrong with the errors themselves."""
    faults = [] if problems else ["refused without a reason"]
    for problem in problems:
        if not problem.message or not problem.file:
            faults.append(f"a problem without a message or a file: {problem}")
        if (
            not problem.line
            and problem.code not in PLACELESS
            and not problem.file.startswith("--set")
        ):
            faults.append(f"a problem without a place: {problem}")
        json.dumps(problem.as_dict())
    for file in {
        problem.file for problem in problems if problem.line and Path(problem.file).is_file()
    }:
        text = Path(file).read_text(errors="replace")
        last = max(
            (problem for problem in problems if problem.file == file),
            key=lambda problem: problem.line,
        )
        if not excerpt(text, last.line, last.column) and text.strip():
            faults.append(f"a place outside of the file: {last}")
    return faults


def _input(dice: random.Random, folder: Path) -> Callable[[], object]:
    """Writes one input into the folder, and returns what loads it."""
    kind = dice.choice(("spec", "spec", "spec", "suite"))
    (folder / "spec.yaml").write_bytes(_text(dice, kind))
    if kind == "suite":
        return lambda: load_suite(folder / "spec.yaml")
    if dice.random() < 0.2:
        child = "extends: spec.yaml\n" + _mutated_value(dice, "{}", more=3)
        (folder / "child.yaml").write_text(
            child if dice.random() < 0.7 else _mutated_text(dice, child)
        )
        settings = [_setting(dice) for _ in range(dice.randrange(3))]
        return lambda: resolve_spec(folder / "child.yaml", settings)
    return lambda: load_spec(folder / "spec.yaml", ROOT)


def _text(dice: random.Random, kind: str) -> bytes:
    seed, how = dice.choice(SEEDS[kind]), dice.random()
    if how < 0.45:
        return _mutated_text(dice, seed).encode(errors="surrogatepass")
    if how < 0.85:
        return _mutated_value(dice, seed).encode(errors="surrogatepass")
    data = bytearray(dice.choice(CORPUS))
    for _ in range(dice.randrange(4)):
        start = dice.randrange(len(data) + 1)
        data[start : start + dice.randrange(4)] = dice.randbytes(dice.randrange(4))
    return bytes(data)


def _mutated_text(dice: random.Random, text: str) -> str:
    """The text with passages replaced, doubled, moved or cut out."""
    for _ in range(dice.randint(1, 5)):
        start = dice.randrange(len(text) + 1)
        end = min(len(text), start + dice.choice((0, 1, 2, 5, 20, 100)))
        piece = dice.choice([*PIECES, text[start:end] * 2, text[end : end + 30]])
        text = text[:start] + piece + text[end:]
    return text


def _mutated_value(dice: random.Random, text: str, more: int = 0) -> str:
    """The text's value with keys and values exchanged, as JSON, which is YAML."""
    value = deepcopy(_value(text))
    for _ in range(dice.randint(1, 4 + more)):
        _exchange(dice, value)
    written = json.dumps(value, ensure_ascii=dice.random() < 0.9, indent=dice.choice((None, 1)))
    return (
        written[1:-1].strip()
        if more and "\n" not in written and value
        else ""
        if more and not value
        else written
    )


@cache
def _value(text: str) -> Any:
    return read_yaml(text.encode(), "seed").value


def _exchange(dice: random.Random, value: Any) -> None:
    """Changes one place in a value."""
    blocks = [block for block in _inside(value) if isinstance(block, dict | list)]
    block = dice.choice(blocks)
    if isinstance(block, list):
        block.insert(dice.randrange(len(block) + 1), deepcopy(dice.choice(VALUES)))
        return
    key = dice.choice([*block, "train", "lr", "x"])
    match dice.randrange(5):
        case 0:
            block[key] = deepcopy(dice.choice(VALUES))
        case 1:
            block.pop(key, None)
        case 2:
            start = dice.randrange(len(key) + 1)
            block[key[:start] + dice.choice("xe_ 1") + key[start + 1 :]] = block.pop(key, 1)
        case 3:
            other = dice.choice(blocks)
            if isinstance(other, dict):
                other[key] = deepcopy(block.get(key))
        case 4:
            block[key] = [deepcopy(block.get(key)) for _ in range(dice.randrange(3))]


def _inside(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(inner for item in items for inner in _inside(item))]


def _setting(dice: random.Random) -> tuple[str, str]:
    keys = [
        "train",
        "seed",
        "lora",
        "method",
        "data",
        "0",
        "gate",
        "",
        "x",
        "model",
        "source",
        "selection",
    ]
    path = ".".join(dice.choice(keys) for _ in range(dice.randint(1, 4)))
    value = dice.choice(PIECES) if dice.random() < 0.3 else json.dumps(dice.choice(VALUES))
    return "--set", path + dice.choice(("=", "=", "=", "")) + value


def _resident() -> int:
    """Peak bytes of resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Runs them all on every core, prints what was found, and exits 1 when a promise is broken."""
    num_inputs = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_INPUTS
    num_processes = os.cpu_count() or 1
    began, total = time.monotonic(), Found()
    parts = [range(start, num_inputs, num_processes) for start in range(num_processes)]
    with ProcessPoolExecutor(num_processes) as pool:
        for found in pool.map(fuzz, parts):
            total.add(found)
    print(f"{num_inputs:,} inputs in {time.monotonic() - began:.0f} s: ", end="")
    print(", ".join(f"{count:,} {outcome}" for outcome, count in sorted(total.outcomes.items())))
    print(
        "problems: " + ", ".join(f"{code} {count:,}" for code, count in total.codes.most_common())
    )
    print(
        f"slowest: {total.slowest[0] * 1000:.1f} ms (input {total.slowest[1]}), at most "
        f"{MAX_SECONDS * 1000:.0f}"
    )
    print(
        f"largest: {total.largest[0] / 2**20:.1f} MiB (input {total.largest[1]}), at most "
        f"{MAX_BYTES / 2**20:.0f}"
    )
    print(f"resident memory grew by {total.grown / 2**20:.1f} MiB")
    print(f"faults: {len(total.faults)}", *total.faults[:20], sep="\n  ")
    broken = (
        total.faults
        or total.slowest[0] > MAX_SECONDS
        or total.largest[0] > MAX_BYTES
        or total.grown > MAX_BYTES
    )
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
