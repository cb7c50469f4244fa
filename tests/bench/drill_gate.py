"""`make drill-gate`: a hundred evaluations of a server that fails, and of a gate that is killed.

Half of the models are too bad to pass. Where a fault stays, it hits just those questions that a
model would answer wrongly: a gate that leaves them out, or counts only what it got, would pass
every one. A verdict must never be PASS for a bad model; a fault that goes by must not change a
verdict; a killed gate must go on without sending anything twice that was answered.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from assay.engines.evaluation import harness, lm_tasks
from assay.engines.evaluation.client import Endpoint
from assay.records.gate import Evaluation, Outcome
from assay.rules.gate.verdict import evaluate_limits, overall
from assay.spec.gate import SuiteSpec
from served import Counting, OpenAI
from servers import serving

NUM_ITEMS = 60
IN_FLIGHT = 8
SUITE = SuiteSpec.model_validate(
    {"limits": {"facts": {"metric": "exact_match", "at_least": "60%"}}}
)
SHARES = {"good": 0.9, "bad": 0.45}
WITHOUT_FAULTS: dict[str, Outcome] = {"good": "PASS", "bad": "FAIL"}
PASSING = (
    "none",
    "HTTP 500 now and then",
    "hang-ups now and then",
    "an outage of a second",
    "gate killed",
)
STAYING = ("HTTP 500 that stays", "time-outs that stay", "broken answers that stay")
FAULTS = (*PASSING, *STAYING)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=100, help="evaluations (100)")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first one, to go on after others (0)"
    )
    options = parser.parse_args()
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["lm_eval.evaluator", "lm_eval.tasks", "datasets", "assay.engines.evaluation.harness"]
    )
    os.environ.update(
        {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    )
    told: Counter[tuple[str, str, str]] = Counter()
    mistakes: list[str] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="assay-drill-") as scratch:
        task = _write_task(Path(scratch))
        for number in range(options.first, options.first + options.tries):
            model, fault = ("good", "bad")[number % 2], FAULTS[number // 2 % len(FAULTS)]
            folder = Path(scratch) / str(number)
            folder.mkdir()
            outcome, repeated = _try(folder, task, model, fault, random.Random(number), context)
            told[fault, model, outcome] += 1
            if model == "bad" and outcome == "PASS":
                mistakes.append(f"try {number}: false PASS under {fault}")
            if fault in PASSING and outcome != WITHOUT_FAULTS[model]:
                mistakes.append(
                    f"try {number}: {fault} changed the verdict on a {model} model to {outcome}"
                )
            if fault in STAYING and outcome != "INCONCLUSIVE":
                mistakes.append(f"try {number}: {fault} and yet {outcome} for a {model} model")
            if repeated > (IN_FLIGHT if fault == "gate killed" else 0):
                mistakes.append(f"try {number}: {repeated} answered requests were sent again")
    for (fault, model, outcome), count in sorted(told.items()):
        print(f"{fault:<26} {model:<5} {outcome:<13} {count}")
    false_passes = sum("false PASS" in mistake for mistake in mistakes)
    seconds = time.monotonic() - started
    print(
        f"\n{options.tries} tries in {seconds:.0f} s, {false_passes} false PASS, {len(mistakes)} "
        "mistakes in all"
    )
    print(
        json.dumps(
            {
                "drill": "gate",
                "tries": options.tries,
                "false_passes": false_passes,
                "mistakes": mistakes,
            }
        )
    )
    sys.exit(1 if mistakes else 0)


def _try(
    folder: Path, task: Path, model: str, fault: str, draw: random.Random, context: Any
) -> tuple[Outcome, int]:
    """(the verdict, how many requests were sent although an answer had been sent before)."""
    right = set(draw.sample(range(NUM_ITEMS), round(SHARES[model] * NUM_ITEMS)))
    with serving(OpenAI, Counting) as server:
        server.answer = lambda question: "yes" if _number(question) in right else "no"
        server.stall_s = 3.0
        answered: Counter[int] = Counter()
        outage = (time.monotonic() + 0.2, time.monotonic() + 1.2)

        def meet(number: int) -> object:
            asked = _number(server.bodies[number - 1]["messages"][-1]["content"])
            found = _fault(fault, asked not in right, draw, time.monotonic(), outage)
            answered[asked] += found is None
            if fault == "gate killed":
                time.sleep(0.005)
            return found

        server.fault = meet
        endpoint = Endpoint(
            server.url,
            "drill",
            IN_FLIGHT,
            patience_s=0.5 if fault in STAYING else 30,
            timeout_s=0.8,
        )
        arguments = (endpoint, task, folder)
        if fault == "gate killed":
            victim = context.Process(target=_evaluate, args=arguments)
            victim.start()
            _wait_for_lines(folder / "answers.jsonl", draw.randrange(1, NUM_ITEMS - 10), victim)
            victim.kill()
            victim.join()
        child = context.Process(target=_evaluate, args=arguments)
        child.start()
        child.join()
    evaluation = Evaluation.model_validate_json((folder / "evaluating.json").read_text())
    return overall(evaluate_limits(SUITE, evaluation, None)), sum(
        count - 1 for count in answered.values() if count > 1
    )


def _fault(
    fault: str, would_be_wrong: bool, draw: random.Random, now: float, outage: tuple[float, float]
) -> object:
    if fault in STAYING:
        kind = {
            "HTTP 500 that stays": 500,
            "time-outs that stay": "stall",
            "broken answers that stay": "torn",
        }[fault]
        return kind if would_be_wrong else None
    if fault == "an outage of a second":
        return 503 if outage[0] <= now < outage[1] else None
    if fault.endswith("now and then") and draw.random() < 0.3:
        return 500 if "500" in fault else "hang up"
    return None


def _evaluate(endpoint: Endpoint, task: Path, folder: Path) -> None:
    found = harness.evaluate(
        endpoint, [lm_tasks.task_file("facts", task)], answers=folder / "answers.jsonl"
    )
    evaluation = Evaluation(
        artifact_digest="a" * 64, model_name="drill", tasks=found.tasks, seconds=1.0
    )
    (folder / "evaluating.json").write_text(evaluation.model_dump_json())


def _write_task(folder: Path) -> Path:
    lines = [{"question": f"is {number} so?", "answer": "yes"} for number in range(NUM_ITEMS)]
    (folder / "facts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": "facts.jsonl"},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "facts.yaml").write_text(json.dumps(task))
    return folder / "facts.yaml"


def _number(question: str) -> int:
    return int(question.split()[1])


def _wait_for_lines(file: Path, count: int, process: Any) -> None:
    end = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < end:
        if file.exists() and len(file.read_bytes().splitlines()) >= count:
            return
        time.sleep(0.002)


if __name__ == "__main__":
    main()
