"""Telling people elsewhere that something waits for them: a webhook, signed, in the form that Slack
takes.

It is told beside the work, and what keeps it from being told is written to the log and keeps the
work from nothing.
"""

import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, quote, urlsplit

from assay.errors import PlaceError
from assay.records.releases.run_id import short_run
from assay.settings import Settings
from assay.text import printable

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

Kind = Literal["waiting", "failed", "held", "rolled_back"]
WORDS: dict[Kind, str] = {
    "waiting": "waits for a decision",
    "failed": "has failed",
    "held": "has no traffic, and is not back",
    "rolled_back": "gave its traffic back",
}
TIMEOUT_S = 5.0
NUM_TRIES = 3
PAUSE_S = 1.0
LONGEST_TEXT = 500


@dataclass(frozen=True)
class News:
    """Something that somebody should look at."""

    kind: Kind
    run: str
    why: str = ""


def tell(news: News, settings: Settings) -> threading.Thread | None:
    """Sends it, where the place names somewhere, in a thread that the process waits for at its
    end."""
    if not settings.webhook_url:
        return None
    thread = threading.Thread(target=_tell, args=(news, settings), name="webhook")
    thread.start()
    return thread


def message(news: News, settings: Settings) -> bytes:
    """What is sent: `text` for people, and the same apart for programs."""
    page = f"{settings.console_url}/runs/{quote(news.run, safe='')}"
    why = printable(news.why)[:LONGEST_TEXT]
    text = f"<{page}|{_escaped(short_run(news.run))}> {WORDS[news.kind]}"
    if why:
        text += f": {_escaped(why)}"
    said = {"kind": news.kind, "run": news.run, "why": why, "page": page}
    return json.dumps({"text": text, "assay": said}).encode()


def signature(body: bytes, secret: str, at: int) -> str:
    """The header: when, and HMAC-SHA256 of `AT.BODY`, so that nothing old can be sent again as
    new."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def _tell(news: News, settings: Settings) -> None:
    body = message(news, settings)
    for number in range(NUM_TRIES):
        try:
            _send(body, settings)
            return
        except (PlaceError, ValueError) as error:
            logger.warning("%s of %s was not told: %s", news.kind, news.run, error)
        if number + 1 < NUM_TRIES:
            time.sleep(PAUSE_S)


def _send(body: bytes, settings: Settings) -> None:
    """One try. Raises `PlaceError`."""
    import httpx

    url = urlsplit(settings.webhook_url)
    allowed = {host.strip().lower() for host in settings.webhook_allow.split(",")}
    is_allowed = (url.hostname or "") in allowed
    if not url.hostname or url.scheme not in ("https", "http") or url.username is not None:
        raise PlaceError("ASSAY_WEBHOOK_URL is no address of the form https://HOST/PATH")
    if url.scheme != "https" and not is_allowed:
        raise PlaceError(f"{url.hostname} is without TLS, and not in ASSAY_WEBHOOK_ALLOW")
    address = _address(url, is_allowed=is_allowed)
    headers = {"Content-Type": "application/json", "Host": url.netloc}
    if settings.webhook_secret:
        headers["X-Assay-Signature"] = signature(body, settings.webhook_secret, int(time.time()))
    try:
        # No proxy of the environment: it would look the name up by itself.
        with httpx.Client(
            timeout=TIMEOUT_S,
            trust_env=False,
            follow_redirects=False,
            verify=ssl.create_default_context(),
        ) as client:
            _post(client, _at(url, address), headers, body, url.hostname)
    except (httpx.HTTPError, OSError) as error:
        # The address is a secret, and some of these errors say it.
        raise PlaceError(f"{url.hostname} did not take it: {type(error).__name__}") from None


def _post(
    client: "httpx.Client", target: str, headers: dict[str, str], body: bytes, host: str
) -> None:
    # The certificate is checked against the name, although the address is asked.
    request = client.build_request(
        "POST", target, content=body, headers=headers, extensions={"sni_hostname": host}
    )
    answer = client.send(request, stream=True)  # what it says is not read
    answer.close()
    if not answer.is_success:
        raise PlaceError(f"{host} answered {answer.status_code}")


def _address(url: SplitResult, *, is_allowed: bool) -> str:
    """The address that is asked: looked up once, so that it is the one that was looked at. Raises
    `PlaceError` for a private one."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PlaceError(f"{url.hostname} has no address: {error}") from error
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        if not (is_allowed or _is_public(address)):
            raise PlaceError(
                f"{url.hostname} is at {address}, which is private; ASSAY_WEBHOOK_ALLOW allows it"
            )
    return addresses[0]


def _is_public(address: str) -> bool:
    known = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(known, "ipv4_mapped", None)
    return (mapped or known).is_global and not known.is_multicast


def _at(url: SplitResult, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    port = f":{url.port}" if url.port else ""
    query = f"?{url.query}" if url.query else ""
    return f"{url.scheme}://{host}{port}{url.path or '/'}{query}"


def _escaped(text: str) -> str:
    """As Slack asks for it: nothing that others wrote calls anybody, or makes a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
