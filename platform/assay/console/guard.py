"""What stands before every route: which hosts are answered, whose requests, and what a page may do.

Closed by default: a route that is added is for those who have logged in.
"""

import logging
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.console.sessions import Sessions, TooManyTries, Visitor
from assay.errors import AssayError, NotApproved
from assay.settings import Settings

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/login", "/session")
STATIC = "/static/"
SAFE_METHODS = ("GET", "HEAD")
MOST_BODY_BYTES = 64 * 1024

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Not `no-referrer`: with it a browser says `Origin: null` of a form.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Middleware; see the module's docstring."""

    def __init__(self, app: ASGIApp, *, settings: Settings, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions
        self._origins = origins(settings)
        self._hosts = {urlsplit(origin).netloc for origin in self._origins}
        self._cookie = cookie_name(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers in the app's stead what may not come to it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = self._refused(scope) or await self._unknown(scope)
        app: ASGIApp = answer or self._app
        await app(scope, receive, _with_headers(send, scope["path"].startswith(STATIC)))

    def _refused(self, scope: Scope) -> Response | None:
        """What is refused to anybody."""
        headers = Headers(scope=scope)
        # A name that resolves to this machine is not this console: DNS rebinding.
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self._hosts:
            return PlainTextResponse("this console has another address", 421)
        if not _has_bounded_body(scope["method"], headers):
            return PlainTextResponse("the request is too large", 413)
        if scope["method"] in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        is_own = (
            origin in self._origins and urlsplit(origin or "").netloc == headers["host"].lower()
        )
        # No browser sends a bearer token by itself, and what is no browser sends no origin.
        if is_own or (origin is None and _bearer(headers) is not None):
            return None
        return PlainTextResponse("the request comes from another page", 403)

    async def _unknown(self, scope: Scope) -> Response | None:
        """An answer to who has not logged in; None for who may go on. Who they are is kept in the
        request's state."""
        headers, path = Headers(scope=scope), scope["path"]
        try:
            visitor = await run_in_threadpool(self._visitor, scope, headers)
        except TooManyTries as error:
            return PlainTextResponse(str(error), 429, {"Retry-After": "60"})
        except NotApproved as error:
            return PlainTextResponse(str(error), 401, {"WWW-Authenticate": "Bearer"})
        except AssayError:
            logger.exception("who comes cannot be told")
            return PlainTextResponse(
                "what this place knows of its people cannot be trusted; see `assay doctor`", 503
            )
        scope.setdefault("state", {})["visitor"] = visitor
        if visitor is not None or path in OPEN_PATHS or path.startswith(STATIC):
            return None
        if scope["method"] in SAFE_METHODS and "text/html" in headers.get("accept", ""):
            target = path
            if scope["query_string"]:
                target += f"?{scope['query_string'].decode('ascii', 'replace')}"
            return RedirectResponse(f"/login?next={quote(target, safe='')}", 303)
        return PlainTextResponse("log in first", 401, {"WWW-Authenticate": "Bearer"})

    def _visitor(self, scope: Scope, headers: Headers) -> Visitor | None:
        token = _bearer(headers)
        if token is not None:
            return self._sessions.bearer(token, client_of(scope))
        cookies = cookie_parser(headers.get("cookie", ""))
        return self._sessions.visitor(cookies.get(self._cookie, ""))


def cookie_name(settings: Settings) -> str:
    """With the port: browsers do not tell the ports of a host apart in cookies."""
    return f"assay-console-{settings.console_port}"


def origins(settings: Settings) -> set[str]:
    """The origins under which the console is reached."""
    port = settings.console_port
    found = {f"http://{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")}
    url = urlsplit(settings.console_url)
    return {*found, f"{url.scheme}://{url.netloc}".lower()}


def client_of(scope: MutableMapping[str, Any]) -> str:
    """The address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _bearer(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _has_bounded_body(method: str, headers: Headers) -> bool:
    """Whether a request says how long it is, and is not too long."""
    length = headers.get("content-length", "0")
    is_bounded = length.isascii() and length.isdigit() and int(length[:12]) <= MOST_BODY_BYTES
    return is_bounded and "transfer-encoding" not in headers


def _with_headers(send: Send, is_static: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers["Cache-Control"] = "no-cache" if is_static else "no-store"
        await send(message)

    return sending
