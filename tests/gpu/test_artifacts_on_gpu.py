"""That a model quantized on a machine with a GPU is loaded again, agrees with what it was made of,
and is served."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from on_gpu import ROOT, make_model, needs_gpu

from assay.engines.compression.llm_compressor import compress
from assay.spec.compress import CompressSpec
from calibrated import write_split

pytestmark = [*needs_gpu, pytest.mark.timeout(600)]

ENGINE = ROOT / ".venv-engine" / "bin" / "python"
SCHEMES = {"FP8_DYNAMIC": 0.65, "W4A16": 0.45}
"""Scheme to the largest share of the bytes; the embeddings stay in 16 bits."""

ASK = """
import sys
from vllm import LLM, SamplingParams
model = LLM(sys.argv[1], max_model_len=256, gpu_memory_utilization=0.3, enforce_eager=True, skip_tokenizer_init=True)
params = SamplingParams(max_tokens=16, ignore_eos=True, detokenize=False)
answers = model.generate([{"prompt_token_ids": list(range(3, 40))}] * 8, params)
assert all(len(answer.outputs[0].token_ids) == 16 for answer in answers)
print("answered")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, with a tokenizer beside it."""
    from tiny import make_model as make_tiny

    folder = tmp_path_factory.mktemp("quantized")
    make_tiny(folder / "tiny")
    made = make_model("llama-1b", folder / "model")
    for file in (folder / "tiny").glob("token*"):
        (made / file.name).write_bytes(file.read_bytes())
    return made


@pytest.fixture(scope="module", params=SCHEMES)
def artifact(request: pytest.FixtureRequest, model: Path) -> tuple[str, Path]:
    """A scheme, and the folder of the model quantized so."""
    scheme = str(request.param)
    target = model.with_name(scheme)
    split = write_split(model.with_name("train.safetensors"), num_texts=16)
    compress(model, target, CompressSpec.model_validate({"scheme": scheme}), split)
    return scheme, target


def test_it_says_nearly_what_it_was_made_of(artifact: tuple[str, Path], model: Path) -> None:
    scheme, folder = artifact
    exact, found = (log_probs(one) for one in (model, folder))
    # The H100: losses of 12.176, 12.178 (FP8_DYNAMIC) and 12.168 (W4A16) on random tokens.
    assert abs(exact - found) < 0.05
    assert size(folder) < SCHEMES[scheme] * size(model)


@pytest.mark.engine
def test_vllm_serves_it(artifact: tuple[str, Path]) -> None:
    if subprocess.run(
        [str(ENGINE), "-c", "import torch; assert torch.version.cuda"], capture_output=True
    ).returncode:
        pytest.skip("the engine's environment has no CUDA: make setup VARIANT=gpu")
    done = subprocess.run(
        [str(ENGINE), "-c", ASK, str(artifact[1])],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert "answered" in done.stdout, done.stderr[-3000:]
    sys.stderr.write(f"\nvLLM serves {artifact[0]}\n")


def log_probs(folder: Path) -> float:
    """The loss on tokens drawn at random."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to("cuda").eval()
    )
    tokens = torch.randint(3, 900, (4, 256), generator=torch.Generator().manual_seed(0)).cuda()
    with torch.inference_mode():
        return float(model(input_ids=tokens, labels=tokens).loss)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
