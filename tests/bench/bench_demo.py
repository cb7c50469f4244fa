"""`make bench-demo`: the demo's specs through the real line to the gate, for ten seeds and both
precisions.

A row is one `assay run` of a spec in which only `train.seed` and `train.precision` are other than
in the file: sweep, training, merge, W8A8, engine and gate are the demo's own. Base model, prepared
data and the base model's answers are made once. Finished rows are kept in `--file`, and are not run
again while spec, data and suite stay as they are; a row that was broken off goes on after its last
finished stage. `--rows` says how many more to run now. The README's table is made of the file that
is checked in.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, own_place, running_head

from assay.cli.readme import DEMO_RUNS, demo_table
from assay.engines.cluster.cpu_features import bf16_instructions
from assay.errors import ExitCode
from assay.flow.pipeline.keys import run_id
from assay.loader.load import load_spec, load_suites
from assay.settings import Settings

SPECS = ("country-facts", "country-facts-overconfident")
SPARE = 3
"""Items that every run of the first spec should have left in each hard limit."""
MOST = {"wrong": 11, "refused": 4, "answered": 6}
"""Items of 90, 90 and 120 with which the suite's hard limits are still met."""
VERDICTS = (ExitCode.DONE, ExitCode.GATE_FAILED, ExitCode.GATE_INCONCLUSIVE)

Row = dict[str, Any]


def main() -> None:
    options = _options()
    kept = _kept(options.file)
    wanted = list(product(options.specs, options.precisions, options.seeds))
    todo = [row for row in wanted if not any(_is_of(one, *row) for one in kept)]
    if todo and options.rows:
        with own_place(Settings().home / "bench" / "demo") as settings, running_head(settings):
            for spec, precision, seed in todo[: options.rows]:
                kept.append(_run(spec, precision, seed, settings))
                options.file.write_text("".join(json.dumps(row) + "\n" for row in kept))
                print(_line(kept[-1]), flush=True)
    kept = [row for row in kept if any(_is_of(row, *one) for one in wanted)]
    print(f"\n{demo_table(kept)}\n\n{len(kept)} of {len(wanted)} runs are there")
    missed = [fault for row in kept for fault in _faults(row)]
    print(
        "\n".join(missed)
        or f"each as it should be, with {SPARE} items to spare in every hard limit"
    )
    sys.exit(bool(missed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--specs", nargs="+", default=SPECS, choices=SPECS, help="which of the two (both)"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=("bf16", "fp32"), help="of training (bf16 and fp32)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=range(10), help="of training (0 to 9)"
    )
    parser.add_argument(
        "--rows", type=int, default=1000, help="at most so many more runs now (all)"
    )
    parser.add_argument(
        "--file", type=Path, default=ROOT / DEMO_RUNS, help=f"where finished runs are ({DEMO_RUNS})"
    )
    return parser.parse_args()


def _kept(file: Path) -> list[Row]:
    """The finished runs of the specs as they are now."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    now = {spec: _request(spec) for spec in SPECS}
    return [row for row in rows if row["request"] == now[row["spec"]]]


def _request(spec: str) -> str:
    """The id that the spec would run under: of all that it says, its data and its suite."""
    path = ROOT / "specs" / f"{spec}.yaml"
    loaded = load_spec(path, ROOT)
    return run_id(loaded, load_suites(loaded.gate.suite, ROOT), ROOT)


def _is_of(row: Row, spec: str, precision: str, seed: int) -> bool:
    return bool((row["spec"], row["precision"], row["seed"]) == (spec, precision, seed))


def _run(spec: str, precision: str, seed: int, settings: Settings) -> Row:
    """One run as far as the verdict. Raises `RuntimeError` with what was printed when it does not
    get there."""
    said = yaml.safe_load((ROOT / "specs" / f"{spec}.yaml").read_text())
    said["train"] |= {"precision": precision, "seed": seed}
    file = settings.home / f"{spec}-{precision}-{seed}.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False))
    began = time.monotonic()
    ran = _assay(["run", str(file)], settings)
    seconds = time.monotonic() - began
    if ran.returncode not in VERDICTS:
        raise RuntimeError(
            f"{file.name} ended with {ran.returncode}:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
        )
    loaded = load_spec(file, ROOT)
    run = run_id(loaded, load_suites(loaded.gate.suite, ROOT), ROOT)
    report = json.loads(_assay(["report", run, "--json"], settings).stdout)
    return {
        "spec": spec,
        "precision": precision,
        "seed": seed,
        "request": _request(spec),
        **_counts(report["scorecard"]),
        "learning_rate": next(
            trial["learning_rate"] for trial in report["sweep"]["trials"] if trial["chosen"]
        ),
        "seconds": round(seconds),
        "instructions": bf16_instructions(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _assay(arguments: list[str], settings: Settings) -> "subprocess.CompletedProcess[str]":
    places = {
        "ASSAY_HOME": str(settings.home),
        "ASSAY_RAY_PORT": str(settings.ray_port),
        "ASSAY_DASHBOARD_PORT": str(settings.dashboard_port),
        "ASSAY_SERVE_PORT": str(settings.serve_port),
        "ASSAY_GATEWAY_PORT": str(settings.gateway_port),
    }
    command = [str(Path(sys.executable).parent / "assay"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, check=False
    )


def _counts(scorecard: dict[str, Any]) -> Row:
    """The verdict, and the items behind it."""
    limits = {(limit["task"], limit["metric"]): limit for limit in scorecard["limits"]}
    exact = limits["country_facts_paraphrased", "exact_match"]
    refused = limits["country_facts_paraphrased", "over_abstention"]
    answered = limits["country_facts_unanswerable", "hallucination_rate"]
    chemistry = limits["chemical_elements", "exact_match"]
    base = chemistry["base_observed"]
    return {
        "verdict": scorecard["outcome"],
        "wrong": exact["num_items"] - _items(exact["observed"], exact),
        "refused": _items(refused["observed"], refused),
        "answered": _items(answered["observed"], answered),
        "chemistry": _items(chemistry["observed"] + base, chemistry),
        "chemistry_base": _items(base, chemistry),
        "chemistry_outcome": chemistry["outcome"],
    }


def _items(share: float, limit: dict[str, Any]) -> int:
    return round(share * limit["num_items"])


def _faults(row: Row) -> Iterator[str]:
    """What is not as it should be."""
    name = f"{row['spec']}, {row['precision']}, seed {row['seed']}"
    wanted = "PASS" if row["spec"] == SPECS[0] else "FAIL"
    if row["verdict"] != wanted:
        yield f"{name}: {row['verdict']}, not {wanted}"
    if wanted == "PASS":
        for what, most in MOST.items():
            if row[what] > most - SPARE:
                yield f"{name}: {row[what]} {what}, of which {most - SPARE} should be the most"


def _line(row: Row) -> str:
    return (
        f"{row['spec']:<28} {row['precision']} seed {row['seed']}  {row['verdict']:<12} "
        f"{row['wrong']:2d} wrong, "
        f"{row['refused']:2d} refused, {row['answered']:3d} answered, chemistry "
        f"{row['chemistry']:2d} "
        f"(base {row['chemistry_base']}, {row['chemistry_outcome']}), rate "
        f"{row['learning_rate']:g}, "
        f"{row['seconds']} s"
    )


if __name__ == "__main__":
    main()
