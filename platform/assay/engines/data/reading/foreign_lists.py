"""Lists of data sets that other trainers keep: LLaMA-Factory's `dataset_info.json`, and `datasets:`
of an Axolotl configuration. Their local files are written as rows that this platform reads."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from assay.engines.data.reading.files import ROWS, json_lines
from assay.engines.data.reading.line_errors import LineError
from assay.errors import UsageError

Record = dict[str, Any]
ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model"), "assistant"),
    "system": "system",
}
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}


@dataclass(frozen=True)
class ForeignSet:
    """One entry of a list."""

    name: str
    file: Path
    form: str
    """`alpaca`, `sharegpt` or `text`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What LLaMA-Factory calls a column, and its name in the file."""
    roles: Mapping[str, str] = field(default_factory=lambda: ROLES)
    role: str = "from"
    content: str = "value"
    is_ranking: bool = False
    """Whether it holds pairs of a better and a worse answer."""


def listed(file: Path) -> list[ForeignSet]:
    """The local data sets of a list. Raises `UsageError` for what is no list, and where an entry
    lies on a hub or in a form that cannot be read."""
    try:
        whole = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if isinstance(whole, dict) and isinstance(whole.get("datasets"), list):
        return [_of_axolotl(file, number, one) for number, one in enumerate(whole["datasets"])]
    if isinstance(whole, dict) and whole and all(isinstance(it, dict) for it in whole.values()):
        return [_of_llama_factory(file, name, one) for name, one in whole.items()]
    raise UsageError(
        f"{file} is neither LLaMA-Factory's dataset_info.json nor an Axolotl configuration with "
        "`datasets:`"
    )


def rows_of(found: ForeignSet) -> Iterator[Record]:
    """The rows in a form that is read as `data.format: auto`. Raises `UsageError` at the first that
    is broken."""
    for number, record in ROWS.get(found.file.suffix, json_lines)(found.file):
        if isinstance(record, LineError):
            raise UsageError(f"{found.file}:{number}: {record}")
        try:
            yield _row(found, record)
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{found.file}:{number}: {found.name} is said to be {found.form}, and the row "
                f"lacks {error}; it has {', '.join(record)}"
            ) from None


def _of_llama_factory(file: Path, name: str, entry: Mapping[str, Any]) -> ForeignSet:
    if "file_name" not in entry:
        raise UsageError(
            f"{file}: {name} lies elsewhere; write a data set of the hub into the spec as "
            "hf:ORG/NAME@REVISION"
        )
    tags = entry.get("tags") or {}
    roles = dict(ROLES)
    for ours, tag in (
        ("user", "user_tag"),
        ("assistant", "assistant_tag"),
        ("system", "system_tag"),
    ):
        if tag in tags:
            roles[tags[tag]] = ours
    return ForeignSet(
        name=name,
        file=_there(file, name, str(entry["file_name"])),
        form=_form(file, name, str(entry.get("formatting", "alpaca"))),
        columns=entry.get("columns") or {},
        roles=roles,
        role=tags.get("role_tag", "from"),
        content=tags.get("content_tag", "value"),
        is_ranking=bool(entry.get("ranking")),
    )


def _of_axolotl(file: Path, number: int, entry: Mapping[str, Any]) -> ForeignSet:
    name = f"datasets.{number}"
    form = _form(file, name, str(entry.get("type", "alpaca")))
    names = entry.get("message_property_mappings") or {}
    column = "messages" if entry.get("type") == "chat_template" else "conversations"
    columns = {"messages": entry.get("field_messages", column)}
    if form == "text":
        columns = {"text": entry.get("field", "text")}
    is_chat = entry.get("type") == "chat_template"
    return ForeignSet(
        name=name,
        file=_there(file, name, str(entry.get("path"))),
        form=form,
        columns=columns,
        role=names.get("role", "role" if is_chat else "from"),
        content=names.get("content", "content" if is_chat else "value"),
    )


def _form(file: Path, name: str, said: str) -> str:
    forms = {"alpaca": "alpaca", "sharegpt": "sharegpt", "chat_template": "sharegpt"}
    forms["completion"] = "text"
    if said not in forms:
        raise UsageError(f"{file}: {name} is {said}; {', '.join(forms)} can be imported")
    return forms[said]


def _there(file: Path, name: str, said: str) -> Path:
    for folder in (file.parent, Path()):
        if (folder / said).is_file():
            return folder / said
    raise UsageError(
        f"{file}: {name} names {said}, which is no file here; write a data set of the hub into "
        "the spec as hf:ORG/NAME@REVISION"
    )


def _row(found: ForeignSet, record: Record) -> Record:
    if found.form == "text":
        return {"text": record[found.columns["text"]]}
    if found.form == "sharegpt":
        chat = [
            _turn(found, turn) for turn in record[found.columns.get("messages", "conversations")]
        ]
        system = record.get(found.columns.get("system", "system"))
        prompt = [{"role": "system", "content": system}, *chat] if system else chat
        if not found.is_ranking:
            return {"messages": prompt}
        ends = {side: _turn(found, record[found.columns.get(side, side)]) for side in PAIR}
        return {side: [*prompt, end] for side, end in ends.items()}
    column = {key: found.columns.get(key, usual) for key, usual in ALPACA.items()}
    asked = "\n".join(
        str(record[name]) for name in (column["prompt"], column["query"]) if record.get(name)
    )
    before = [{"role": "system", "content": it} for it in [record.get(column["system"])] if it]
    for question, answer in record.get(found.columns.get("history", "history")) or ():
        before += [_user(question), _assistant(answer)]
    if found.is_ranking:
        sides = {side: record[found.columns.get(side, side)] for side in PAIR}
        return {side: [*before, _user(asked), _assistant(it)] for side, it in sides.items()}
    return {"messages": [*before, _user(asked), _assistant(record[column["response"]])]}


PAIR = ("chosen", "rejected")


def _turn(found: ForeignSet, turn: Mapping[str, Any]) -> Record:
    return {"role": found.roles[turn[found.role]], "content": turn[found.content]}


def _user(text: str) -> Record:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Record:
    return {"role": "assistant", "content": text}


def write_rows(found: ForeignSet, target: Path) -> int:
    """Writes the rows as JSON Lines; returns how many there are."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(found)]
    target.write_text("".join(lines), encoding="utf-8")
    return len(lines)
