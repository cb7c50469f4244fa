"""`function`: a step that the user wrote."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from assay.engines.data.cleaning.rows import example_of, record_of
from assay.engines.data.cleaning.steps.results import Result, RowStep, left_out
from assay.engines.data.reading.examples import Example
from assay.errors import UsageError
from assay.spec.steps import FunctionSpec

Function = Callable[[dict[str, Any]], Any]


def user_function(spec: FunctionSpec, root: Path) -> RowStep:
    """The step. Raises `UsageError` for a file that is not the one that the spec names by its
    digest, and for one without the function."""
    content = checked_bytes(spec, root)
    file = root / spec.file
    # The very bytes that were compared are run: an import would read the file again.
    name = f"assay_step_{spec.sha256[:12]}"
    module: dict[str, Any] = {"__name__": name, "__file__": str(file)}
    exec(compile(content, str(file), "exec"), module)
    function = module.get(spec.name)
    if not callable(function):
        raise UsageError(f"data.steps: {spec.file} has no function {spec.name!r}")
    return partial(_called, function, spec)


def checked_bytes(spec: FunctionSpec, root: Path) -> bytes:
    """The file's content. Raises `UsageError` where it is not what the spec names."""
    file = root / spec.file
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"data.steps: {file} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != spec.sha256:
        raise UsageError(
            f"data.steps: {spec.file} has the SHA-256 {digest}, and the spec names "
            f"{spec.sha256[:12]}…; read what has changed, and write the new one"
        )
    return content


def _called(function: Function, spec: FunctionSpec, example: Example) -> Result:
    where = f"data.steps: {spec.name} of {spec.file}"
    try:
        returned = function(record_of(example))
    except Exception as error:
        raise UsageError(f"{where} failed: {type(error).__name__}: {error}") from error
    if returned is None or isinstance(returned, str):
        return left_out("function", returned or f"{spec.name} leaves it out")
    try:
        changed = example_of(returned)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{where} returned no example: {error}") from None
    return Result(changed, {"function": 1} if changed != example else {})
