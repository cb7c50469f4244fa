"""`assay chat`: a conversation with the served model, through the gateway."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from assay.cli.local import key_file
from assay.cli.terminal.echo import echo, echo_foreign
from assay.errors import PlaceError, UsageError
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.store.ledger import Ledger

ANSWER_TIMEOUT_S = 300


def converse(settings: Settings, message: str, *, model: str | None, system: str | None) -> None:
    """Answers one message, or as many as are typed until end of file."""
    champion_model, champion_system = _champion(settings)
    name = model or champion_model
    prompt = system if system is not None else champion_system
    messages = [{"role": "system", "content": prompt}] if prompt else []
    if message:
        _turn(settings, name, messages, message)
        return
    echo(f"talking to {name}; Ctrl-D ends", err=True)
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            return
        if said:
            _turn(settings, name, messages, said)


def api_key(settings: Settings) -> str:
    """The key from ASSAY_API_KEY, or the one that `assay up --save-key` kept."""
    key = os.environ.get("ASSAY_API_KEY")
    if not key and key_file(settings).is_file():
        key = key_file(settings).read_text().strip()
    if not key:
        raise UsageError("set ASSAY_API_KEY to the key that `assay up` printed; `assay up --new-key` makes another")
    return key


def answer(
    settings: Settings,
    model: str,
    messages: list[dict[str, str]],
    *,
    reasoned: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """The model's answer, piece by piece; `reasoned` is told what it thinks before. Raises `PlaceError` with the
    server's words when it refuses."""
    # No longest answer: it would end the reasoning of a model that reasons before there is any.
    body = {"model": model, "messages": messages, "stream": True, "temperature": 0}
    request = urllib.request.Request(
        f"{settings.gateway_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {api_key(settings)}"},
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
        raise PlaceError(f"the gateway said {error.code}: {_words(error.read())}") from error
    except OSError as error:
        raise PlaceError(f"no gateway answers at {settings.gateway_url} ({error}); `assay up` starts it") from error


def _turn(settings: Settings, model: str, messages: list[dict[str, str]], said: str) -> None:
    messages.append({"role": "user", "content": said})
    pieces: list[str] = []
    thoughts: list[str] = []

    def show_reasoning(piece: str) -> None:
        """On stderr: what is piped on is the answer."""
        echo_foreign(piece, err=True, nl=False)
        thoughts.append(piece)

    for piece in answer(settings, model, messages, reasoned=show_reasoning):
        if thoughts and not pieces:
            echo("\n---", err=True)
            piece = piece.lstrip()
        echo_foreign(piece, nl=False)
        pieces.append(piece)
    echo()
    if thoughts and not pieces:
        echo("the model came to no answer: its reasoning filled the engine's context, or was never closed", err=True)
    messages.append({"role": "assistant", "content": "".join(pieces)})


def _champion(settings: Settings) -> tuple[str, str | None]:
    ledger = Ledger(settings.ledger_url)
    champion = ledger.champion()
    if champion is None:
        raise UsageError("no model has traffic yet; `assay promote RUN` gives it to an approved run")
    spec = Spec.model_validate_json(ledger.find_run(champion.run).spec)
    return champion.model_name, spec.data.system


def _words(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]
