"""`make bench-ewc`: what elastic weight consolidation keeps of the demo's retention task, and what
it costs.

The demo's model learns the demo's data, some steps long, without it and with it at some strengths.
The Fisher information is estimated on every second question of the retention task (chemical
elements, of which the data say nothing); what was forgotten is measured on the questions between
them, which no training sees.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, base_model, demo_spec

from assay.engines.data.chats.tokens import Row
from assay.engines.data.reading.sources import read_examples
from assay.engines.data.tokenize import write_rows
from assay.engines.models import folders, methods
from assay.engines.training.batches import PackedSplit, collate
from assay.engines.training.objectives import Frozen, completion_loss
from assay.spec.method import MethodSpec
from assay.spec.train import TrainSpec
from training import train_here

RETENTION = ROOT / "evals" / "country-facts" / "chemical_elements"
BATCH = 10
ANSWER_TOKENS = 16


def main() -> None:
    options = _options()
    spec = demo_spec()
    base, learned = base_model(spec), spec.train_steps[0]
    system = spec.data.system or ""
    items = [json.loads(line) for line in RETENTION.with_suffix(".jsonl").read_text().splitlines()]
    protected, held_out = (
        [_row(system, item) for item in part] for part in (items[::2], items[1::2])
    )
    examples = read_examples(spec.data.train, spec.data.format, system, ROOT)
    rows = [
        Row((tuple({"role": m.role, "content": m.content} for m in example.messages),))
        for example in examples
    ]
    how = {
        **learned.model_dump(exclude={"num_workers", "worker", "deepspeed"}, exclude_none=True),
        "learning_rate": options.rate,
        "max_steps": options.steps,
        "worker": {"threads": options.threads},
        "deepspeed": {"zero_stage": 0},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, part in (("protected", protected), ("held-out", held_out)):
            write_rows(base, part, folder / f"{file}.safetensors", max_length=learned.max_length)
        print(
            f"{options.steps} steps of {learned.global_batch_size} at {options.rate:g}; "
            f"{len(held_out)} questions kept"
        )
        print(f"{'':<22}{'own data, loss':>16}{'retention, loss':>17}{'right':>8}")
        results = {"before": _measured(base, None, folder, held_out)}
        print(_line("before", results["before"], None), flush=True)
        for strength in (None, *options.strengths):
            label = "without" if strength is None else f"ewc, strength {strength:g}"
            more = (
                {}
                if strength is None
                else {"ewc": {"data": "protected.jsonl", "strength": strength}}
            )
            files = {"ewc_file": str(folder / "protected.safetensors")} if more else {}
            output = folder / label.replace(" ", "-")
            outcome = train_here(base, rows, output, {**how, **more}, **files)
            results[label] = _measured(base, output / "weights", folder, held_out) | {
                "own": outcome.selection_loss
            }
            print(_line(label, results[label], outcome.selection_loss), flush=True)
    print(
        json.dumps(
            {"bench": "ewc", "steps": options.steps, "rate": options.rate, "results": results}
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of a training (30)")
    parser.add_argument(
        "--rate", type=float, default=2e-3, help="learning rate (0.002, the demo's choice)"
    )
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[1e6], help="of ewc (1e6, the default)"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (2)")
    return parser.parse_args()


def _row(system: str, item: dict[str, str]) -> Row:
    return Row(
        ((*_asked(system, item["question"]), {"role": "assistant", "content": item["answer"]}),)
    )


def _asked(system: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def _measured(base: Path, adapter: Path | None, folder: Path, rows: list[Row]) -> dict[str, Any]:
    """Mean loss of the right answers' tokens, and the share of greedy answers that the task's
    filter finds right."""
    import torch

    model = methods.base(str(base), MethodSpec(full=True), precision="fp32", num_labels=None)
    model = (model if adapter is None else folders.with_adapter(model, adapter)).eval()
    split = PackedSplit.load(str(folder / "held-out.safetensors"))
    model.config.use_cache = False
    with torch.no_grad():
        losses = [
            completion_loss(model, collate([split[index]]), TrainSpec(), Frozen())
            for index in range(len(split))
        ]
    model.config.use_cache = True
    total, count = (float(sum(part.sum() for part in parts)) for parts in zip(*losses, strict=True))
    right = [
        answer.lower() == row.chats[0][-1]["content"].lower()
        for row, answer in zip(rows, _answers(model, base, rows), strict=True)
    ]
    return {"retention_loss": total / count, "retention": sum(right) / len(right)}


def _answers(model: Any, base: Path, rows: list[Row]) -> list[str]:
    """What the task's own filter takes out of each greedy answer."""
    import torch
    from transformers import AutoTokenizer

    task = yaml.safe_load(RETENTION.with_suffix(".yaml").read_text())
    element = re.compile(task["filter_list"][0]["filter"][0]["regex_pattern"])
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    tokenizer.pad_token_id = methods.pad_token(tokenizer)
    found = []
    for first in range(0, len(rows), BATCH):
        chats = [list(row.chats[0][:-1]) for row in rows[first : first + BATCH]]
        asked = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            tokens = model.generate(
                **asked,
                do_sample=False,
                max_new_tokens=ANSWER_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )
        said = tokenizer.batch_decode(
            tokens[:, asked["input_ids"].shape[1] :], skip_special_tokens=True
        )
        matches = [element.search(text.strip().split("\n")[0]) for text in said]
        found += [match[1] if match else "" for match in matches]
    return found


def _line(label: str, result: dict[str, Any], own: float | None) -> str:
    loss = "" if own is None else f"{own:.3f}"
    return f"{label:<22}{loss:>16}{result['retention_loss']:>17.3f}{result['retention']:>8.0%}"


if __name__ == "__main__":
    main()
