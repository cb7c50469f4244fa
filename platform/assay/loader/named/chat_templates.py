"""Chat templates that a spec can name: files, and the families that TRL keeps. TRL itself is not
imported."""

import json
import os
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from assay.loader.named.packages import package_folders

ARGUMENTS_FILE = "chat_template_kwargs.json"
"""Beside a model's tokenizer: the arguments with which its template is rendered, in training and in
serving alike. As part of the model's files they are bound by its digest."""

TRAINING = "_training"
"""What TRL puts behind a family's name for the twin that marks what the model itself writes."""


@cache
def families() -> dict[str, Path]:
    """Name of each family of models whose template TRL keeps, such as `qwen3`, with the template's
    file."""
    files: list[Path] = []
    for folder in package_folders("trl"):
        files += (folder / "chat_templates").glob("*.jinja")
    return {file.stem: file for file in sorted(files) if not file.stem.endswith(TRAINING)}


def training_twin(family: str) -> Path | None:
    """The family's template for training, where TRL keeps one apart."""
    file = families()[family]
    twin = file.with_name(f"{family}{TRAINING}.jinja")
    if twin.is_file():
        return twin
    return None


def family_of(template: str) -> str | None:
    """The family whose template this is, white space at its ends aside; None for any other
    template."""
    return _by_text().get(template.strip())


def is_file(name: str) -> bool:
    """Whether `model.chat_template` names a file and not a family."""
    return "/" in name or os.sep in name or name.endswith((".jinja", ".jinja2", ".txt"))


def read(name: str, root: Path) -> str:
    """The template that `model.chat_template` names; a file is found from `root`. Raises `OSError`
    when it is not there, and `KeyError` for a family that TRL does not keep."""
    file = root / os.path.expanduser(name) if is_file(name) else families()[name]
    return file.read_text(encoding="utf-8")


def of_folder(folder: Path) -> str | None:
    """The template that a model's folder brings; None where it has none, or none that can be
    read."""
    try:
        file = folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(
            "chat_template"
        )
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(found, list):  # several, each with a name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    if isinstance(found, str):
        return found
    return None


def arguments_of(folder: Path) -> dict[str, bool | int | float | str]:
    """The arguments with which the template of a model's folder is rendered."""
    file = folder / ARGUMENTS_FILE
    found: dict[str, bool | int | float | str] = (
        json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    )
    return found


def argument_fault(template: str, name: str) -> tuple[str, str] | None:
    """What is wrong with an argument that a template is to be given, and what to do; None if
    nothing is."""
    words = set(re.findall(r"[a-zA-Z_]\w*", template))
    if name in words:
        return None
    close = get_close_matches(name, sorted(words), 1, 0.7)
    return f"the chat template reads no {name}", f"did you mean `{close[0]}`?" if close else ""


@cache
def _by_text() -> dict[str, str]:
    return {file.read_text(encoding="utf-8").strip(): name for name, file in families().items()}
