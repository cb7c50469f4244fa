"""Recipes on a tiny real model: each is applied, written, loaded again, and served by vLLM's own
engine; and a damaged export is refused."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assay.engines.compression import calibration, checks, divergence
from assay.engines.compression.divergence import Reading
from assay.engines.compression.llm_compressor import Compressed, compress
from assay.errors import StageFailed
from assay.settings import Settings
from assay.spec.compress import CalibrationSpec, CompressSpec
from calibrated import write_split
from tiny import make_model

pytestmark = [
    pytest.mark.timeout(600),
    # llm-compressor's and compressed-tensors' own, on a model without layers that they know
    pytest.mark.filterwarnings("ignore"),
]


def quantize(**said: Any) -> list[dict[str, Any]]:
    return [{"quantize": said}]


RECIPES: dict[str, Any] = {
    "W8A8": "W8A8",
    "static": quantize(activations="static"),
    "asymmetric": quantize(symmetric=False),
    "per tensor": quantize(weights_per="tensor"),
    "smooth gptq": ["smoothquant", *quantize(method="gptq")],
    "W4A16": "W4A16",
    "W4A16 asymmetric": quantize(scheme="W4A16", symmetric=False),
    "W4A16 channel": quantize(scheme="W4A16", group_size="channel"),
    "W4A16 gptq": quantize(scheme="W4A16", method="gptq"),
    "W4A16 awq": quantize(scheme="W4A16", method="awq"),
    "W4A16 autoround": quantize(scheme="W4A16", method="autoround", iterations=4),
    "mixed": quantize(scheme="W4A16", modules={"self_attn": "W8A8"}),
    "left alone": quantize(scheme="W4A16", modules={"layers.0.": "none"}),
    "FP8_DYNAMIC": "FP8_DYNAMIC",
}
"""What vLLM's CPU build serves."""

NOT_ON_CPU = ("W8A16", "FP8", "NVFP4", "NVFP4A16", "MXFP4", "MXFP4A16")
"""Loaded again by transformers, and refused by vLLM's CPU build."""


def prune(**said: Any) -> dict[str, Any]:
    return {"prune": said}


PRUNED: dict[str, tuple[Any, float, bool]] = {
    "magnitude": ([prune(method="magnitude", sparsity=0.3)], 0.3, False),
    "magnitude 2:4": ([prune(method="magnitude", pattern="2:4")], 0.5, True),
    "wanda": ([prune(method="wanda", sparsity=0.4)], 0.4, False),
    "wanda 2:4": ([prune(method="wanda", pattern="2:4")], 0.5, True),
    "sparsegpt": ([prune(sparsity=0.4)], 0.4, False),
    "sparsegpt 2:4": ([prune(pattern="2:4")], 0.5, True),
    "sparsegpt 2:4 recover W8A8": ([prune(pattern="2:4"), "recover", "W8A8"], 0.5, True),
    "magnitude recover gptq": (
        [prune(method="magnitude"), "recover", *quantize(method="gptq")],
        0.5,
        False,
    ),
}
"""Recipe, the share that becomes 0, and whether it is two of each four."""

MAX_KL = 0.001
"""Nats that a recipe may take a model of random weights away from what it said; 4-bit floats with
quantized activations, the coarsest, gave 0.0003."""


@dataclass(frozen=True)
class Place:
    folder: Path

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    @property
    def split(self) -> Path:
        return self.folder / "train.safetensors"

    def made(self, name: str) -> Path:
        return self.folder / "made" / name.replace(" ", "-")

    def compress(self, name: str, recipe: Any) -> Compressed:
        target = self.made(name)
        shutil.rmtree(target, ignore_errors=True)
        return compress(self.merged, target, CompressSpec.model_validate(recipe), self.split)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("compress"))
    make_model(place.merged)
    _in_bf16(place.merged)
    write_split(place.split)
    return place


def _in_bf16(folder: Path) -> None:
    """As `merge` writes a model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)


QUICK = ("smooth gptq", "mixed", "NVFP4", "wanda 2:4")
"""Those that take another way through the code; the others are run by `make test-long`."""


def each(names: Sequence[str]) -> list[Any]:
    marks = {True: (), False: (pytest.mark.long,)}
    return [pytest.param(name, marks=marks[name in QUICK]) for name in names]


@pytest.mark.parametrize("name", each([*RECIPES, *NOT_ON_CPU]))
def test_a_recipe_makes_a_model_that_is_loaded_again(place: Place, name: str) -> None:
    recipe = RECIPES.get(name, name)
    made = place.compress(name, recipe)
    assert 0 < made.divergence.kl < MAX_KL
    assert made.divergence.num_tokens > 500
    assert made.facts.architecture == "LlamaForCausalLM"
    spec = CompressSpec.model_validate(recipe)
    assert made.num_calibrated == (24 if spec.is_calibrated else 0)
    said = json.loads((place.made(name) / "config.json").read_text())["quantization_config"]
    groups = [group["weights"] for group in said["config_groups"].values()]
    assert spec.quantize is not None
    wanted = {8 if "8" in scheme[:3] else 4 for scheme in spec.quantize.schemes}
    assert {weights["num_bits"] for weights in groups} == wanted


@pytest.mark.parametrize("name", each(list(PRUNED)))
def test_pruned_weights_are_0_when_they_are_loaded_again(place: Place, name: str) -> None:
    recipe, share, is_structured = PRUNED[name]
    made = place.compress(name, recipe)
    assert made.sparsity == pytest.approx(share, abs=0.01)
    assert 0 < made.divergence.kl < 0.1
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(place.made(name))
    zeros = again.get_submodule("model.layers.1.mlp.down_proj").weight == 0
    # Rounding makes small weights 0, too.
    assert float(zeros.float().mean()) >= share - 0.01
    if is_structured:
        assert bool((zeros.reshape(-1, 4).sum(dim=1) >= 2).all())


def test_weights_below_a_threshold_become_0(place: Place) -> None:
    place.compress("threshold", [prune(method="magnitude", threshold=0.01)])
    from transformers import AutoModelForCausalLM

    folders = (place.merged, place.made("threshold"))
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    name = "model.layers.0.self_attn.q_proj"
    first, second = (model.get_submodule(name).weight for model in (before, after))
    assert bool((second == first.where(first.abs() >= 0.01, 0.0)).all())
    assert not bool((before.lm_head.weight == 0).any())
    assert bool((after.lm_head.weight == before.lm_head.weight).all())


@pytest.mark.long
def test_training_makes_up_for_what_was_pruned(place: Place) -> None:
    bare = place.compress("bare", [prune(method="magnitude", pattern="2:4")])
    healed = place.compress(
        "healed",
        [
            prune(method="magnitude", pattern="2:4"),
            {"recover": {"num_epochs": 4, "learning_rate": 1e-3}},
        ],
    )
    assert healed.divergence.kl < 0.5 * bare.divergence.kl
    assert healed.sparsity == bare.sparsity == pytest.approx(0.5, abs=0.001)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [("mixed",), pytest.param((*RECIPES, *PRUNED), marks=pytest.mark.long)],
    ids=["one", "all"],
)
def test_the_engine_serves_a_recipe(place: Place, names: tuple[str, ...]) -> None:
    """vLLM's log-probabilities of the texts are those that transformers computes of the export."""
    texts = calibration.chosen_texts(place.split, CalibrationSpec())[:4]
    for name in names:
        if not place.made(name).is_dir():
            place.compress(name, RECIPES.get(name) or PRUNED[name][0])
    folders = [place.made(name) for name in names]
    asked = json.dumps({"folders": [str(folder) for folder in folders], "texts": texts})
    served = _ask_engine(place.folder, asked)
    for name, folder in zip(names, folders, strict=True):
        reading = divergence.read_folder(folder, texts)
        assert served[str(folder)] == pytest.approx(_mean_logprob(reading), abs=0.02), name


def _mean_logprob(reading: Reading) -> float:
    import torch

    logprobs = torch.log_softmax(reading.logits, dim=-1)
    return float(logprobs.gather(1, reading.targets[:, None].long()).mean())


ASK_ENGINE = """
import gc, json, sys
from pathlib import Path
from vllm import LLM, SamplingParams

asked = json.loads(Path(sys.argv[1]).read_text())
params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
prompts = [{"prompt_token_ids": text} for text in asked["texts"]]
served = {}
for folder in asked["folders"]:
    model = LLM(folder, dtype="bfloat16", max_model_len=128, enforce_eager=True, block_size=32)
    found = []
    for answer in model.generate(prompts, params, use_tqdm=False):
        for token, told in zip(answer.prompt_token_ids[1:], answer.prompt_logprobs[1:]):
            found.append(told[token].logprob)
    served[folder] = sum(found) / len(found)
    del model
    gc.collect()
Path(sys.argv[2]).write_text(json.dumps(served))
"""


def _ask_engine(folder: Path, asked: str) -> dict[str, float]:
    question, answer = folder / "asked.json", folder / "served.json"
    question.write_text(asked)
    engine = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "TORCH_COMPILE_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    python = Settings().engine_python
    done = subprocess.run(
        [python, "-c", ASK_ENGINE, str(question), str(answer)],
        env={**os.environ, **engine},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(answer.read_text()))


def test_calibration_is_chosen_by_digest(tmp_path: Path) -> None:
    """The same texts whatever the order, and no more than asked for."""
    from safetensors.numpy import load_file, save_file

    split = write_split(tmp_path / "train.safetensors", num_texts=40)
    spec = CalibrationSpec(num_samples=10, max_tokens=30)
    chosen = calibration.chosen_texts(split, spec)
    tensors = load_file(split)
    offsets = tensors["offsets"].tolist()
    texts = [tensors["tokens"][a:b] for a, b in itertools.pairwise(offsets)]
    import numpy as np

    reverse = texts[::-1]
    ends = np.cumsum([len(text) for text in reverse])
    turned = {
        "tokens": np.concatenate(reverse),
        "loss_mask": tensors["loss_mask"],
        "offsets": np.concatenate([[0], ends]).astype(np.int64),
    }
    save_file(turned, tmp_path / "turned.safetensors")
    assert calibration.chosen_texts(tmp_path / "turned.safetensors", spec) == chosen
    assert len(chosen) == 10
    assert max(len(text) for text in chosen) <= 30


def test_schemes_that_part_what_vllm_fuses_are_refused(place: Place) -> None:
    with pytest.raises(StageFailed, match="vLLM serves them as one matrix"):
        place.compress("parted", quantize(scheme="W4A16", modules={"q_proj": "W8A8"}))


@dataclass(frozen=True)
class Export:
    """A whole export, and what the model said before it was written."""

    folder: Path
    merged: Path
    texts: list[list[int]]
    memory: Reading

    def check(self, folder: Path) -> None:
        checks.check_export(folder, self.merged)
        checks.check_reloaded(folder, self.texts, self.memory)


@pytest.fixture(scope="module")
def export(place: Place) -> Export:
    recipe = quantize(
        scheme="W4A16", symmetric=False, activations="static", modules={"self_attn": "W8A8"}
    )
    place.compress("whole", recipe)
    texts = calibration.chosen_texts(place.split, CalibrationSpec())
    memory = divergence.read_folder(place.made("whole"), texts)
    return Export(place.made("whole"), place.merged, texts, memory)


def tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A damage to the weights."""

    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "model.safetensors"
        found = {name: tensor.clone() for name, tensor in load_file(file).items()}
        change(found)
        save_file(found, file, {"format": "pt"})

    return damage


def told(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A damage to a JSON file."""

    def damage(folder: Path) -> None:
        said = json.loads((folder / name).read_text())
        change(said)
        (folder / name).write_text(json.dumps(said))

    return damage


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * share)])

    return damage


ATTENTION = "model.layers.0.self_attn.q_proj"
FEED_FORWARD = "model.layers.1.mlp.down_proj"


def times(name: str, factor: float, rows: slice = slice(None)) -> Callable[[Path], None]:
    def change(found: dict[str, Any]) -> None:
        found[name][rows] = (found[name][rows].float() * factor).to(found[name].dtype)

    return tensors(change)


def gone(name: str) -> Callable[[Path], None]:
    return tensors(lambda found: found.pop(name))


def turned(name: str) -> Callable[[Path], None]:
    return tensors(lambda found: found.update({name: found[name].flip(0).contiguous()}))


def scheme_of(module: str, **changes: Any) -> Callable[[Path], None]:
    """Changes what config.json says of the weights of the scheme that a module has."""

    def change(said: dict[str, Any]) -> None:
        for group in said["quantization_config"]["config_groups"].values():
            if any(module in target for target in group["targets"]):
                group["weights"] |= changes

    return told("config.json", change)


def renamed(found: dict[str, Any]) -> None:
    found["model.layers.9.mlp.up_proj.weight"] = found.pop("model.layers.1.input_layernorm.weight")


def vocabulary(said: dict[str, Any]) -> None:
    words = said["model"]["vocab"]
    first, second = list(words)[10:12]
    words[first], words[second] = words[second], words[first]


DAMAGES: dict[str, Callable[[Path], None]] = {
    # tokenizer and template
    "no tokenizer": without("tokenizer.json"),
    "two words of the vocabulary changed places": told("tokenizer.json", vocabulary),
    "a tokenizer that is cut short": cut("tokenizer.json", 0.5),
    "another end of text": told("tokenizer_config.json", lambda it: it.update(eos_token="<pad>")),
    "no chat template": without("chat_template.jinja"),
    "another chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 }}"),
    "no end in the generation settings": told(
        "generation_config.json", lambda it: it.pop("eos_token_id")
    ),
    # configuration
    "no configuration": without("config.json"),
    "a configuration that is cut short": cut("config.json", 0.7),
    "another number of layers": told("config.json", lambda it: it.update(num_hidden_layers=1)),
    "another rotation": told(
        "config.json", lambda it: it["rope_parameters"].update(rope_theta=5e5)
    ),
    "another end in the configuration": told("config.json", lambda it: it.update(eos_token_id=7)),
    "no quantization": told("config.json", lambda it: it.pop("quantization_config")),
    "groups of another size": scheme_of("Linear", group_size=32),
    "other bits": scheme_of("Linear", num_bits=8),
    "offsets that are not said": scheme_of("Linear", symmetric=True),
    # tensors
    "no weights": without("model.safetensors"),
    "weights that are cut short": cut("model.safetensors", 0.9),
    "a tensor is missing": gone("model.norm.weight"),
    "a packed weight is missing": gone(f"{FEED_FORWARD}.weight_packed"),
    "a scale is missing": gone(f"{ATTENTION}.weight_scale"),
    "a packed weight's scale is missing": gone(f"{FEED_FORWARD}.weight_scale"),
    "a tensor of another name": tensors(renamed),
    "a weight of another shape": tensors(
        lambda it: it.update({f"{ATTENTION}.weight": it[f"{ATTENTION}.weight"][:32].contiguous()})
    ),
    "a packed weight of another shape": tensors(
        lambda it: it.update(
            {
                f"{FEED_FORWARD}.weight_packed": it[f"{FEED_FORWARD}.weight_packed"][
                    :, :7
                ].contiguous()
            }
        )
    ),
    "a scale of another shape": tensors(
        lambda it: it.update(
            {f"{ATTENTION}.weight_scale": it[f"{ATTENTION}.weight_scale"][:7].contiguous()}
        )
    ),
    # scales and values
    "a scale that is no number": times(f"{ATTENTION}.weight_scale", float("nan"), slice(0, 1)),
    "an infinite scale": times(f"{FEED_FORWARD}.weight_scale", float("inf"), slice(0, 1)),
    "a scale below 0": times(f"{ATTENTION}.weight_scale", -1.0, slice(3, 4)),
    "scales that are doubled": times(f"{ATTENTION}.weight_scale", 2.0),
    "one scale that is doubled": times(f"{ATTENTION}.weight_scale", 2.0, slice(0, 1)),
    "scales in another order": turned(f"{FEED_FORWARD}.weight_scale"),
    "rows in another order": turned(f"{ATTENTION}.weight"),
    "activations' scale is another": times(f"{ATTENTION}.input_scale", 4.0),
    "offsets of another order": turned(f"{FEED_FORWARD}.weight_zero_point"),
    "norms of another size": times("model.layers.0.input_layernorm.weight", 1.5),
}


def test_a_whole_export_is_taken(export: Export) -> None:
    export.check(export.folder)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_export_is_refused(export: Export, name: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(export.folder, damaged)
    DAMAGES[name](damaged)
    with pytest.raises(StageFailed):
        export.check(damaged)
