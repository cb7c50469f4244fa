"""What a spec says of a model's chats, put among the model's files, which training and serving read
alike."""

import json
from contextlib import suppress
from pathlib import Path

from assay.engines.data.chats.masks import end_of_turn
from assay.engines.data.chats.templates import chat_format
from assay.errors import UsageError
from assay.loader.named import chat_templates
from assay.spec.model import ModelSpec


def write(source: ModelSpec, folder: Path, root: Path) -> None:
    """Puts what the spec says of the model's chats into its folder. Raises `UsageError` for
    arguments that the template does not read, and for a named template that the tokenizer has no
    tokens for."""
    if source.chat_template is not None:
        (folder / "chat_template.jinja").write_text(
            chat_templates.read(source.chat_template, root), encoding="utf-8"
        )
    template = chat_templates.of_folder(folder)
    for name in source.chat_template_kwargs:
        if fault := chat_templates.argument_fault(template or "", name):
            raise UsageError(
                f"model.chat_template_kwargs: {fault[0]}" + (f"; {fault[1]}" if fault[1] else "")
            )
    if source.chat_template_kwargs:
        (folder / chat_templates.ARGUMENTS_FILE).write_text(
            json.dumps(source.chat_template_kwargs, sort_keys=True)
        )
    if template is None:
        return
    if source.chat_template is not None:
        _stop_at_end_of_turn(folder)
    elif not _stops_by_itself(folder, template):
        with suppress(
            UsageError
        ):  # the template may be one for images: training says so, where it is needed
            _stop_at_end_of_turn(folder)


def _stops_by_itself(folder: Path, template: str) -> bool:
    """Whether the template ends turns with the token at which every server stops, as far as its
    text tells."""
    try:
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(
            "eos_token"
        )
    except (OSError, ValueError):
        return True
    token = said.get("content") if isinstance(said, dict) else said
    return not token or "eos_token" in template or str(token) in template


def _stop_at_end_of_turn(folder: Path) -> None:
    """Adds the token that ends a turn to those at which generation stops: a base model knows only
    the end of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    token = end_of_turn(chat_format(tokenizer, chat_templates.arguments_of(folder)))
    if token is None:
        return
    wanted = tokenizer.convert_tokens_to_ids(token)
    file = folder / "generation_config.json"
    said = json.loads(file.read_text()) if file.is_file() else {}
    stops = said.get("eos_token_id", tokenizer.eos_token_id)
    known = [stops] if isinstance(stops, int) else list(stops or [])
    if wanted not in known:
        file.write_text(json.dumps({**said, "eos_token_id": [*known, wanted]}, indent=2))
