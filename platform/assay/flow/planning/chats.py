"""What a model's chat template means for training and serving, as far as it is known before
anything runs."""

import os
from pathlib import Path

from assay.engines.deployment.chat_settings import chat_settings
from assay.flow.pipeline.context import RunContext
from assay.loader.named import chat_templates
from assay.records.stages import ModelRecord
from assay.spec.spec import Spec


def chat_notes(context: RunContext, root: Path) -> list[str]:
    """Whether the model reasons before it answers; nothing for a model that is not on this
    machine."""
    spec, folder = context.spec, _folder(context, root)
    template = chat_templates.of_folder(folder) if folder else None
    if (
        folder is None
        or template is None
        or spec.model.chat_template_kwargs.get("enable_thinking") is False
    ):
        return []
    parser = chat_settings(folder, spec.serve.engine).reasoning_parser
    if parser:
        return [_reasons(spec, parser, template)]
    return []


def _folder(context: RunContext, root: Path) -> Path | None:
    """The model's files with the template that will serve."""
    fetched = context.records.get("fetch")
    if isinstance(fetched, ModelRecord):
        return Path(fetched.artifact.path)
    model = context.spec.model
    is_here = model.kind == "folder" and model.chat_template is None
    if is_here:
        return root / os.path.expanduser(model.source)
    return None


def _reasons(spec: Spec, parser: str, template: str) -> str:
    num_tokens = spec.serve.engine.max_model_len // 2
    words = (
        f"the model reasons before it answers (vLLM's parser {parser}): data without reasoning "
        "teach it the answer "
        f"alone, and each answer of the gate may reason for {num_tokens} tokens"
    )
    if chat_templates.argument_fault(template, "enable_thinking"):
        return words
    return (
        f"{words}; `chat_template_kwargs: {{enable_thinking: false}}` under `model` trains and "
        "serves it without"
    )
