"""The tokenizer that a GGUF file describes."""

import json
from pathlib import Path

import pytest

from assay.engines.models import folders
from assay.loader.load import load_spec

ROOT = Path(__file__).parents[1]
TEXTS = ["In 1987, 12345 people", "a ▁ sign", "café  中文", "\ttab\n\nlines", "I don't know."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of the demo's model, which is a GGUF file."""
    target = tmp_path_factory.mktemp("tokenizer")
    folders.fetch_tokenizer(
        load_spec(ROOT / "specs" / "country-facts.yaml", ROOT).model, target, ROOT
    )
    return target


def test_special_tokens_are_those_of_the_header(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.unk_token == "<|endoftext|>"


def test_it_is_byte_level(folder: Path) -> None:
    said = json.loads((folder / "tokenizer.json").read_text())
    assert said["decoder"]["type"] == "ByteLevel"
    assert not said["model"]["byte_fallback"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(folder: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
