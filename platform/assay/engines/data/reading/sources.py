"""Reading training examples of every form: chats, prompts with completions, preferences, labels,
plain text. Files become rows (`files`), rows examples (`forms`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from assay.engines.data.reading.examples import Example, Message, Record, SourceRow, form_of
from assay.engines.data.reading.files import ROWS, TABLES, json_lines
from assay.engines.data.reading.forms import READERS, format_of_record
from assay.engines.data.reading.line_errors import LineError
from assay.errors import InvalidInput, Problem, UsageError
from assay.loader.named.globs import matching_files
from assay.spec.data import DataFormat

MAX_PROBLEMS = 20


def read_examples(
    paths: Sequence[str], format: DataFormat, system: str | None, root: Path
) -> list[Example]:
    """Every example of the files and globs in `paths`, in the order of `paths`, each glob's files
    sorted.

    `system` is put before the chats that bring no system message. Raises InvalidInput with the
    first 20 broken lines (or rows, for tables), each with its file and number."""
    examples = []
    for found in read_sources(paths, format, system, root).values():
        examples += found
    return examples


def read_sources(
    paths: Sequence[str],
    format: DataFormat,
    system: str | None,
    root: Path,
    fetched: Mapping[str, Sequence[Path]] | None = None,
) -> dict[str, list[Example]]:
    """The same by the entry of `paths` that they came from; a file that two entries match counts
    for the first. `fetched` has the local files of entries that lie elsewhere."""
    sources: dict[str, list[Example]] = {pattern: [] for pattern in paths}
    for pattern, example in stream_sources(paths, format, system, root, fetched):
        sources[pattern].append(example)
    return sources


def stream_sources(
    paths: Sequence[str],
    format: DataFormat,
    system: str | None,
    root: Path,
    fetched: Mapping[str, Sequence[Path]] | None = None,
) -> Iterator[tuple[str, Example]]:
    """The same one by one, each with its entry, so that memory does not grow with the data. What is
    broken is told at the end."""
    for row in stream_rows(paths, format, system, root, fetched):
        yield row.source, row.example


def stream_rows(
    paths: Sequence[str],
    format: DataFormat,
    system: str | None,
    root: Path,
    fetched: Mapping[str, Sequence[Path]] | None = None,
) -> Iterator[SourceRow]:
    """The same, each with where it stands."""
    problems: list[Problem] = []
    seen: set[Path] = set()
    num_examples = 0
    for pattern in paths:
        found = (fetched or {}).get(pattern) or matching_files(pattern, root)
        if not found:
            problems.append(Problem(pattern, 0, 0, "", "no_data", "no file matches"))
        for file in found:
            if file not in seen:
                seen.add(file)
                for number, example in _read_file(file, format, system, problems):
                    num_examples += 1
                    yield SourceRow(pattern, file, number, example)
    if not num_examples and not problems:
        problems.append(Problem(", ".join(paths), 0, 0, "", "no_data", "there are no examples"))
    if problems:
        raise InvalidInput(_shortened(problems))


def check_forms(examples: Iterable[Example], wanted: Sequence[str], where: str) -> None:
    """Reads all examples; raises UsageError when one is of another form than those that are
    wanted."""
    strange = None
    for example in examples:  # to their end: who reads them counts them, and finds broken lines
        found = form_of(example)
        if strange is None and found not in wanted:
            strange = found
    if strange is not None:
        raise UsageError(
            f"{where} holds data of the form {strange}; the objective learns from "
            f"{' or '.join(wanted)}. Choose another train.objective, or other data"
        )


def _read_file(
    file: Path, format: DataFormat, system: str | None, problems: list[Problem]
) -> Iterator[tuple[int, Example]]:
    """The file's examples with their numbers; its broken lines are added to the list."""
    read: Callable[[Record], Example] | None = None if format == "auto" else READERS[format]
    rows = ROWS.get(file.suffix, json_lines)
    try:
        for number, record in rows(file):
            try:
                if isinstance(record, LineError):
                    raise record
                if read is None:
                    read = READERS[format_of_record(record)]
                example = _example(read(record), system)
            except LineError as wrong:
                problems.append(_problem(file, number, wrong))
                if wrong.code in ("format", "not_json_lines"):
                    return  # every other line would say the same
            else:
                yield number, example
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        problems.append(Problem(str(file), 0, 0, "", "no_data", message))


def _problem(file: Path, number: int, wrong: LineError) -> Problem:
    """A broken line with its number, or a broken row with its own: a table has no lines."""
    if file.suffix in TABLES:
        path = f"row {number}.{wrong.path}" if wrong.path else f"row {number}"
        return Problem(str(file), 0, 0, path, wrong.code, wrong.message, wrong.hint)
    return Problem(
        str(file), number, wrong.column, wrong.path, wrong.code, wrong.message, wrong.hint
    )


def _example(example: Example, system: str | None) -> Example:
    """The example with its system prompt; raises when nothing can be learned from it."""
    if example.label == "":
        raise LineError("", "value", "the label is empty")
    ends = [chat[-1].content for chat in (example.messages, example.rejected) if chat]
    if not all(end.strip() for end in ends or [example.text]):
        is_answer = example.messages and example.messages[-1].role == "assistant"
        what = "the answer" if is_answer else "the text"
        raise LineError("", "value", f"{what} is empty")
    texts = [message.content for message in (*example.messages, *example.rejected[-1:])]
    for text in texts or [example.text]:
        # JSON can spell half of a pair (\\ud83d), which no tokenizer takes.
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise LineError("", "value", "text with half a character (a lone surrogate)")
    if system is None or not example.messages or example.messages[0].role == "system":
        return example
    first = Message("system", system)
    rejected = (first, *example.rejected) if example.rejected else ()
    return example._replace(messages=(first, *example.messages), rejected=rejected)


def _shortened(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    last, left = problems[MAX_PROBLEMS - 1], len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], Problem(last.file, 0, 0, "", "more", f"... and {left} more")]
