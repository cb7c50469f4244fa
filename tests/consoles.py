"""A real console before an office: its server in a thread, people with tokens, and a browser's
way of asking."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
import uvicorn

from assay.console.app import make_app
from assay.console.server import _listening
from assay.flow.place.people import add_user
from assay.flow.place.policy import set_policy
from assay.flow.release.operations import ReviewerWord, promote_run, record_decision
from assay.records.releases.grant import Role
from office import Office, with_token

KEY = "the-key-that-the-terminal-shows"
PEOPLE: dict[str, tuple[Role, ...]] = {
    "root": ("admin",),
    "ben": ("run", "review", "release"),
    "anna": ("review",),
    "zoe": ("run",),
}


class Forms(HTMLParser):
    """The forms of a page: where each goes, and what it brings by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._now: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._now = self.found[said.get("action", "")] = {}
        elif tag == "input" and said.get("type") == "hidden":
            self._now[said["name"]] = said.get("value", "")


class Browser:
    """Somebody at the console: keeps cookies, and says where a form comes from."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60)

    def log_in(self, secret: str) -> httpx.Response:
        return self.post("/login", {"secret": secret, "next": "/"})

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        return self.client.post(path, data=fields, headers={"Origin": self.url, **headers})

    def form(self, page: str, action: str) -> dict[str, str]:
        """What a form of a page brings before anything is typed."""
        answer = self.get(page)
        assert answer.status_code == 200, answer.text
        return Forms(answer.text).found[action]


class Console:
    """An office with people, and the console before it."""

    def __init__(self, office: Office, url: str) -> None:
        self.office = office
        self.url = url
        self.tokens: dict[str, str] = {}
        self._browsers: list[Browser] = []

    def ask_for_tokens(self, folder: Path) -> None:
        """Gives everybody a token; from then on the place asks for them."""
        for name, roles in PEOPLE.items():
            self.tokens[name], _ = add_user(self.office.settings, name, roles)
        file = folder / "policy.yaml"
        file.write_text("identity: tokens\n")
        set_policy(with_token(self.office, self.tokens["root"]), file)

    def approve_and_promote(self, run: str) -> None:
        """Gives a run the traffic, with the tokens of two people."""
        record_decision(
            run,
            ReviewerWord("approve", "", ""),
            settings=with_token(self.office, self.tokens["anna"]),
        )
        settings = with_token(self.office, self.tokens["ben"])
        promote_run(run, settings=settings, say=lambda _: None)

    def browser(self, secret: str = "") -> Browser:
        """Somebody who has come in with this; nobody's browser without."""
        browser = Browser(self.url)
        self._browsers.append(browser)
        if secret:
            answer = browser.log_in(secret)
            assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
        return browser

    def of(self, name: str) -> Browser:
        """A browser of one of the people."""
        return self.browser(self.tokens[name])

    def close(self) -> None:
        for browser in self._browsers:
            browser.client.close()


@contextmanager
def console_of(office: Office) -> Iterator[Console]:
    """The real server, on the office's own port."""
    settings = office.settings
    app = make_app(settings, KEY)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = _listening(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    found = Console(office, f"http://127.0.0.1:{settings.console_port}")
    try:
        httpx.get(
            f"{found.url}/static/mark.svg"
        )  # the socket listens already, so this waits for the app
        yield found
    finally:
        found.close()
        server.should_exit = True
        thread.join()
        app.state.place.ledger.close()


@pytest.fixture
def console(office: Office) -> Iterator[Console]:
    with console_of(office) as found:
        yield found


@pytest.fixture
def guarded_console(console: Console, tmp_path: Path) -> Console:
    console.ask_for_tokens(tmp_path)
    return console


def text_of(html: str) -> str:
    """What is read, without the marks."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())
