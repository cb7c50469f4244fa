"""`assay chat`: a conversation with the served model, through the gateway."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

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


def answer(settings: Settings, model: str, messages: list[dict[str, str]]) -> Iterator[str]:
    """The model's answer, piece by piece. Raises `PlaceError` with the server's words when it refuses."""
    body = {"model": model, "messages": messages, "stream": True, "temperature": 0, "max_tokens": 512}
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
                    piece = json.loads(data)["choices"][0]["delta"].get("content")
                    if piece:
                        yield piece
    except urllib.error.HTTPError as error:
        raise PlaceError(f"the gateway said {error.code}: {_words(error.read())}") from error
    except OSError as error:
        raise PlaceError(f"no gateway answers at {settings.gateway_url} ({error}); `assay up` starts it") from error


def _turn(settings: Settings, model: str, messages: list[dict[str, str]], said: str) -> None:
    messages.append({"role": "user", "content": said})
    pieces = []
    for piece in answer(settings, model, messages):
        echo_foreign(piece, nl=False)
        pieces.append(piece)
    echo()
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
