"""How quick `assay` is where nothing is run: seconds of the whole process, median of 7, and its
peak memory.

The spec is the demo's, made 300 lines long with every key that `assay render` knows and comments on
them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 7
NUM_LINES = 300
BARS = {"--help": (0.3, 60), "validate": (0.3, 60), "plan": (0.6, None)}
"""Seconds, and MB where there is a bar."""


def main() -> None:
    """Prints a line for each command; exits 1 when one is over its bar."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    is_over = False
    with tempfile.TemporaryDirectory() as folder:
        spec = _long_spec(Path(folder))
        for name, (most_s, most_mb) in BARS.items():
            arguments = [name] if name.startswith("-") else [name, str(spec)]
            seconds, own_s, megabytes = _measured(arguments, Path(folder))
            is_over |= seconds > most_s or (most_mb is not None and megabytes > most_mb)
            bar = f"at most {most_s} s" + (f", {most_mb} MB" if most_mb else "")
            print(
                f"assay {name:<8}  {seconds:.3f} s  {own_s:.3f} s of CPU  {megabytes:.0f} MB  "
                f"({bar})",
                flush=True,
            )
    sys.exit(1 if is_over else 0)


def _long_spec(folder: Path) -> Path:
    """The demo's spec with its defaults written out, and filled up with comments."""
    rendered = _assay(["render", "specs/country-facts.yaml"], folder).stdout.splitlines()
    lines = [line for text in rendered for line in ("# what the next line says, and why", text)]
    lines += ["# and more"] * (NUM_LINES - len(lines))
    path = folder / "spec.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _measured(arguments: list[str], folder: Path) -> tuple[float, float, float]:
    """Median seconds, median seconds of CPU, and the highest peak memory in MB. The first call,
    which writes byte code, is not counted."""
    _assay(arguments, folder)
    seconds, own_s, kilobytes = [], [], 0
    for _ in range(REPEATS):
        began = time.perf_counter()
        process = subprocess.Popen(
            _command(arguments), cwd=ROOT, env=_env(folder), stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - began)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        own_s.append(usage.ru_utime + usage.ru_stime)
        kilobytes = max(kilobytes, usage.ru_maxrss)
    return statistics.median(seconds), statistics.median(own_s), kilobytes * 1024 / 1e6


def _assay(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        _command(arguments), cwd=ROOT, env=_env(folder), check=True, capture_output=True, text=True
    )


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "assay.cli.main", *arguments]


def _env(folder: Path) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**env, "ASSAY_HOME": str(folder / "home")}


if __name__ == "__main__":
    main()
