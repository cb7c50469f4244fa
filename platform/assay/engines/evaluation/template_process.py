"""A process that renders the templates of task files: `python -m
assay.engines.evaluation.template_process`.

A template is a program: in Jinja's sandbox it reaches no Python, but it may still loop for ever or
ask for all the memory there is. So it runs here, in a process with little memory, which `templates`
ends when it takes too long. Nothing heavy is imported.
"""

import json
import pickle
import re
import resource
import struct
import sys
from functools import cache
from typing import IO, Any

MEMORY_BYTES = 1 << 30
LONGEST_TEXT = 1 << 20  # characters; a prompt of a million letters fits no model
HEADER = struct.Struct("<Q")


def main() -> None:
    """Answers requests from standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while (request := read_message(requests)) is not None:
        template, values = pickle.loads(
            request
        )  # from the process that started this one, and nobody else
        write_message(answers, json.dumps(_answer(template, values)).encode())


def read_message(stream: IO[bytes]) -> bytes | None:
    """One message with its length before it; None at the end."""
    header = stream.read(HEADER.size)
    if len(header) == HEADER.size:
        return stream.read(HEADER.unpack(header)[0])
    return None


def write_message(stream: IO[bytes], message: bytes) -> None:
    """The same, written."""
    stream.write(HEADER.pack(len(message)) + message)
    stream.flush()


def _answer(template: str, values: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(template).render(**values)
    except MemoryError:
        return {"error": f"it takes more than {MEMORY_BYTES >> 20} MiB of memory"}
    except (
        Exception
    ) as error:  # whatever a template does wrong is told, and is not this process's end
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if len(text) > LONGEST_TEXT:
        return {"error": f"its text has {len(text)} characters, more than {LONGEST_TEXT}"}
    return {"text": text}


@cache
def _compiled(template: str) -> Any:
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # lm-eval's own settings and filter, so that a template renders as it does there.
    environment = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["regex_replace"] = _regex_replace
    return environment.from_string(template)


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, string, count=count)


if __name__ == "__main__":
    main()
