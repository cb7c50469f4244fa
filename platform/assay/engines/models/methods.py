"""Which weights are trained, by peft and bitsandbytes: from a model's folder to a model that is
ready to train, and from that to the files that hold what was learned."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from assay.engines.models import base_model_cache, bottleneck, lora_forward
from assay.engines.models.bottleneck import HEADS
from assay.engines.models.deepspeed_config import Precision, is_used
from assay.engines.models.kernels import Kernels
from assay.errors import UsageError
from assay.spec.method import AdaloraSpec, FreezeSpec, LoraSpec, MethodSpec, PTuningSpec, QloraSpec
from assay.spec.train import TrainSpec

_HEAD_WEIGHTS = tuple(f"{head}." for head in HEADS)

INITIAL = "initial"
"""Folder, beside the weights, of an adapter that began as a part of the base weights."""


def load(
    folder: str,
    train: TrainSpec,
    kernels: Kernels,
    *,
    precision: Precision,
    num_labels: int | None,
    num_steps: int,
) -> Any:
    """The base model with what the method adds to it, and nothing else trainable. With `num_labels`
    it is a sequence classifier. Raises `UsageError` when the method does not fit the model."""
    from transformers import set_seed

    method = train.method
    # Without DeepSpeed nobody keeps weights of the model's own in fp32 beside those that compute.
    stored: Precision = precision if is_used(train) or method.is_adapter else "fp32"
    load_base = partial(
        base, folder, method, precision=stored, num_labels=num_labels, attention=kernels.attention
    )
    # What is frozen and left as it is may serve the next training of this process, too.
    changes = train.neftune_alpha or train.contrastive or train.gradient_checkpointing
    leaves_traces = bool(changes) or "compile" in kernels.used
    if method.lora is not None and num_labels is None and not leaves_traces:
        model = base_model_cache.borrow(
            (folder, precision, train.deepspeed.zero_stage == 3, kernels.attention), load_base
        )
    else:
        model = load_base()
    # Loading may have drawn numbers; from here on every attempt draws the same ones.
    set_seed(train.seed)
    model.config.use_cache = (
        False  # with a cache the mask that keeps packed texts apart is not built
    )
    if method.full:
        return _without_other_senses(model)
    if method.freeze is not None:
        return _frozen(model, method.freeze)
    if train.gradient_checkpointing:
        # Checkpointing computes a layer again from inputs that need gradients, and frozen
        # embeddings give none.
        model.enable_input_require_grads()
    # Under ZeRO-3 weights of one group have one precision; elsewhere adapters of a bf16 model are
    # fp32.
    in_fp32 = train.deepspeed.zero_stage != 3
    if method.bottleneck is not None:
        return bottleneck.attach(model, method.bottleneck, in_fp32=in_fp32)
    from peft import get_peft_model

    config = _peft_config(model, folder, method, num_steps, scores=num_labels is not None)
    try:
        tuned = get_peft_model(model, config, autocast_adapter_dtype=in_fp32)
    # peft's word for names that match nothing.
    except ValueError as error:
        raise UsageError(f"method: {method.name} does not fit this model: {error}") from error
    if train.kernels != "none" and train.deepspeed.zero_stage != 3:
        lora_forward.add_in_product(tuned)
    return tuned


def save_start(model: Any, method: MethodSpec, output: Path) -> None:
    """Keeps the beginning of an adapter that took its start from the base weights (`pissa`,
    `olora`)."""
    if method.lora is not None and method.lora.init in ("pissa", "olora"):
        config = model.peft_config["default"]
        chosen = config.init_lora_weights
        # Else loading it would decompose the base weights anew.
        config.init_lora_weights = True
        model.save_pretrained(str(output / INITIAL))
        config.init_lora_weights = chosen


def start_of(method: MethodSpec, output: Path) -> dict[str, str]:
    """Arguments of `save_pretrained` that turn such an adapter into one for the unchanged base
    weights."""
    if method.lora is not None and method.lora.init in ("pissa", "olora"):
        return {"path_initial_model_for_weight_conversion": str(output / INITIAL)}
    return {}


def base(
    folder: str,
    method: MethodSpec,
    *,
    precision: Precision,
    num_labels: int | None,
    attention: str = "sdpa",
) -> Any:
    """The model in a folder as the method trains it: in 4 bits for `qlora`, with a new head for
    `num_labels`. `attention` is transformers' name for it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    how: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    if method.qlora is not None:
        how["quantization_config"] = _four_bits(method.qlora, dtype)
    if num_labels is None:
        return AutoModelForCausalLM.from_pretrained(folder, **how)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=num_labels, **how)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.config.pad_token_id = pad_token(tokenizer)
    return model


def pad_token(tokenizer: Any) -> int:
    """The token that fills up padded rows."""
    token = tokenizer.pad_token_id
    # Many decoders have none; what fills a row up is masked, so that any token will do.
    if token is None:
        token = tokenizer.eos_token_id
    return int(token or 0)


def _four_bits(qlora: QloraSpec, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=qlora.quant_type,
        bnb_4bit_use_double_quant=qlora.double_quant,
        bnb_4bit_compute_dtype=dtype,
        # transformers leaves output heads alone by itself only where no list is given; and a new
        # head is to be trained.
        llm_int8_skip_modules=["lm_head", *HEADS],
    )


def _frozen(model: Any, freeze: FreezeSpec) -> Any:
    """Only the last layers, the weights that are named, and a new head are left trainable."""
    num_layers = int(model.config.num_hidden_layers)
    first = num_layers - freeze.last_layers if freeze.last_layers else num_layers
    if first < 0:
        raise UsageError(
            f"freeze.last_layers is {freeze.last_layers}, and the model has {num_layers} layers"
        )
    patterns = [re.compile(pattern) for pattern in freeze.trainable]
    for name, weight in model.named_parameters():
        layer = layer_of(name)
        wanted = (layer is not None and layer >= first) or name.startswith(_HEAD_WEIGHTS)
        weight.requires_grad_(wanted or any(pattern.search(name) for pattern in patterns))
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UsageError(f"freeze.trainable matches no weight; they have names such as {name}")
    return model


def layer_of(name: str) -> int | None:
    """Which transformer layer a weight belongs to, counted from 0; None for embeddings, the last
    norm and the head."""
    # What Llama and its kin, GPT-2, and others call the list of layers.
    found = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{name}")
    if found:
        return int(found[1])
    return None


def _peft_config(
    model: Any, folder: str, method: MethodSpec, num_steps: int, *, scores: bool
) -> Any:
    from peft import IA3Config, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit

    task = {"task_type": "SEQ_CLS" if scores else "CAUSAL_LM"}
    if method.low_rank is not None:
        return _lora_config(model, method.low_rank, task)
    if method.adalora is not None:
        return _adalora_config(model, method.adalora, num_steps, task)
    if method.ia3 is not None:
        ia3 = method.ia3
        chosen = {}
        # What is not said is left to peft, which knows the modules of each architecture.
        if ia3.target_modules is not None:
            chosen["target_modules"] = list(ia3.target_modules)
        if ia3.feedforward_modules is not None:
            chosen["feedforward_modules"] = list(ia3.feedforward_modules)
        return IA3Config(**chosen, **task)
    if method.prefix_tuning is not None:
        prefix = method.prefix_tuning
        hidden = {}
        if prefix.projection:
            hidden["encoder_hidden_size"] = model.config.hidden_size
        return PrefixTuningConfig(
            num_virtual_tokens=prefix.num_virtual_tokens,
            prefix_projection=prefix.projection,
            **hidden,
            **task,
        )
    if method.p_tuning is not None:
        return _p_tuning_config(method.p_tuning, task)
    prompt = method.prompt_tuning
    assert prompt is not None
    text, init = {}, PromptTuningInit.RANDOM
    if prompt.init_text:
        text = {"prompt_tuning_init_text": prompt.init_text, "tokenizer_name_or_path": folder}
        init = PromptTuningInit.TEXT
    return PromptTuningConfig(
        num_virtual_tokens=prompt.num_virtual_tokens,
        prompt_tuning_init=init,
        **text,
        **task,
    )


def _lora_config(model: Any, lora: LoraSpec, task: dict[str, str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        init_lora_weights=True if lora.init == "default" else lora.init,
        **_where(model, lora),
        **task,
    )


def _adalora_config(model: Any, adalora: AdaloraSpec, num_steps: int, task: dict[str, str]) -> Any:
    from peft import AdaLoraConfig

    if num_steps < 3:
        raise UsageError(
            f"adalora moves ranks in the middle of training, which is only {num_steps} steps long"
        )
    return AdaLoraConfig(
        init_r=adalora.init_r,
        target_r=adalora.target_r,
        lora_alpha=adalora.alpha,
        lora_dropout=adalora.dropout,
        tinit=max(1, int(adalora.warmup * num_steps)),
        tfinal=max(1, int(adalora.final * num_steps)),
        deltaT=adalora.interval,
        total_step=num_steps,
        **_where(model, adalora),
        **task,
    )


def _p_tuning_config(p_tuning: PTuningSpec, task: dict[str, str]) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        num_virtual_tokens=p_tuning.num_virtual_tokens,
        encoder_hidden_size=p_tuning.hidden_size,
        **task,
    )


def _text_part(model: Any) -> tuple[str, Any] | None:
    """(name, module) of the decoder of a model that sees or hears, too; None for one of text
    alone."""
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            return name, module
    return None


def _without_other_senses(model: Any) -> Any:
    """Text trains nothing of a model's eyes and ears: without gradients they would stop workers
    that wait for them."""
    part, head = _text_part(model), model.get_output_embeddings()
    if part is not None:
        # By identity: a tied head is the embedding table itself.
        trained = set(map(id, part[1].parameters()))
        if head is not None:
            trained |= set(map(id, head.parameters()))
        for weight in model.parameters():
            weight.requires_grad_(id(weight) in trained)
    return model


def _where(model: Any, adapter: LoraSpec | AdaloraSpec) -> dict[str, Any]:
    layers, targets = adapter.layer_indices(), adapter.target_modules
    part = _text_part(model)
    return {
        "exclude_modules": rf"(?!{re.escape(part[0])}\.).*" if part else None,
        "target_modules": _linear_names(model) if targets == "all-linear" else list(targets),
        "layers_to_transform": list(layers) if layers is not None else None,
    }


def _linear_names(model: Any) -> list[str]:
    """Last names of all linear modules but the output head. peft's own `all-linear` cannot be
    limited to layers."""
    import torch

    head = model.get_output_embeddings()
    part = _text_part(model)
    linear = []
    for name, module in (part[1] if part else model).named_modules():
        is_head = module is head or name.split(".")[0] in HEADS
        if isinstance(module, torch.nn.Linear) and not is_head:
            linear.append(name)
    return sorted({name.rsplit(".", 1)[-1] for name in linear})
