"""Whether what a spec asks of its base model is there: its length, its layers, its weights'
names."""

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from assay.engines.models import folders, weight_names
from assay.engines.models import shape as model_shape
from assay.errors import AssayError, Problem
from assay.flow.preflight.places import Places, near
from assay.loader.named import chat_templates
from assay.loader.references import SuiteFile
from assay.loader.yaml.reader import Location
from assay.records.plan import ModelShape
from assay.rules.planning.compression import group_fault
from assay.spec.model import ModelSpec
from assay.spec.objective import ObjectiveSpec
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec


class BaseModel(NamedTuple):
    """What is known of a base model without a network."""

    shape: ModelShape | None
    served_length: int
    """The longest prompt and answer that the engine takes; 0 when not known."""
    weights: frozenset[str]
    """Names; empty when not known."""
    folder: Path | None


def base_model(model: ModelSpec, root: Path) -> BaseModel:
    """From the model's own files where they are here (a folder, a package, or the hub's cache),
    else from the table of known models."""
    folder, shape = _folder(model, root), None
    if folder is not None and folder.suffix == ".gguf":
        shape = model_shape.from_gguf(folder)
        folder = None
    config = _config(folder) if folder is not None else None
    if config is not None:
        shape = model_shape.from_config(config, source=f"{folder}/config.json")
    elif shape is None and model.kind == "hf":
        shape = model_shape.known(model.name)
    if config is not None:
        length = served_length(config)
    elif shape:
        length = shape.context_length
    else:
        length = 0
    if folder is not None:
        weights = weight_names.of_folder(folder)
    else:
        weights = frozenset[str]()
    return BaseModel(shape, length, weights, folder)


def served_length(config: dict[str, Any]) -> int:
    """The longest sequence that vLLM takes of a model with this `config.json`; 0 when it says
    nothing.

    As vLLM counts: `max_position_embeddings`, times the factor of a RoPE that stretches it; YaRN's
    factor counts from `original_max_position_embeddings`, and Llama 3's and LongRoPE's lengths are
    stretched already."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    length = config.get("max_position_embeddings")
    if not isinstance(length, int):
        return 0
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        return length
    kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
    if kind in (None, "default", "llama3", "longrope", "su", "mrope") or not isinstance(
        factor, int | float
    ):
        return length
    original = rope.get("original_max_position_embeddings")
    start = original if kind == "yarn" and isinstance(original, int) else length
    return max(length, int(start * factor))


def check_model(spec: Spec, base: BaseModel, places: Places) -> Iterator[Problem]:
    """What the spec asks of the model that it does not have."""
    engine = spec.serve.engine
    if 0 < base.served_length < engine.max_model_len:
        message = (
            f"max_model_len {engine.max_model_len} is beyond the model's {base.served_length} "
            "tokens"
        )
        hint = f"write max_model_len: {base.served_length} or less"
        yield places.problem(("serve", "engine", "max_model_len"), "length", message, hint)
    if base.shape is not None:
        yield from _shape_problems(spec, base.shape, places)
    for index, train in enumerate(spec.train_steps):
        at: Location = ("train", index) if isinstance(spec.train, tuple) else ("train",)
        if base.shape is not None:
            yield from _step_problems(train, base.shape, places, at)
        if base.weights:
            yield from _name_problems(train, base.weights, places, at)
    yield from _template_problems(spec, base, places)


def check_service_length(file: SuiteFile, max_model_len: int) -> Iterator[Problem]:
    """A load whose requests the engine would refuse."""
    service = file.suite.service
    if service is None:
        return
    longest = service.load.prompt_tokens + service.load.output_tokens
    if longest > max_model_len:
        message = (
            f"requests of {longest} tokens (prompt and answer) are beyond "
            "serve.engine.max_model_len "
        )
        message += f"{max_model_len}"
        hint = "lower prompt_tokens or output_tokens, or raise max_model_len"
        location: Location = ("service", "load", "prompt_tokens")
        yield Places(file.positions).problem(location, "length", message, hint)


def _folder(model: ModelSpec, root: Path) -> Path | None:
    """Where the model's files lie on this machine; a GGUF file itself."""
    if model.kind == "hf":
        return _cached(model)
    try:
        path = folders.packaged_file(model) if model.kind == "package" else None
    except AssayError:
        return None
    path = path or (root / model.source).expanduser()
    if path.exists():
        return path
    return None


def _cached(model: ModelSpec) -> Path | None:
    """The hub's own cache, as huggingface_hub lays it out: HF_HUB_CACHE, or `hub` in HF_HOME."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository = cache / f"models--{model.name.replace('/', '--')}"
    wanted = model.wanted_revision or "main"
    try:
        commit = (repository / "refs" / wanted).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = wanted
    folder = repository / "snapshots" / commit
    if (folder / "config.json").is_file():
        return folder
    return None


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(config, dict):
        return config
    return None


def _shape_problems(spec: Spec, shape: ModelShape, places: Places) -> Iterator[Problem]:
    fault = group_fault(spec.compress, shape)
    if fault is not None:
        at: Location = ("compress", "steps") if spec.compress.steps else ("compress", "scheme")
        yield places.problem(at, "shape", *fault)
    parts = spec.serve.engine.tensor_parallel_size
    if shape.num_heads % parts:
        fitting = [str(count) for count in (2, 4, 8) if shape.num_heads % count == 0]
        message = (
            f"tensor_parallel_size {parts} does not divide the model's {shape.num_heads} attention "
            "heads"
        )
        hint = f"write {' or '.join(fitting)}" if fitting else "write 1"
        yield places.problem(("serve", "engine", "tensor_parallel_size"), "shape", message, hint)


def _step_problems(
    train: TrainSpec, shape: ModelShape, places: Places, at: Location
) -> Iterator[Problem]:
    # The default is no wish: shorter examples than it are no mistake.
    if "max_length" in train.model_fields_set and train.max_length > shape.context_length > 0:
        message = (
            f"max_length {train.max_length} is beyond the model's {shape.context_length} tokens"
        )
        hint = f"write max_length: {shape.context_length} or less"
        yield places.problem((*at, "max_length"), "length", message, hint)
    method, last = train.method, shape.num_layers - 1
    block = method.low_rank or method.adalora or method.bottleneck
    layers = block.layer_indices() if block is not None else None
    if layers and layers[-1] > last:
        message = f"layers names layer {layers[-1]}, and the model has layers 0 to {last}"
        yield places.problem(
            (*at, "method", method.name, "layers"), "shape", message, f"end at {last}"
        )
    freeze = method.freeze
    if (
        freeze is not None
        and freeze.last_layers is not None
        and freeze.last_layers > shape.num_layers
    ):
        message = (
            f"last_layers is {freeze.last_layers}, and the model has {shape.num_layers} layers"
        )
        location: Location = (*at, "method", "freeze", "last_layers")
        yield places.problem(location, "shape", message, f"write {shape.num_layers} or less")


def _name_problems(
    train: TrainSpec, weights: Collection[str], places: Places, at: Location
) -> Iterator[Problem]:
    """Modules and patterns that match nothing of the model."""
    modules = set()
    for name in weights:
        if name.endswith(".weight") and "." in name[:-7]:
            modules.add(name.rsplit(".", 2)[-2])
    method = train.method
    low_rank = method.low_rank or method.adalora
    targets = low_rank.target_modules if low_rank is not None else "all-linear"
    ends = {name.removesuffix(".weight") for name in weights}
    for index, target in enumerate(() if isinstance(targets, str) else targets):
        if target not in modules and not any(name.endswith(f".{target}") for name in ends):
            message = f"the model has no module {target}"
            location: Location = (*at, "method", method.name, "target_modules", index)
            yield places.problem(location, "no_module", message, near(target, modules))
    patterns = method.freeze.trainable if method.freeze is not None else ()
    named: list[tuple[Location, str]] = []
    for index, pattern in enumerate(patterns):
        named.append(((*at, "method", "freeze", "trainable", index), pattern))
    for pattern in train.group_learning_rates:
        named.append(((*at, "group_learning_rates", pattern), pattern))
    for location, pattern in named:
        if not any(re.search(pattern, name) for name in weights):
            message = f"{pattern!r} matches no weight of the model"
            hint = (
                f"they have names such as {min(weights)}; modules are "
                f"{', '.join(sorted(modules)[:8])}"
            )
            yield places.problem(location, "no_module", message, hint)


def _template_problems(spec: Spec, base: BaseModel, places: Places) -> Iterator[Problem]:
    """A base model without a chat template, which chats cannot be trained on or asked with, or
    arguments that its template does not read."""
    folder = base.folder
    if folder is None or spec.model.chat_template is not None:
        return
    template = chat_templates.of_folder(folder)
    if template is not None and spec.model.kind != "folder":  # of a folder it has been told already
        for name in spec.model.chat_template_kwargs:
            if fault := chat_templates.argument_fault(template, name):
                yield places.problem(("model", "chat_template_kwargs", name), "no_argument", *fault)
    if template is not None or not (folder / "tokenizer_config.json").is_file():
        return
    if any(_asks_chats(train.objective) for train in spec.train_steps):
        message = (
            "the model's tokenizer has no chat template, and chats are trained and asked with one"
        )
        hint = "name one in `model.chat_template`, or use the instruction-tuned model"
        yield places.problem(("model",), "chat_template", message, hint)


def _asks_chats(objective: ObjectiveSpec) -> bool:
    """Whether texts go through a chat template: those of a linear head's classifier need none."""
    classify = objective.classify
    return objective.pretrain is None and (classify is None or classify.head == "text")
