"""Task files of lm-eval: found by name, read without running anything, and pinned by digest.

A `!function` in a task file names Python code. It is run only where the suite names the file with
its SHA-256, and what is run are the very bytes that were compared. lm-eval itself is not imported
here.
"""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from assay.errors import InvalidInput, MissingExtra, Problem
from assay.loader.yaml.syntax_errors import explained
from assay.records.record import digest_of

Config = dict[str, Any]

# In one task file, all aliases written out.
MOST_VALUES = 100_000


@dataclass(frozen=True)
class FunctionRef:
    """`!function module.name` in a task file: not loaded yet."""

    file: Path
    name: str


@dataclass(frozen=True)
class TaskSource:
    """One task as it stands on disk."""

    name: str
    path: Path
    config: Config
    """lm-eval's configuration, includes merged, local data files absolute, functions as
    `FunctionRef`."""
    digest: str
    """SHA-256 over the task file, what it includes, its functions' files and its local data files.
    Data of a hub is pinned when the task is evaluated, by its items."""
    files: dict[str, str]
    """Each of these files with its SHA-256, by its label."""
    data: tuple[str, ...]
    """SHA-256 of each local data file, sorted."""


def find(name: str, folder: Path) -> Path | None:
    """The task's file in `folder`, or else lm-eval's own task of that name."""
    own = folder / f"{name}.yaml"
    if own.is_file():
        return own
    return packaged(name)


@cache
def packaged(name: str) -> Path | None:
    """lm-eval's own file for a task; None when it has no task of that name."""
    folder = _packaged_folder()
    said = re.compile(
        rf"^[\"']?task[\"']?:\s*[\"']?{re.escape(name)}[\"']?\s*(#.*)?$", re.MULTILINE
    )
    files = sorted(folder.rglob("*.yaml"))
    # A task mostly has the file of its name; only else is every file read.
    files.sort(key=lambda file: file.stem != name)
    for file in files:
        if said.search(file.read_text(errors="replace")):
            return file
    return None


def packaged_names() -> list[str]:
    """Every task that lm-eval brings, by reading all of its files: for the name that was meant."""
    said = re.compile(r"^[\"']?task[\"']?:\s*[\"']?([\w.-]+)[\"']?\s*(?:#.*)?$", re.MULTILINE)
    names: set[str] = set()
    for file in _packaged_folder().rglob("*.yaml"):
        names.update(said.findall(file.read_text(errors="replace")))
    return sorted(names)


def read(path: Path, name: str, functions: Mapping[str, str]) -> TaskSource:
    """Reads a task. `functions` are the Python files that the suite allows, by label
    (`file_label`), with their SHA-256. Raises `InvalidInput` for a file that is no task, for data
    that cannot be read, and for a function that the suite does not name or names with another
    digest."""
    pieces = dict(_pieces(path, seen=()))
    config: Config = {}
    for piece in pieces.values():
        config |= piece
    config.pop("include", None)
    if "group" in config or isinstance(config.get("task"), list):
        raise _problem(path, f"`{name}` is a group of tasks; write limits on the tasks in it")
    kwargs = config.get("dataset_kwargs") or {}
    local: list[Path] = []
    if "data_files" in kwargs:
        data_files = _absolute(kwargs["data_files"], path.parent)
        config["dataset_kwargs"] = {**kwargs, "data_files": data_files}
        local = [Path(file) for file in _flat(data_files) if not _is_remote(file)]
    used = sorted({ref.file for ref in _function_refs(config)})
    digests = {file_label(file, path.parent): _sha256(file, path) for file in used}
    _check_functions(digests, functions, path)
    files = {}
    for file in [*pieces, *used, *local]:
        files[file_label(file, path.parent)] = _sha256(file, path)
    data = tuple(sorted(_sha256(file, path) for file in local))
    digest = digest_of([sorted(files.values()), sorted(digests)])
    return TaskSource(name, path, {**config, "task": name}, digest, files, data)


def file_label(file: Path, folder: Path) -> str:
    """How a suite names a Python file: by its path in the suite's folder, or from `lm_eval/` on."""
    if _is_packaged(file):
        return file.relative_to(_packaged_folder().parents[1]).as_posix()
    if file.is_relative_to(folder.absolute()):
        return file.relative_to(folder.absolute()).as_posix()
    return str(file)


def load_functions(config: Config, functions: Mapping[str, str], folder: Path) -> Config:
    """The configuration with its functions loaded, each file's bytes compared with its digest once
    more."""
    loaded: dict[Path, Any] = {}

    def replace(value: Any) -> Any:
        if isinstance(value, FunctionRef):
            if value.file not in loaded:
                loaded[value.file] = _run(value.file, functions[file_label(value.file, folder)])
            return getattr(loaded[value.file], value.name)
        if isinstance(value, dict):
            return {key: replace(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replace(inner) for inner in value]
        return value

    return {key: replace(value) for key, value in config.items()}


class _Loader(yaml.CSafeLoader):  # libyaml: ten times as quick
    """Plain YAML and `!function`, which is read and not run."""

    folder: Path

    def function(self, node: yaml.Node) -> FunctionRef:
        module, _, name = str(self.construct_scalar(node)).rpartition(".")  # type: ignore[arg-type]
        return FunctionRef((self.folder / f"{module.replace('.', '/')}.py").absolute(), name)


_Loader.add_constructor("!function", _Loader.function)


def _pieces(path: Path, seen: tuple[Path, ...]) -> Iterator[tuple[Path, Config]]:
    """The files that make up a task, the included ones first: later ones overrule."""
    loader = type("_FolderLoader", (_Loader,), {"folder": path.parent})
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        size = _size(config, {}, under=())
    except yaml.MarkedYAMLError as error:
        line, column, message, hint = explained(error, path.read_text(encoding="utf-8"))
        raise InvalidInput([Problem(str(path), line, column, "", "task", message, hint)]) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _problem(
            path, f"cannot be read as a task file: {' '.join(str(error).split())}"
        ) from error
    except RecursionError as error:
        raise _problem(
            path, "its values stand in each other more deeply than any task needs"
        ) from error
    # A few lines of aliases of aliases can stand for billions of values.
    if size > MOST_VALUES:
        raise _problem(path, f"its aliases make {size} values of it, more than {MOST_VALUES}")
    if not isinstance(config, dict):
        raise _problem(path, "a task file is a YAML mapping")
    included = config.get("include", [])
    for name in [included] if isinstance(included, str) else included:
        inner = (path.parent / name).absolute()
        if not inner.is_file():
            raise _problem(path, f"it includes {name}, and there is no such file")
        if inner in seen:
            raise _problem(path, f"{name} includes itself")
        yield from _pieces(inner, (*seen, path.absolute()))
    yield path.absolute(), config


def _size(value: Any, known: dict[int, int], *, under: tuple[int, ...]) -> int:
    """How many values there are when every alias is written out; each is counted once, however
    often it is named."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in under:
        raise RecursionError
    if id(value) not in known:
        if isinstance(value, dict):
            inner = [*value.keys(), *value.values()]
        else:
            inner = value
        size = 1
        for one in inner:
            size += _size(one, known, under=(*under, id(value)))
        known[id(value)] = size
    return known[id(value)]


def _check_functions(digests: Mapping[str, str], functions: Mapping[str, str], path: Path) -> None:
    """Python of a task runs only when the suite names the file and the file is the one it names."""
    problems = []
    for label, digest in digests.items():
        if label not in functions:
            message = f"the task runs Python from {label}, which the suite does not allow"
            hint = (
                f"read it, then write `functions: {{{label}: {digest}}}` for the task in the suite"
            )
            problems.append(Problem(str(path), 0, 0, "", "function", message, hint))
        elif functions[label] != digest:
            message = f"{label} is not the file that the suite names: its SHA-256 is {digest}"
            problems.append(
                Problem(
                    str(path), 0, 0, "", "function", message, "read what has changed, then renew it"
                )
            )
    if problems:
        raise InvalidInput(problems)


def _run(file: Path, digest: str) -> Any:
    """A module made of exactly the bytes that have the digest."""
    # Read once, for both: between two readings the file could be exchanged.
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise _problem(file, "has changed since it was compared with the suite's digest")
    name = f"assay_task_{digest[:16]}"
    if _is_packaged(file):  # lm-eval's own modules import each other by their place
        name = ".".join(file.relative_to(_packaged_folder().parents[1]).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(content, str(file), "exec"), module.__dict__)
    return module


def _function_refs(value: Any) -> Iterator[FunctionRef]:
    if isinstance(value, FunctionRef):
        yield value
    inside: Iterable[Any] = ()
    if isinstance(value, dict):
        inside = value.values()
    elif isinstance(value, list):
        inside = value
    for inner in inside:
        yield from _function_refs(inner)


@cache
def _packaged_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise MissingExtra("lm-eval is not installed: run `make setup`")
    return Path(spec.origin).parent / "tasks"


def _is_packaged(file: Path) -> bool:
    return file.is_relative_to(_packaged_folder())


def _is_remote(file: str) -> bool:
    return re.match(r"\w+://", file) is not None


def _absolute(files: Any, folder: Path) -> Any:
    if isinstance(files, str):
        if _is_remote(files):
            return files
        return str((folder / files).absolute())
    if isinstance(files, list):
        return [_absolute(file, folder) for file in files]
    return {split: _absolute(file, folder) for split, file in files.items()}


def _flat(files: Any) -> list[str]:
    if isinstance(files, str):
        return [files]
    names = []
    for value in files.values() if isinstance(files, dict) else files:
        names += _flat(value)
    return names


def _sha256(file: Path, path: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise _problem(path, f"{file} cannot be read: {error.strerror}") from error


def _problem(path: Path, message: str) -> InvalidInput:
    return InvalidInput([Problem(str(path), 0, 0, "", "task", message)])
