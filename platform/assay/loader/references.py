"""What a spec refers to: whether the model, the data, the suite and its tasks are there.

Cheap by design: files are listed, not read (the suite alone is), and no package is imported.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from assay.errors import InvalidInput, Problem
from assay.loader.named import chat_templates
from assay.loader.named.free_text import check_free_text
from assay.loader.named.globs import matching_files
from assay.loader.named.packages import package_folders
from assay.loader.parse import parse
from assay.loader.yaml.reader import Location, Positions
from assay.loader.yaml.repair import repaired
from assay.spec.data import DataSpec, HeldOut, is_remote
from assay.spec.gate import HELD_OUT, LM_EVAL, GateSpec, SuiteSpec
from assay.spec.model import ModelSpec
from assay.spec.spec import Spec

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of weights that can run code when they are read."""

# Patterns of one list that match nothing and are told.
MAX_TOLD = 20


@dataclass(frozen=True)
class SuiteFile:
    """A suite that was read, as far as it could be understood."""

    path: str
    """As the spec names it."""
    suite: SuiteSpec
    positions: Positions


def check_references(
    spec: Spec, positions: Positions, root: Path, take: Callable[[SuiteFile], None] = lambda _: None
) -> list[Problem]:
    """What a valid spec refers to and is not there, or cannot be used. Each suite that could be
    understood is handed to `take`."""
    check = _Check(positions, root, take)
    return [
        *check.model(spec.model),
        *check.data(spec.data),
        *check.gate(spec.gate, spec.data),
        *check.steps(spec),
        *check.system(spec),
    ]


def check_suite(path: Path, named: str) -> tuple[SuiteFile | None, list[Problem]]:
    """The suite in `path` as far as it can be understood, and its mistakes: its own, and its tasks
    that have no file. `named` is its path as the spec has it."""
    try:
        suite, document, problems = parse(path, SuiteSpec)
    except InvalidInput as error:
        return None, error.problems
    if problems or suite is None:
        whole = repaired(document, SuiteSpec)
        suite = whole.block or suite
        problems = [*problems, *whole.problems]
    if suite is None:
        return None, problems
    problems += _missing_tasks(suite, document.positions, path)
    problems += check_free_text(suite, document.positions, path)
    return SuiteFile(named, suite, document.positions), problems


def model_fault(model: ModelSpec, root: Path) -> tuple[str, str] | None:
    """What keeps a model from being used, and what to do; None if nothing does, as far as this
    machine can tell."""
    if model.kind == "hf":
        return None
    if model.kind == "package":
        return _package_fault(model.name)
    return _local_fault(model.source, root)


def _missing_tasks(suite: SuiteSpec, positions: Positions, path: Path) -> list[Problem]:
    """The tasks that have no file in the folder named like the suite."""
    folder = path.with_suffix("")
    problems = []
    for task in suite.limits:
        place, name = positions.of_key(("limits", task)), f"limits.{task}"
        if not re.fullmatch(r"\w[\w.-]*", task):
            message = "a task's name is made of letters, digits, `_`, `-` and `.`"
            problems.append(Problem(*place, name, "no_task", message))
            continue
        source = suite.settings(task).source or f"{task}.yaml"
        if task == HELD_OUT or source.startswith(LM_EVAL) or os.path.isfile(folder / source):
            continue
        there = sorted(found.stem for found in folder.glob("*.yaml"))
        message = f"there is no task file {folder / source}"
        problems.append(Problem(*place, name, "no_task", message, _did_you_mean(task, there)))
    return problems


class _Check:
    """The checks of one spec file; paths are relative to `root`."""

    def __init__(self, positions: Positions, root: Path, take: Callable[[SuiteFile], None]) -> None:
        self.positions = positions
        self.root = root
        self.take = take

    def model(self, model: ModelSpec, at: Location = ("model",)) -> list[Problem]:
        found = model_fault(model, self.root)
        if found:
            problems = [self._problem((*at, "source"), "no_model", *found)]
        else:
            problems = []
        return problems + self._chat_template(model, at)

    def system(self, spec: Spec) -> list[Problem]:
        """Whether the template takes a system prompt, where the spec gives one and the template is
        known."""
        if spec.data.system is None:
            template = None
        else:
            template = _known_template(spec.model, self.root)
        # What Gemma's template raises, and those made after it.
        if template is None or "system role not supported" not in template.lower():
            return []
        message = "the model's chat template takes no system prompt"
        hint = "take it out, and put what it says into the questions"
        return [self._problem(("data", "system"), "no_system", message, hint)]

    def _chat_template(self, model: ModelSpec, at: Location) -> list[Problem]:
        """Whether the template that is named is there, and reads the arguments that it is given."""
        found = _template_fault(model, self.root)
        if found:
            return [self._problem((*at, "chat_template"), "no_template", *found)]
        template = _known_template(model, self.root)
        if template is None:  # a model of the hub has not been fetched yet
            return []
        problems = []
        for name in model.chat_template_kwargs:
            if fault := chat_templates.argument_fault(template, name):
                problems.append(
                    self._problem((*at, "chat_template_kwargs", name), "no_argument", *fault)
                )
        return problems

    def data(self, data: DataSpec, at: Location = ("data",)) -> list[Problem]:
        problems = self._patterns((*at, "train"), data.train)
        for name, split in (("selection", data.selection), ("gate", data.gate)):
            if isinstance(split, HeldOut):
                problems += self._patterns((*at, name, "source"), split.source)
        return problems

    def steps(self, spec: Spec) -> list[Problem]:
        """What single training runs name: data of their own, what they are not to forget, and
        teachers."""
        problems: list[Problem] = []
        for index, train in enumerate(spec.train_steps):
            at: Location = ("train", index) if isinstance(spec.train, tuple) else ("train",)
            if train.data is not None:
                problems += self.data(train.data, (*at, "data"))
            if train.ewc is not None:
                problems += self._patterns((*at, "ewc", "data"), train.ewc.data)
            if train.objective.distill is not None:
                problems += self.model(
                    train.objective.distill.teacher, (*at, "objective", "distill", "teacher")
                )
        return problems

    def gate(self, gate: GateSpec, data: DataSpec | None) -> list[Problem]:
        problems: list[Problem] = []
        for index, path in enumerate(gate.suite):
            problems += self._suite(index, path, gate.baseline, data)
        return problems

    def _suite(self, index: int, said: str, baseline: str, data: DataSpec | None) -> list[Problem]:
        path = self.root / said
        if not os.path.isfile(path):
            if os.path.isdir(path):
                what = "is a folder, not a file"
            else:
                what = "does not exist"
            message = f"the suite {said} {what}"
            return [self._problem(("gate", "suite", index), "no_suite", message, self._from_root())]
        found, problems = check_suite(path, said)
        if found is None:
            return problems
        self.take(found)
        suite = found.suite
        if HELD_OUT in suite.limits and data is not None and data.gate is None:
            message = (
                f"missing; the suite evaluates the task `{HELD_OUT}`, which is made from this split"
            )
            problems.append(
                self._problem(("data", "gate"), "missing", message, "add `gate: 10%`, or files")
            )
        compared = []
        for task, limits in suite.limits.items():
            if any(limit.reference for limit in limits):
                compared.append(task)
        if baseline == "none" and compared:
            named = "base model" if "base" in suite.references else "champion"
            message = f"the suite compares {', '.join(compared)} with the {named}"
            hint = f"write `baseline: {min(suite.references)}`"
            problems.append(self._problem(("gate", "baseline"), "value", message, hint))
        return problems

    def _patterns(self, location: Location, patterns: tuple[str, ...]) -> list[Problem]:
        problems: list[Problem] = []
        for index, pattern in enumerate(patterns):
            if len(problems) == MAX_TOLD:
                break
            if is_remote(pattern) or matching_files(pattern, self.root):
                continue
            # `5 percent` under a split is a share that was written otherwise, and no file.
            is_like_a_share = re.match(r"\d[\d.]*\s*\D{0,8}$", pattern)
            if location != ("data", "train") and is_like_a_share:
                message, hint = f"no file matches {pattern!r}", "a share is written 5% or 0.05"
            else:
                message, hint = f"no file matches {pattern!r}", self._from_root()
            problems.append(self._problem((*location, index), "no_data", message, hint))
        return problems

    def _from_root(self) -> str:
        return f"paths start at {self.root.absolute()}"

    def _problem(self, location: Location, code: str, message: str, hint: str = "") -> Problem:
        """A problem at `location`, or at what the user wrote for short in its stead."""
        while location not in self.positions.values and location[-1] in ("source", 0):
            location = location[:-1]
        path = ".".join(str(part) for part in location)
        return Problem(*self.positions.of_value(location), path, code, message, hint)


def _template_fault(model: ModelSpec, root: Path) -> tuple[str, str] | None:
    """What keeps the named chat template from being used, and what to do; None if nothing does."""
    name = model.chat_template
    if name is None:
        return None
    try:
        text = chat_templates.read(name, root)
    except KeyError:
        families = list(chat_templates.families())
        if not families:
            return (
                f"{name} is the name of a family, but TRL, which keeps their templates, is not "
                "installed",
                "",
            )
        hint = (
            _did_you_mean(name, families)
            or f"write a file as ./NAME.jinja, or one of: {', '.join(families)}"
        )
        return f"there is no chat template of the name {name}", hint
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        return (
            f"the chat template {name} cannot be read: {reason}",
            f"paths start at {root.absolute()}",
        )
    if "messages" in text:
        return None
    return (f"{name} is no chat template: it writes no messages", "")


def _known_template(model: ModelSpec, root: Path) -> str | None:
    if model.chat_template is not None:
        if _template_fault(model, root):
            return None
        return chat_templates.read(model.chat_template, root)
    if model.kind == "folder":
        return chat_templates.of_folder(root / os.path.expanduser(model.source))
    return None


def _local_fault(source: str, root: Path) -> tuple[str, str] | None:
    folder = root / os.path.expanduser(source)
    if os.path.isdir(folder):
        return _folder_fault(folder)
    if os.path.isfile(folder):
        what = "is a file, not a folder"
    else:
        what = "does not exist"
    looks_like_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source)
    return (
        f"the model folder {source} {what}",
        f"for a model of the hub write hf:{source}" if looks_like_hub else "",
    )


def _folder_fault(folder: Path) -> tuple[str, str] | None:
    """What keeps a model folder from being used, and what to do; None if nothing does."""
    if not os.path.isfile(folder / "config.json"):
        return (
            f"the model folder {folder} has no config.json",
            "name the folder that a Hugging Face model was saved to",
        )
    return _weights_fault(folder)


def _weights_fault(folder: Path) -> tuple[str, str] | None:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"the model folder {folder} cannot be read: {error.strerror}", ""
    if any(name.endswith(".safetensors") for name in names):
        return None
    if pickled := [name for name in names if name.endswith(PICKLED)]:
        message = (
            f"the model folder {folder} has its weights in pickle ({pickled[0]}), which can run "
            "code when it is read"
        )
        return message, "save them as safetensors"
    return f"the model folder {folder} holds no weights (*.safetensors)", ""


def _package_fault(name: str) -> tuple[str, str] | None:
    """The same for `NAME/FILE` inside an installed package."""
    package, _, inside = name.partition("/")
    folders = package_folders(package)
    if not folders:
        return f"the package {package} is not installed", f"pip install {package}"
    found = next((folder / inside for folder in folders if os.path.exists(folder / inside)), None)
    # A package is what was installed and locked; what lies above it is anything.
    if found is None or ".." in Path(inside).parts:
        there = []
        for folder in folders:
            there += [path.name for path in folder.iterdir() if _is_model(path)]
        there.sort()
        return (
            f"the package {package} has no file {inside}",
            f"it has {', '.join(there[:5])}" if there else "",
        )
    if found.is_dir():
        return _folder_fault(found)
    if found.suffix in PICKLED:
        return (
            f"{inside} is pickle, which can run code when it is read",
            "name a GGUF file or a safetensors folder",
        )
    if found.suffix == ".gguf":
        return None
    return (f"{inside} is no model", "name a GGUF file or a safetensors folder")


def _is_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file()


def _did_you_mean(name: str, offered: list[str]) -> str:
    close = get_close_matches(name, offered, 1, 0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return ""
