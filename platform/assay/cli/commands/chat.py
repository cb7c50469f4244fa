"""`assay chat`: a conversation with the served model, through the gateway."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.cli.local import key_file
from assay.cli.terminal.echo import echo, echo_foreign
from assay.errors import PlaceError, UsageError
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.store.ledger import Ledger

ANSWER_TIMEOUT_S = 300


@dataclass
class Speaker:
    """One model in a conversation, with what was said so far."""

    title: str
    """Shown above its answers; empty where nobody else answers."""
    model: str
    """Its name for the server."""
    where: Callable[[], tuple[str, str]]
    """Base of the server's API, and the key for it."""
    messages: list[dict[str, str]]


def converse(settings: Settings, message: str, *, model: str | None, system: str | None) -> None:
    """Answers one message, or as many as are typed until end of file."""
    _talk([_served(settings, model, system, title="")], message)


def compare(
    settings: Settings, message: str, beside: str, *, model: str | None, system: str | None
) -> None:
    """The same with another model beside the champion; before the first release that one answers
    alone."""
    from assay.cli.local import ensure_place
    from assay.flow.evaluation.beside import answering, find

    ledger = Ledger(settings.ledger_url)
    named = find(beside, ledger, Path.cwd(), settings)
    speakers = []
    if ledger.champion() is not None or model is not None:
        speakers.append(_served(settings, model, system, title="champion"))
    with answering(
        named,
        root=Path.cwd(),
        settings=settings,
        before_work=lambda: ensure_place(settings),
        say=lambda text: echo(text, err=True),
    ) as there:
        prompt = system if system is not None else named.system

        def where() -> tuple[str, str]:
            # The slot is looked at anew for each turn.
            return there().url, "none"

        speakers.append(Speaker(named.title, there().model_name, where, _beginning(prompt)))
        _talk(speakers, message)


def _talk(speakers: Sequence[Speaker], message: str) -> None:
    if message:
        _turn(speakers, message)
        return
    echo(
        f"talking to {' and '.join(one.title or one.model for one in speakers)}; Ctrl-D ends",
        err=True,
    )
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            return
        if said:
            _turn(speakers, said)


def _served(settings: Settings, model: str | None, system: str | None, *, title: str) -> Speaker:
    """The champion, or another model behind the gateway."""
    champion_model, champion_system = _champion(settings)
    name = model or champion_model
    prompt = system if system is not None else champion_system
    return Speaker(
        f"{title} ({name})" if title else "",
        name,
        lambda: (settings.gateway_url, api_key(settings)),
        _beginning(prompt),
    )


def _beginning(prompt: str | None) -> list[dict[str, str]]:
    if prompt:
        return [{"role": "system", "content": prompt}]
    return []


def api_key(settings: Settings) -> str:
    """The key from ASSAY_API_KEY, or the one that `assay up --save-key` kept."""
    key = os.environ.get("ASSAY_API_KEY")
    if not key and key_file(settings).is_file():
        key = key_file(settings).read_text().strip()
    if not key:
        raise UsageError(
            "set ASSAY_API_KEY to the key that `assay up` printed; `assay up --new-key` makes "
            "another"
        )
    return key


def answer(
    url: str,
    key: str,
    model: str,
    messages: list[dict[str, str]],
    *,
    reasoned: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """The model's answer, piece by piece; `reasoned` is told what it thinks before. Raises
    `PlaceError` with the server's words when it refuses."""
    # No longest answer: it would end the reasoning of a model that reasons before there is any.
    body = {"model": model, "messages": messages, "stream": True, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as stream:
            for line in stream:
                data = line.decode().strip().removeprefix("data: ")
                if data.startswith("{"):
                    delta = json.loads(data)["choices"][0]["delta"]
                    if thought := delta.get("reasoning") or delta.get("reasoning_content"):
                        reasoned(thought)
                    if delta.get("content"):
                        yield delta["content"]
    except urllib.error.HTTPError as error:
        raise PlaceError(f"{url} said {error.code}: {_words(error.read())}") from error
    except OSError as error:
        raise PlaceError(
            f"no server answers at {url} ({error}); `assay up` starts the gateway"
        ) from error


def _turn(speakers: Sequence[Speaker], said: str) -> None:
    """Each model's answer to what was said, one after the other: on a small machine two at once
    would take turns."""
    for speaker in speakers:
        if len(speakers) > 1:
            echo(f"--- {speaker.title}", err=True)
        _answer(speaker, said)


def _answer(speaker: Speaker, said: str) -> None:
    speaker.messages.append({"role": "user", "content": said})
    pieces: list[str] = []
    thoughts: list[str] = []

    def show_reasoning(piece: str) -> None:
        """On stderr: what is piped on is the answer."""
        echo_foreign(piece, err=True, nl=False)
        thoughts.append(piece)

    url, key = speaker.where()
    for piece in answer(url, key, speaker.model, speaker.messages, reasoned=show_reasoning):
        if thoughts and not pieces:
            echo("\n---", err=True)
            piece = piece.lstrip()
        echo_foreign(piece, nl=False)
        pieces.append(piece)
    echo()
    if thoughts and not pieces:
        echo(
            "the model came to no answer: its reasoning filled the engine's context, or was never "
            "closed",
            err=True,
        )
    speaker.messages.append({"role": "assistant", "content": "".join(pieces)})


def _champion(settings: Settings) -> tuple[str, str | None]:
    ledger = Ledger(settings.ledger_url)
    champion = ledger.champion()
    if champion is None:
        raise UsageError(
            "no model has traffic yet; `assay promote RUN` gives it to an approved run, and `assay "
            "chat --with RUN` "
            "talks to a candidate before"
        )
    spec = Spec.model_validate_json(ledger.find_run(champion.run).spec)
    return champion.model_name, spec.data.system


def _words(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]
