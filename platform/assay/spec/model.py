"""The `model:` block: where the base model comes from."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_validator

from assay.spec.block import Block, Where, later

NOT_ARGUMENTS = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
)
"""What a chat template is given by whoever renders a chat."""

SourceKind = Literal["hf", "package", "folder"]


class ModelSpec(Block):
    """The base model. A plain string stands for `source`."""

    source: Where
    """`hf:ORG/NAME` or `hf:ORG/NAME@REVISION` from the Hugging Face hub, `package:NAME/FILE` for a
    file inside an installed Python package (safetensors folder or GGUF file), or a local folder."""

    revision: str | None = None
    """Commit, tag or branch on the hub; the same as `@REVISION` in `source`."""

    chat_template: Where | None = later(None)
    """A Jinja file, or the name of a family whose template TRL keeps (`qwen3`, `llama3`, `gemma3`,
    …), for a base model without a template or in place of its own; used in training and serving."""

    chat_template_kwargs: dict[str, bool | int | float | str] = later({})
    """Arguments of the chat template, such as `{enable_thinking: false}`; the same in training,
    gate, chat and serving."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _arguments_of_the_template(cls, kwargs: dict[str, object]) -> dict[str, object]:
        for name in kwargs:
            if name in NOT_ARGUMENTS:
                raise ValueError(
                    f"{name} is no argument of the template: it is given with every chat"
                )
        return kwargs

    @field_validator("source")
    @classmethod
    def _known_form(cls, source: str) -> str:
        if source.startswith("hf:") and not re.fullmatch(r"hf:[\w.-]+/[\w.-]+(@[\w./-]+)?", source):
            raise ValueError("write a hub model as hf:ORG/NAME or hf:ORG/NAME@REVISION")
        if source.startswith("package:") and not re.fullmatch(r"package:[\w.-]+/[^/].*", source):
            raise ValueError("write a packaged model as package:NAME/FILE")
        if re.match(r"^[a-z0-9]+://", source):
            raise ValueError("a model comes from hf:ORG/NAME, package:NAME/FILE or a local folder")
        if not source.strip():
            raise ValueError("name a model: hf:ORG/NAME, package:NAME/FILE or a local folder")
        return source

    @property
    def kind(self) -> SourceKind:
        """Which of the three forms `source` has."""
        if self.source.startswith("hf:"):
            return "hf"
        if self.source.startswith("package:"):
            return "package"
        return "folder"

    @property
    def name(self) -> str:
        """`source` without its prefix and revision."""
        bare = self.source.removeprefix("hf:").removeprefix("package:")
        if self.kind == "hf":
            return bare.split("@")[0]
        return bare

    @property
    def wanted_revision(self) -> str | None:
        """The hub revision asked for, from either place where it can be written."""
        if self.kind == "hf" and "@" in self.source:
            said = self.source.split("@")[1]
        else:
            said = None
        return self.revision or said


def _from_string(value: Any) -> Any:
    if isinstance(value, str):
        return {"source": value}
    return value


ModelField = Annotated[ModelSpec, BeforeValidator(_from_string)]
