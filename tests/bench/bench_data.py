"""`make bench-data`: what `data.steps` finds, beside what is planted, and how fast.

Near-duplicates are planted among rows of the same form that say something else, and beside ours an
unverified MinHash-LSH (datasketch) deletes on the same rows. Personal data are planted in sentences
with which the rules were not written; numbers by Faker. Bars are held by 95 % bounds.
"""

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import met
from messy_rows import BEYOND_EDITS, PlantedRow, as_record, planted

from assay.engines.data.cleaning.clean import Cleaning, clean
from assay.engines.data.cleaning.cleaned import REASONS, counts_of, write_cleaned
from assay.engines.data.cleaning.masking.mask import masker
from assay.engines.data.reading.examples import Example
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.spec.data import DataSpec
from assay.spec.steps import ALL_KINDS, MaskSpec, step_names
from assay.text import words
from held_out_data import BARS, held_out_sentences
from personal_data import CLEAN_KINDS, Sentence, found_in, personal_sentences

KEY = bytes(32)
NUM_KILLS = 10
WORKERS = 2
PRECISION, RECALL, PII_RECALL, FALSE_MASKS, MINUTES, GROWTH = 0.99, 0.95, 0.99, 0.01, 5.0, 1.15
ALL_STEPS = ["repair", {"select": {"languages": ["en", "zh"]}}, "deduplicate", "mask"]


def main() -> None:
    options = _options()
    if options.one:
        _clean_one(Path(options.one))
        return
    told: dict[str, Any] = {"bench": "data", "rows": options.rows}
    near = near_duplicates(options.rows, options.lsh_rows)
    pii = personal(personal_sentences(options.sentences, seed=23))
    print("sentences that no rule was written with:")
    pii |= {f"held out {name}": one for name, one in personal(held_out(options.sentences)).items()}
    speed = speed_and_memory(options.rows)
    same = kills(options.kill_rows)
    told |= {"near": near, "pii": pii, "speed": speed, "same_after_kills": same}
    print(json.dumps(told))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--lsh-rows", type=int, default=20_000, help="for the unverified LSH")
    parser.add_argument("--sentences", type=int, default=6_000)
    parser.add_argument("--kill-rows", type=int, default=10_000, help="for the kills")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def near_duplicates(num_rows: int, num_lsh_rows: int) -> dict[str, Any]:
    """Deletions that were right, and planted ones that were found, of ours and of plain LSH."""
    rows = planted(num_rows, 0.2, seed=11)
    started = time.perf_counter()
    pairs = _deleted(rows)
    seconds = time.perf_counter() - started
    told = _judged("ours", rows, pairs)
    print(f"{'':22} {len(rows) / seconds:,.0f} rows/s, {WORKERS} processes")
    some = planted(num_lsh_rows, 0.2, seed=11)
    plain = _judged("unverified MinHash-LSH", some, _deleted_by_lsh(some))
    return {"ours": told, "lsh": plain, "rows_per_s": len(rows) / seconds}


def _judged(name: str, rows: list[PlantedRow], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    right = sum(rows[gone].group == rows[kept].group for gone, kept in pairs)
    gone = {row for row, _ in pairs}
    by_group: dict[int, list[int]] = {}
    beyond = [number for number, row in enumerate(rows) if row.edit in BEYOND_EDITS]
    for number, row in enumerate(rows):
        if row.edit not in BEYOND_EDITS:
            by_group.setdefault(row.group, []).append(number)
    # Of a group one stays, whichever: all others are to go.
    wanted = found = 0
    for members in by_group.values():
        wanted += len(members) - 1
        found += min(len(members) - 1, len(gone.intersection(members)))
    lower = clopper_pearson_lower(right, len(pairs), 0.95) if pairs else 0.0
    print(
        f"{name:22} {len(rows):,} rows, {len(pairs):,} deleted: precision {right / len(pairs):.4f} "
        f"(at least {lower:.4f})  {met(lower, PRECISION)}; recall {found / wanted:.4f} "
        f"of {wanted:,}  {met(found / wanted, RECALL)}"
    )
    missed: Counter[str] = Counter()
    for members in by_group.values():
        stays = [rows[number] for number in members if number not in gone]
        if len(stays) > 1:
            missed.update(f"{row.language} {row.edit}" for row in stays if row.edit)
    print(
        f"{'':22} most missed: {dict(missed.most_common(5))}; of {len(beyond)} with synonyms and "
        f"homophones {len(gone.intersection(beyond))} were found"
    )
    return {
        "deleted": len(pairs),
        "precision": right / len(pairs),
        "precision_lower": lower,
        "recall": found / wanted,
        "planted": wanted,
    }


def _deleted(rows: list[PlantedRow]) -> list[tuple[int, int]]:
    """Rows that go and those that stay in their stead, by our step."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder / "train.jsonl", map(as_record, rows))
        out = _cleaned(folder, ["deduplicate"])
        reasons = [json.loads(line) for line in (out / REASONS).read_text().splitlines()]
    return [(_row_number(one["at"]), _row_number(one["kept_at"])) for one in reasons]


def _row_number(at: str) -> int:
    return int(at.rpartition(":")[2]) - 1


def _deleted_by_lsh(rows: list[PlantedRow]) -> list[tuple[int, int]]:
    """The same by MinHash-LSH at 0.8 over three words in a row, as large corpora are cleaned: a row
    goes when the index has any other."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.8, num_perm=128)
    pairs = []
    for number, row in enumerate(rows):
        said = words(f"{row.question}\n{row.answer}")
        shingles = {" ".join(said[at : at + 3]).encode() for at in range(max(1, len(said) - 2))}
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch(shingles)
        if there := index.query(sketch):
            pairs.append((number, min(there)))
        else:
            index.insert(number, sketch)
    return pairs


def held_out(num: int) -> Iterator[Sentence]:
    """Names and addresses."""
    return held_out_sentences(num, seed=29)


def personal(sentences: Iterable[Sentence]) -> dict[str, Any]:
    """Per kind: how many of the planted ones are masked whole; and clean sentences that are
    changed."""
    mask = masker(MaskSpec(kinds=ALL_KINDS), KEY)
    told: dict[str, Any] = {}
    found: Counter[str] = Counter()
    total: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for one in sentences:
        masked = mask(Example(text=one.text)).example
        assert masked is not None
        name = f"{one.language} {one.kind}"
        total[name] += 1
        good = (
            masked.text == one.text if one.kind in CLEAN_KINDS else not found_in(one, masked.text)
        )
        found[name] += good
        if not good:
            examples.setdefault(name, []).append(f"{one.text} -> {masked.text}")
    for name in sorted(total):
        is_clean = name.split()[1] in CLEAN_KINDS
        told[name] = _told(name, found[name], total[name], is_clean)
        for example in examples.get(name, [])[:2]:
            print(f"{'':26} {example}")
    return told


def _told(name: str, good: int, total: int, is_clean: bool) -> dict[str, Any]:
    if is_clean:
        wrong = total - good
        upper = clopper_pearson_upper(wrong, total, 0.95)
        bar = met(wrong / total, FALSE_MASKS, at_most=True)
        print(f"{name:26} {wrong} of {total} changed, at most {upper:.4f}   {bar}")
        return {"changed": wrong, "of": total, "upper": upper}
    lower = clopper_pearson_lower(good, total, 0.95)
    # Numbers and marks are all found: a few hundred of a kind cannot bound 99 %, their share can.
    bar = met(lower, BARS[name]) if name in BARS else met(good / total, PII_RECALL)
    print(f"{name:26} {good} of {total} masked, at least {lower:.4f}   {bar}")
    return {"masked": good, "of": total, "lower": lower}


def speed_and_memory(num_rows: int) -> dict[str, Any]:
    """All steps on two processes; the memory of the process that drives them, for a tenth and for
    all."""
    runs = []
    for rows in (num_rows // 10, num_rows):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            _write(folder / "train.jsonl", map(as_record, planted(rows, 0.2, seed=5)))
            done = subprocess.run(
                [sys.executable, __file__, "--one", scratch], check=True, stdout=subprocess.PIPE
            )
        runs.append({"rows": rows, **json.loads(done.stdout)})
        one = runs[-1]
        print(
            f"{rows:>9,} rows through all steps: {one['seconds']:.0f} s on {WORKERS} processes, "
            f"{one['mb']:.0f} MB here, {one['worker_mb']:.0f} MB the largest worker"
        )
    growth = runs[1]["mb"] / runs[0]["mb"]
    minutes = runs[1]["seconds"] / 60 * 100_000 / num_rows
    print(f"100,000 rows take {minutes:.1f} minutes   {met(minutes, MINUTES, at_most=True)}")
    print(
        f"memory for ten times the rows: {growth:.2f} times   {met(growth, GROWTH, at_most=True)}"
    )
    return {"runs": runs, "growth": growth}


def kills(num_rows: int) -> bool:
    """Kills the process that drives the steps, and its workers, ten times, each after some more
    shards; compares what comes of it with what an undisturbed one writes."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("whole", "killed")]
        for folder in folders:
            folder.mkdir()
            _write(folder / "train.jsonl", map(as_record, planted(num_rows, 0.2, seed=7)))
        whole, killed = folders
        command = [sys.executable, __file__, "--one"]
        subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL)
        num_kills = sum(
            _killed([*command, str(killed)], killed / "scratch") for _ in range(NUM_KILLS)
        )
        subprocess.run([*command, str(killed)], check=True, stdout=subprocess.DEVNULL)
        same = _digests(whole / "out") == _digests(killed / "out")
    print(f"killed {num_kills} times, went on: {'the same bytes' if same else 'OTHER BYTES'}")
    return same and num_kills == NUM_KILLS


def _killed(command: list[str], scratch: Path) -> bool:
    """Starts it, and kills it and its workers once two more files are finished; False where it came
    to its end before."""
    before = _num_files(scratch)
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        if _num_files(scratch) >= before + 2:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
        time.sleep(0.005)
    return False


def _num_files(scratch: Path) -> int:
    finished = ("counts-*", "sketch-*", "verified-*")
    return sum(len(list(scratch.rglob(pattern))) for pattern in finished)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _clean_one(folder: Path) -> None:
    started = time.perf_counter()
    _cleaned(folder, ALL_STEPS)
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "mb": here, "worker_mb": worker}))


def _cleaned(folder: Path, steps: list[Any]) -> Path:
    data = DataSpec.model_validate({"train": "train.jsonl", "steps": steps})
    out = folder / "out"
    with ProcessPoolExecutor(WORKERS) as pool:
        work = Cleaning(data, folder, {}, folder / "scratch", KEY, _in_order(pool), lambda _: None)
        segments = clean(work, ("messages",))
        write_cleaned(segments, data.train, out)
        counts_of(segments, step_names(data.steps), data.train)
    return out


def _in_order(pool: ProcessPoolExecutor) -> Callable[..., Iterator[Any]]:
    """Calls in other processes, of which no more wait than are worked on."""

    def each(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        waiting: deque[Any] = deque()
        for arguments in calls:
            if len(waiting) >= 2 * WORKERS:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, *arguments))
        while waiting:
            yield waiting.popleft().result()

    return each


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
