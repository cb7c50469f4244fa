"""GGUF files by llama.cpp's own converter and kernels: each type is written, loaded again by
llama.cpp, and compared token by token with transformers; what is damaged is refused."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assay.engines.compression import calibration, gguf_export, gguf_model, llm_compressor
from assay.engines.deployment.llama_cpp import LlamaCppApi
from assay.errors import StageFailed
from assay.spec.compress import CalibrationSpec, CompressSpec
from calibrated import write_split
from smollm import make_small
from tiny import make_model

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # gguf's and transformers' own
]

LARGEST_SHARE = {"f16": 1.1, "q8_0": 0.6, "q4_0": 0.35, "q4_k_m": 0.4}
"""Of the bytes of the model in bf16; the vocabulary is in the file, too."""


@dataclass(frozen=True)
class Place:
    folder: Path
    merged: Path
    texts: list[list[int]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("gguf")
    merged = folder / "merged"
    make_small(merged)
    split = write_split(
        folder / "train.safetensors",
        num_texts=4,
        tokens=(300, 40_000),  # words: below are bytes, of which llama.cpp tells nothing
    )
    return Place(folder, merged, calibration.chosen_texts(split, CalibrationSpec()))


@pytest.mark.parametrize(
    "kind",
    ["q8_0", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("f16", "q4_0", "q4_k_m"))],
)
def test_a_type_is_written_and_answers_as_the_model_does(place: Place, kind: str) -> None:
    target = place.folder / kind
    spec = CompressSpec.model_validate([{"gguf": kind}])
    made = llm_compressor.compress(place.merged, target, spec, place.folder / "train.safetensors")
    assert made.divergence.num_tokens >= 20
    assert made.divergence.kl < {"f16": 0.001, "q8_0": 0.005}.get(kind, 0.5)
    whole = (place.merged / "model.safetensors").stat().st_size
    file = target / gguf_export.FILE
    vocabulary = 2_500_000
    assert file.stat().st_size < LARGEST_SHARE[kind] * whole + vocabulary
    assert (target / "tokenizer.json").read_bytes() == (
        place.merged / "tokenizer.json"
    ).read_bytes()


@pytest.mark.long
def test_rows_without_whole_blocks_get_another_type(place: Place) -> None:
    """As llama.cpp's own quantizer has it."""
    import gguf

    whole = _whole(place)
    file = place.folder / "mixture.gguf"
    gguf_export._quantize(whole, file, "q4_k_m")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert types["token_embd.weight"] == "Q6_K"
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert types["blk.1.attn_v.weight"] == "Q6_K"
    assert types["blk.0.ffn_down.weight"] == "Q5_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


def _whole(place: Place) -> Path:
    whole = place.folder / "f16.gguf"
    if not whole.is_file():
        gguf_export._convert(place.merged, whole)
    return whole


def _byte(at: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / gguf_export.FILE
        whole = bytearray(file.read_bytes())
        start = at(len(whole))
        whole[start : start + 64] = bytes(64)
        file.write_bytes(whole)

    return damage


def _cut(folder: Path) -> None:
    file = folder / gguf_export.FILE
    file.write_bytes(file.read_bytes()[:-1000])


def _swapped(file: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return damage


def _template_inside(folder: Path) -> None:
    """One byte of the template that llama.cpp reads: the length of the file stays."""
    file = folder / gguf_export.FILE
    whole = file.read_bytes()
    assert b"<|im_start|>assistant" in whole
    file.write_bytes(whole.replace(b"<|im_start|>assistant", b"<|im_start|>assistent", 1))


def _scale(folder: Path) -> None:
    """The scale of one block of a matrix."""
    import gguf
    import numpy as np

    file = folder / gguf_export.FILE
    tensor = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.1.attn_q.weight")
    whole = bytearray(file.read_bytes())
    start = int(tensor.data_offset)
    scale = np.frombuffer(bytes(whole[start : start + 2]), dtype=np.float16) * np.float16(200)
    whole[start : start + 2] = scale.tobytes()
    file.write_bytes(whole)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no file": lambda folder: (folder / gguf_export.FILE).unlink(),
    "no magic": _byte(lambda _: 0),
    "cut short": _cut,
    "zeros in the header": _byte(lambda _: 400),
    "another template inside": _template_inside,
    "the scale of one block": _scale,
    "another tokenizer beside": _swapped("tokenizer.json", "the", "teh"),
    "another template beside": _swapped("chat_template.jinja", "assistant", "helper"),
    "no tokenizer beside": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.fixture(scope="module")
def whole_folder(place: Place) -> Path:
    target = place.folder / "to-damage"
    gguf_model.write(place.merged, target, "q8_0", place.texts)
    return target


QUICK = ("cut short", "another template inside", "the scale of one block")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else (pytest.mark.long,)) for name in DAMAGES],
)
def test_a_damaged_file_is_refused(
    place: Place, whole_folder: Path, name: str, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(whole_folder, damaged)
    DAMAGES[name](damaged)
    with pytest.raises(StageFailed):
        gguf_model.check(damaged, place.merged, _whole(place), place.texts, "q8_0")


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "other")
    with pytest.raises(StageFailed, match="converter does not take this model"):
        gguf_model.write(tmp_path / "other", tmp_path / "made", "q8_0", [[5, 6, 7]])


def test_an_architecture_that_llama_cpp_does_not_know_is_refused(
    place: Place, tmp_path: Path
) -> None:
    other: Any = tmp_path / "other"
    shutil.copytree(place.merged, other)
    _swapped("config.json", "LlamaForCausalLM", "UnheardOfForCausalLM")(other)
    with pytest.raises(StageFailed, match="UnheardOf"):
        gguf_model.write(other, tmp_path / "made", "q8_0", place.texts)


def test_the_api_streams_answers_and_refuses_what_llama_cpp_cannot(place: Place) -> None:
    """As Ray Serve's replica answers, without Ray."""
    asyncio.run(_ask_the_api(_whole(place)))


async def _ask_the_api(file: Path) -> None:
    import httpx
    from starlette.applications import Starlette
    from starlette.routing import Route

    api = LlamaCppApi(file, "bot", max_model_len=128, num_sequences=2)
    every = Route("/{path:path}", api.answer, methods=["GET", "POST"])
    transport = httpx.ASGITransport(Starlette(routes=[every]))
    chat: dict[str, Any] = {
        "model": "bot",
        "messages": [{"role": "user", "content": "Is it real?"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://blue") as client:
        models = (await client.get("/blue/v1/models")).json()
        assert [one["id"] for one in models["data"]] == ["bot"]
        path = "/blue/v1/chat/completions"
        whole = (await client.post(path, json=chat)).json()["choices"][0]["message"]["content"]
        streamed = (await client.post(path, json={**chat, "stream": True})).text
        pieces = [
            json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")
        ]
        deltas = [piece["choices"][0]["delta"].get("content") for piece in pieces]
        assert "".join(delta for delta in deltas if delta) == whole
        echo = {"model": "bot", "prompt": "a", "max_tokens": 1, "echo": True, "logprobs": 1}
        refused = await client.post("/blue/v1/completions", json=echo)
        assert (refused.status_code, "log-probabilities" in refused.text) == (400, True)
        unknown = await client.post(path, json={**chat, "model": "other"})
        assert unknown.status_code == 404
        assert (await client.post("/blue/v1/embeddings", json={})).status_code == 404
