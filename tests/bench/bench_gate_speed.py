"""`make bench-gate`, second part: items/s of the gate's evaluating against the `lm_eval` command
with `--model hf`.

The same model, tasks, chat template and precision, on the same cores: the served engine, through
its slot on Ray Serve, and lm-eval in a process of its own. Both run at once in slices of time, one
stopped while the other runs (see `in_turns`). What is timed is the asking: of lm-eval its bar
"Running … requests", of the gate from the first request to the last answer. Then `assay gate run`
evaluates the same model twice, the second time from what is on file.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from common import ROOT, base_model, demo_spec, met, own_place, running_head
from in_turns import Work, take_slices, tree

from assay.engines.cluster import local_head
from assay.engines.cluster.cpu_features import computes_in_bf16
from assay.engines.deployment import ray_serve
from assay.engines.deployment.application import ServedModel
from assay.engines.deployment.application import application as serving
from assay.engines.evaluation import client, harness, lm_tasks, logprobs, served_model
from assay.engines.evaluation.client import Endpoint
from assay.errors import PlaceError
from assay.records.gate import Evaluation, Outcome, Sample, TaskResult
from assay.rules.gate.verdict import evaluate_limits
from assay.settings import Settings
from assay.spec.gate import REQUESTS_TO_A_REPLICA, SuiteSpec

MODEL_NAME = "bench"
START_TIMEOUT_S = 600.0
NUM_RUNS = 20
GENERATION = ("country_facts_paraphrased", "country_facts_unanswerable", "chemical_elements")
CHOICE = ("capitals_choice", "capitals_listed", "capitals_words")
"""The letter of one of four that are listed; its words; and the words where none are listed, after
26 tokens."""
PARTS = {"generation": (GENERATION,), "multiple choice": tuple((name,) for name in CHOICE)}
"""What is evaluated at a time."""
BARS = {"generation": 3.0, "multiple choice": 1.0}
METRIC = {"generation": "exact_match", "multiple choice": "acc"}
SLICES_S = {"generation": (8.0, 20.0), "multiple choice": (8.0, 8.0)}
"""Turns of the gate and of lm_eval, so that both end at about the same time."""


@dataclass(frozen=True)
class Rate:
    """One way of evaluating one kind of task."""

    items_per_s: float
    scores: dict[str, float]
    """Task to the mean of its metric."""
    num_items: int

    @property
    def seconds(self) -> float:
        return self.num_items / self.items_per_s


def main() -> None:
    options = _options()
    spec = demo_spec()
    model = (options.model or base_model(spec)).resolve()
    with own_place() as settings, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_tasks(folder)
        application = serving(
            ServedModel("blue", MODEL_NAME, str(model)),
            spec.serve,
            settings.engine_python,
            on_gpu=False,
        )
        with running_head(settings):
            api = ray_serve.ServeApi(
                settings.dashboard_url,
                settings.ray_token(),
                settings.serve_port,
                settings.engine_python,
            )
            deployed_at = _deploy(api, application)
            url = ray_serve.wait_until_running(
                api, "blue", timeout_s=START_TIMEOUT_S, deployed_at=deployed_at
            ).url
            endpoint = Endpoint(url, MODEL_NAME, options.in_flight)
            if options.drill:
                _run_again_and_again(endpoint, model, folder, options)
                return _kill_and_go_on(api, endpoint, model, folder, options)
            rates = {
                kind: _together(
                    [
                        _both(settings, api, endpoint, model, folder, kind, names, options)
                        for names in parts
                    ]
                )
                for kind, parts in PARTS.items()
            }
            again_s = _again(settings, url, folder, options)
    return _report(rates, again_s)


def _deploy(api: ray_serve.ServeApi, application: dict[str, Any]) -> float:
    """A young dashboard on a busy machine may take its time."""
    for _ in range(5):
        try:
            return ray_serve.deploy(api, application)
        except PlaceError:
            time.sleep(2)
    return ray_serve.deploy(api, application)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=60, help="items of each task (60)")
    in_flight = f"requests in flight to the engine ({REQUESTS_TO_A_REPLICA})"
    parser.add_argument("--in-flight", type=int, default=REQUESTS_TO_A_REPLICA, help=in_flight)
    parser.add_argument("--batch", type=int, default=16, help="lm-eval's batch size (16)")
    parser.add_argument(
        "--drill",
        action="store_true",
        help=f"evaluate {NUM_RUNS} times anew and kill a replica, instead",
    )
    parser.add_argument("--model", type=Path, help="a model's folder (the demo's base model)")
    return parser.parse_args()


def _write_tasks(folder: Path) -> None:
    """The tasks of both kinds, cut to the wanted items by whoever runs them, side by side in one
    folder."""
    sources = [ROOT / "evals" / "country-facts" / name for name in GENERATION]
    sources.append(ROOT / "evals" / "hallucination" / "capitals_choice")
    for source in sources:
        config = yaml.safe_load(source.with_suffix(".yaml").read_text())
        (folder / f"{source.name}.jsonl").write_bytes(source.with_suffix(".jsonl").read_bytes())
        config["dataset_kwargs"]["data_files"] = str(folder / f"{source.name}.jsonl")
        (folder / f"{source.name}.yaml").write_text(yaml.safe_dump(config))
    choice = yaml.safe_load((folder / "capitals_choice.yaml").read_text())
    words = choice | {
        "task": "capitals_words",
        "doc_to_text": "{{question}}",
        "description": "Answer briefly.",
    }
    for task in (words, choice | {"task": "capitals_listed"}):
        answers = {"doc_to_choice": "{{choices}}"}
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task | answers))


def _both(
    settings: Settings,
    api: ray_serve.ServeApi,
    endpoint: Endpoint,
    model: Path,
    folder: Path,
    kind: str,
    names: tuple[str, ...],
    options: argparse.Namespace,
) -> tuple[Rate, Rate]:
    """The gate's and lm_eval's, evaluating in turns."""
    _evaluate(endpoint, model, folder, names, 1, folder / f"{names[0]}-warm.jsonl")
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        _LmEval(model, folder, names, options) as other,
    ):
        weigher = pool.submit(os.getpid).result()
        other.wait_until_asking()
        answers = folder / f"{names[0]}.jsonl"
        task = pool.submit(_weigh_here, endpoint, model, folder, names, options.items, answers)
        engine = [part for _, pid in ray_serve.engine_pids(api, "blue") for part in tree(pid)]
        ours, theirs = take_slices(
            (
                Work(
                    SLICES_S[kind][0],
                    lambda: [] if task.done() else [*tree(weigher), *engine],
                    lambda: local_head._marked(settings),
                ),
                Work(
                    SLICES_S[kind][1], lambda: tree(other.process.pid) if other.is_asking() else []
                ),
            )
        )
        spans, items = task.result()
        scores, counts = other.results(METRIC[kind])
    count = sum(len(found) for found in items.values())
    own = {name: mean(item.scores[METRIC[kind]] for item in found) for name, found in items.items()}
    gate = Rate(count / sum(ours.seconds_of(*span) for span in spans), own, count)
    lm_eval = Rate(counts / theirs.seconds_of(*other.span), scores, counts)
    for name, rate in (("gate", gate), ("lm_eval", lm_eval)):
        print(
            f"{name:<8} {', '.join(names)}: {rate.num_items} items in {rate.seconds:.1f} s",
            flush=True,
        )
    return gate, lm_eval


def _together(parts: list[tuple[Rate, Rate]]) -> tuple[Rate, Rate]:
    """The rates of both over several parts."""
    gate, lm_eval = (
        Rate(
            sum(rate.num_items for rate in rates) / sum(rate.seconds for rate in rates),
            {name: score for rate in rates for name, score in rate.scores.items()},
            sum(rate.num_items for rate in rates),
        )
        for rates in zip(*parts, strict=True)
    )
    return gate, lm_eval


def _again(settings: Settings, url: str, folder: Path, options: argparse.Namespace) -> float:
    """Seconds of a second `assay gate run` of the same model and suite, from its start to its
    end."""
    (folder / "speed").mkdir()
    for name in GENERATION:
        for file in (folder / f"{name}.yaml", folder / f"{name}.jsonl"):
            (folder / "speed" / file.name).write_bytes(file.read_bytes())
    limits: dict[str, object] = {
        name: {"metric": METRIC["generation"], "at_least": "50%"} for name in GENERATION
    }
    task_settings = {name: {"max_items": options.items} for name in GENERATION}
    (folder / "speed.yaml").write_text(yaml.safe_dump({"limits": limits, "tasks": task_settings}))
    environment = {
        **os.environ,
        "ASSAY_HOME": str(settings.home),
        "ASSAY_RAY_ADDRESS": settings.cluster_address,
        "ASSAY_DASHBOARD_PORT": str(settings.dashboard_port),
        "ASSAY_SERVE_PORT": str(settings.serve_port),
    }
    command = [sys.executable, "-m", "assay.cli.main", "gate", "run", "--suite", "speed.yaml"]
    command += ["--url", url, "--model", MODEL_NAME, "--revision", "1"]
    for _ in range(2):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
        seconds = time.perf_counter() - started
    if "nothing was asked" not in done.stdout:
        sys.exit(f"the second evaluating asked again:\n{done.stdout}\n{done.stderr}")
    return seconds


def _run_again_and_again(
    endpoint: Endpoint, model: Path, folder: Path, options: argparse.Namespace
) -> None:
    """Whether evaluations of the same model give the same verdict, each with another number of
    requests in flight and nothing on file. The limits lie where this model is undecided, passes and
    fails, as near as its answers allow."""
    found: list[dict[str, tuple[Sample, ...]]] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for number in range(NUM_RUNS):
            several, answers = (
                replace(endpoint, num_concurrent=(64, 7, 24)[number % 3]),
                folder / f"run-{number}.jsonl",
            )
            task = pool.submit(
                _weigh_here, several, model, folder, GENERATION, options.items, answers
            )
            found.append(task.result()[1])
    verdicts = Counter(_verdicts(items, found[0]) for items in found)
    said = [{item.id: item.response for items in run.values() for item in items} for run in found]
    changed = sum(other[name] != response for other in said for name, response in said[0].items())
    (verdict, count), *_ = verdicts.most_common(1)
    print(
        f"{count} of {NUM_RUNS} evaluations agree ({', '.join(verdict)}); {changed} answers differ "
        "from the first's"
    )


def _verdicts(
    items: dict[str, tuple[Sample, ...]], first: dict[str, tuple[Sample, ...]]
) -> tuple[Outcome, ...]:
    """The outcomes of limits at, below and above what the first evaluating saw of each task."""
    tasks = tuple(TaskResult(task=name, digest=name, items=found) for name, found in items.items())
    evaluated = Evaluation(artifact_digest="", model_name=MODEL_NAME, tasks=tasks, seconds=1.0)
    limits = {
        name: [
            {"at_least": round(min(1.0, max(0.0, share + shift)), 2)}
            for shift in (-0.15, 0.0, 0.15)
        ]
        for name, found in first.items()
        for share in [mean(item.scores["exact_match"] for item in found)]
    }
    return tuple(
        limit.outcome
        for limit in evaluate_limits(SuiteSpec.model_validate({"limits": limits}), evaluated, None)
    )


def _kill_and_go_on(
    api: ray_serve.ServeApi,
    endpoint: Endpoint,
    model: Path,
    folder: Path,
    options: argparse.Namespace,
) -> None:
    """The engine's replica dies while it is asked; Serve starts another, and nothing is lost or
    asked twice."""
    answers = folder / "killed.jsonl"
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        evaluation = pool.submit(
            _evaluate, endpoint, model, folder, GENERATION, options.items, answers
        )
        while not evaluation.done() and (
            not answers.exists() or len(answers.read_bytes().splitlines()) < 20
        ):
            time.sleep(0.05)
        victims = [pid for _, pid in ray_serve.engine_pids(api, "blue")]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        _, items = evaluation.result()
        seconds = time.monotonic() - began
    found = [item for kind in items.values() for item in kind]
    errors = sum(item.error is not None for item in found)
    lines = len(answers.read_bytes().splitlines())
    print(
        f"killed {len(victims)} replicas: {len(found)} items, {errors} errors, {lines} answers, "
        f"{seconds:.0f} s",
        flush=True,
    )


def _evaluate(
    endpoint: Endpoint,
    model: Path,
    folder: Path,
    names: tuple[str, ...],
    max_items: int,
    answers: Path,
) -> tuple[list[tuple[float, float]], dict[str, tuple[Sample, ...]]]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_weigh_here, endpoint, model, folder, names, max_items, answers).result()


def _weigh_here(
    endpoint: Endpoint,
    model: Path,
    folder: Path,
    names: tuple[str, ...],
    max_items: int,
    answers: Path,
) -> tuple[list[tuple[float, float]], dict[str, tuple[Sample, ...]]]:
    """(from when to when it asked, on the monotonic clock; the items)."""
    spans: list[tuple[float, float]] = []

    def timed(*args: Any, **more: Any) -> list[client.Reply]:
        started = time.monotonic()
        replies = client.request_all(*args, **more)
        spans.append((started, time.monotonic()))
        return replies

    for module in (served_model, logprobs):
        module.request_all = timed  # type: ignore[attr-defined]
    # lm-eval takes the first items; so does the gate here, to ask the same.
    tasks = [lm_tasks.task_file(name, _first(folder / f"{name}.yaml", max_items)) for name in names]
    answered = harness.evaluate(endpoint, tasks, tokenizer=str(model), answers=answers)
    return spans, {result.task: result.items for result in answered.tasks}


def _first(task: Path, count: int) -> Path:
    """A copy of the task that has only so many items."""
    folder = task.parent / f"first-{count}"
    folder.mkdir(exist_ok=True)
    config: dict[str, Any] = yaml.safe_load(task.read_text())
    data = Path(config["dataset_kwargs"]["data_files"])
    cut = folder / f"{task.stem}.jsonl"
    cut.write_text("".join(data.read_text().splitlines(keepends=True)[:count]))
    config["dataset_kwargs"]["data_files"] = str(cut)
    (folder / task.name).write_text(yaml.safe_dump(config))
    return folder / task.name


class _LmEval:
    """The `lm_eval` command, in a process of its own, from when its bar first says that it asks."""

    def __init__(
        self, model: Path, folder: Path, names: tuple[str, ...], options: argparse.Namespace
    ) -> None:
        dtype = "bfloat16" if computes_in_bf16() else "float32"
        command = [
            sys.executable,
            "-m",
            "lm_eval",
            "--model",
            "hf",
            "--model_args",
            f"pretrained={model},dtype={dtype}",
        ]
        command += [
            "--include_path",
            str(folder),
            "--tasks",
            ",".join(names),
            "--apply_chat_template",
        ]
        command += [
            "--batch_size",
            str(options.batch),
            "--limit",
            str(options.items),
            "--device",
            "cpu",
        ]
        command += ["--output_path", str(folder / "out")]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.names = names
        self.out = folder / "out"
        self.lines: list[str] = []
        self.seen: list[float] = []
        """When the bar moved."""
        self.has_asked = False
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self) -> "_LmEval":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if (
                "Running generate_until requests" in line
                or "Running loglikelihood requests" in line
            ):
                self.seen.append(time.monotonic())
                self.has_asked = "100%" in line

    @property
    def span(self) -> tuple[float, float]:
        """From when to when it asked."""
        return self.seen[0], self.seen[-1]

    def wait_until_asking(self) -> None:
        while not self.seen and self.process.poll() is None:
            time.sleep(0.05)
        if not self.seen:
            sys.exit(f"lm_eval failed:\n{''.join(self.lines)[-3000:]}")

    def is_asking(self) -> bool:
        return self.process.poll() is None and not self.has_asked

    def results(self, metric: str) -> tuple[dict[str, float], int]:
        """(the score of each task, the number of items)."""
        self.process.wait()
        self.reader.join()
        if self.process.returncode:
            sys.exit(f"lm_eval failed:\n{''.join(self.lines)[-3000:]}")
        results = json.loads(max(self.out.rglob("results_*.json")).read_text())
        scores = {name: _main_score(results["results"][name], metric) for name in self.names}
        return scores, sum(results["n-samples"][name]["effective"] for name in self.names)


def _main_score(scores: dict[str, Any], metric: str) -> float:
    return float(next(value for name, value in scores.items() if name.split(",")[0] == metric))


def _report(rates: dict[str, tuple[Rate, Rate]], again_s: float) -> None:
    told: dict[str, Any] = {"bench": "gate-speed", "again_s": again_s}
    for kind, bar in BARS.items():
        ours, theirs = rates[kind]
        ratio = ours.items_per_s / theirs.items_per_s
        print(f"\n{kind}")
        print(
            f"  gate {ours.items_per_s:.1f}   lm_eval --model hf {theirs.items_per_s:.1f} items/s"
        )
        print(f"  gate / lm_eval   {ratio:.2f}      {met(ratio, bar)}")
        for name, score in ours.scores.items():
            other = theirs.scores[name]
            count = ours.num_items / len(ours.scores)
            error = max((score * (1 - score) / count) ** 0.5, 1 / count)
            same = "within the standard error" if abs(score - other) <= error else "DIFFERENT"
            print(f"  {name:<28} {score:.3f} and {other:.3f}: {same} ({error:.3f})")
        told[kind] = {"gate": ours.items_per_s, "lm_eval": theirs.items_per_s, "ratio": ratio}
    print(f"\nthe same again: {again_s:.1f} s, nothing sent      {met(again_s, 5.0, at_most=True)}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
