"""Each way around the console's doors: without a login, from another page, with another's token, from
a stale page, with text that would act."""

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from starlette.routing import BaseRoute, Mount

from assay.console import server as console_server
from assay.console.app import make_app
from assay.console.guard import MOST_BODY_BYTES, OPEN_PATHS, STATIC
from assay.console.pages import local_path
from assay.console.sessions import MOST_FAILURES, SESSION_S, Sessions
from assay.errors import ExitCode, UsageError
from assay.flow.place.people import revoke
from assay.store.ledger import Ledger
from consoles import KEY, Browser, Console, console, console_of, guarded_console  # noqa: F401
from office import TO_NOBODY, Office, office, running, with_token  # noqa: F401

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HOSTILE = (
    "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7*7 }}\x1b\u202e"
)


def approving(
    console: Console, run: str, name: str = "anna"
) -> tuple[Browser, str, dict[str, str]]:
    """Somebody with the run's page before them, and what they are about to send."""
    browser, page = console.of(name), f"/runs/{run}"
    form = browser.form(page, f"{page}/decision")
    typed = {"decision": "approve", "reason": "fine", "secret": console.tokens[name]}
    return browser, f"{page}/decision", form | typed


def refused(console: Console, run: str, answer: httpx.Response, status: int, said: str) -> None:
    """The act was refused, and nothing was recorded."""
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert console.office.ledger.approvals(run) == []


def paths_of(route: BaseRoute) -> Iterator[str]:
    """The paths of a route, or of a router that was included."""
    router = getattr(route, "original_router", None)
    if router is not None:
        for inner in router.routes:
            yield from paths_of(inner)
    elif isinstance(route, Mount):
        yield f"{route.path}/console.js"
    else:
        yield str(getattr(route, "path"))  # noqa: B009  FastAPI's routes have it, their base has not


def test_every_route_and_method_is_closed_to_who_has_not_logged_in(console: Console) -> None:
    client = console.browser().client
    app = make_app(console.office.settings, KEY)
    paths = {path for route in app.routes for path in paths_of(route)}
    app.state.place.ledger.close()
    assert len(paths) > 20
    opened = set()
    for path in {re.sub(r"\{[^}]*\}", "x", path) for path in paths} | {"/nothing", "//", "/static"}:
        for method in METHODS:
            for kind in ("text/html", "application/json"):
                headers = {"Accept": kind, "Origin": console.url}
                answer = client.request(method, path, headers=headers)
                is_login = answer.headers.get("location", "").startswith("/login?next=")
                if answer.status_code not in (401, 403) and not is_login:
                    opened.add(path)
    assert {path for path in opened if not path.startswith(STATIC)} == set(OPEN_PATHS)


def test_a_session_alone_changes_nothing(guarded_console: Console) -> None:
    """Whoever takes the cookie, or sits down before an open page, cannot act with it."""
    run = guarded_console.office.evaluated("bot", "blue")
    anna, action, fields = approving(guarded_console, run)
    own = fields["secret"]
    late = own[:-1] + ("0" if own[-1] != "0" else "1")
    for secret, status, said in (
        ("", 403, "this place asks who you are"),
        (late, 403, "is not known at this place"),
        (KEY, 403, "the key opens nothing"),
        (guarded_console.tokens["ben"], 403, "and this is another&#39;s token"),
    ):
        refused(guarded_console, run, anna.post(action, fields | {"secret": secret}), status, said)
    cookie = anna.client.cookies
    answer = httpx.post(
        f"{guarded_console.url}/api{action}",
        json={"decision": "approve", "reason": "x", "artifact": "", "scorecard": ""},
        headers={"Origin": guarded_console.url},
        cookies=dict(cookie),
    )
    refused(guarded_console, run, answer, 403, "an act takes your token")


def test_a_stale_page_is_refused(guarded_console: Console) -> None:
    office = guarded_console.office
    run = office.evaluated("bot", "blue")
    anna, action, fields = approving(guarded_console, run)
    assert office.evaluated("bot", "green", num_right=59) == run  # while the page was open
    refused(guarded_console, run, anna.post(action, fields), 403, "is not what was shown any more")
    _, _, fields = approving(guarded_console, run)
    for name in ("artifact", "scorecard", "champion"):
        stale = anna.form(f"/runs/{run}", action) | fields | {name: "0" * 64}
        stale["csrf"] = anna.form(f"/runs/{run}", action)["csrf"]
        refused(guarded_console, run, anna.post(action, stale), 403, f"the {name} is")
        missing = {key: value for key, value in stale.items() if key != name}
        if name != "champion":  # nobody has the traffic
            refused(guarded_console, run, anna.post(action, missing), 403, f"the {name} is")
    ben, promotion = guarded_console.of("ben"), f"/runs/{run}/promotion"
    form = ben.form(f"/runs/{run}", promotion) | {"secret": guarded_console.tokens["ben"]}
    answer = ben.post(promotion, form | {"artifact": "0" * 64})
    refused(guarded_console, run, answer, 403, "the artifact is")
    assert office.weights() == TO_NOBODY


def test_what_another_page_sends_is_refused(guarded_console: Console) -> None:
    run = guarded_console.office.evaluated("bot", "blue")
    anna, action, fields = approving(guarded_console, run)
    port = guarded_console.office.settings.console_port
    for origin in (
        "https://evil.example",
        f"http://evil.example:{port}",
        f"http://127.0.0.1.evil.example:{port}",
        f"http://localhost:{port}",  # its own, and not the one of this request
        f"http://127.0.0.1:{port + 1}",
        f"https://127.0.0.1:{port}",
        "null",
        "",
    ):
        answer = anna.post(action, fields, Origin=origin)
        refused(guarded_console, run, answer, 403, "comes from another page")
    answer = anna.client.post(action, data=fields)
    refused(guarded_console, run, answer, 403, "comes from another page")
    other = guarded_console.of("ben").form(f"/runs/{run}", action)["csrf"]
    for csrf in ("", "x", other):
        answer = anna.post(action, fields | {"csrf": csrf})
        refused(guarded_console, run, answer, 403, "not of your session")
    assert anna.post(action, fields).status_code == 303


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost:{port}.", ""],
)
def test_a_name_that_leads_here_is_not_answered(console: Console, host: str) -> None:
    """DNS rebinding: the browser believes that evil.example is this machine."""
    named = host.format(port=console.office.settings.console_port)
    for path in ("/", "/login", "/static/console.js"):
        answer = console.browser().client.get(path, headers={"Host": named})
        assert answer.status_code in (400, 421)
        assert "assay-console" not in str(answer.headers)


def test_a_request_names_one_host(console: Console) -> None:
    port = console.office.settings.console_port
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request.encode())
        assert connection.recv(100).split()[1] in (b"400", b"421")


def test_large_bodies_and_odd_forms_are_refused(guarded_console: Console) -> None:
    run = guarded_console.office.evaluated("bot", "blue")
    anna, action, fields = approving(guarded_console, run)
    answer = anna.post(action, fields | {"reason": "x" * MOST_BODY_BYTES})
    refused(guarded_console, run, answer, 413, "too large")
    headers = {"Origin": anna.url, "Content-Type": "application/x-www-form-urlencoded"}
    chunks = (chunk for chunk in (b"a=1", b"&b=2"))
    assert anna.client.post(action, content=chunks, headers=headers).status_code == 413
    for body in (
        b"secret=1&secret=2",
        b"&".join(b"a%d=1" % n for n in range(99)),
        b"\xff",
        b"%ff=1",
    ):
        assert anna.client.post(action, content=body, headers=headers).status_code == 400
    assert anna.client.post(action, json=fields, headers={"Origin": anna.url}).status_code == 400
    assert guarded_console.office.ledger.approvals(run) == []


def test_a_session_ends_with_its_token_its_time_and_its_logout(guarded_console: Console) -> None:
    office, tokens = guarded_console.office, guarded_console.tokens
    anna, ben = guarded_console.of("anna"), guarded_console.of("ben")
    revoke(with_token(office, tokens["root"]), "anna")
    assert anna.get("/").status_code == 303
    form = ben.form("/", "/logout")
    cookies = dict(ben.client.cookies)
    assert ben.post("/logout", form).status_code == 303
    assert (
        httpx.get(f"{ben.url}/", cookies=cookies, headers={"Accept": "text/html"}).status_code
        == 303
    )
    now = [0.0]
    ledger = Ledger(office.settings.ledger_url)
    sessions = Sessions(office.settings, ledger, KEY, clock=lambda: now[0])
    cookie = sessions.log_in(tokens["ben"], "x")
    assert sessions.visitor(cookie) is not None
    now[0] = SESSION_S
    assert sessions.visitor(cookie) is None
    assert sessions.visitor("") is None
    ledger.close()


def test_the_key_opens_nothing_where_tokens_are_asked_for(console: Console, tmp_path: Path) -> None:
    inside = console.browser(KEY)
    assert inside.get("/").status_code == 200
    console.ask_for_tokens(tmp_path)
    assert inside.get("/").status_code == 303, "its session ends as the policy changes"
    assert console.browser().log_in(KEY).status_code == 403


def test_the_cookie_is_for_this_page_and_no_script(guarded_console: Console) -> None:
    fields = {"secret": guarded_console.tokens["anna"], "next": "//evil.example"}
    answer = guarded_console.browser().post("/login", fields)
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    port = guarded_console.office.settings.console_port
    assert cookie.startswith(f"assay-console-{port}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert guarded_console.tokens["anna"] not in cookie


def test_many_wrong_tries_have_to_wait(guarded_console: Console) -> None:
    anybody = guarded_console.browser()
    tries = [anybody.log_in("wrong").status_code for _ in range(MOST_FAILURES + 1)]
    assert tries == [403] * MOST_FAILURES + [429]
    assert anybody.log_in(guarded_console.tokens["anna"]).status_code == 429


def test_a_page_runs_nothing_that_others_wrote(console: Console) -> None:
    office = console.office
    office.says = HOSTILE
    run = office.evaluated("bot", "blue", num_right=50)
    anybody = console.browser(KEY)
    page = f"/runs/{run}"
    form = anybody.form(page, f"{page}/decision")
    typed = {"decision": "reject", "reason": HOSTILE, "secret": KEY, "name": "anna"}
    assert anybody.post(f"{page}/decision", form | typed).status_code == 303
    failed = office.run("other")
    office.ledger.fail_stage(office.ledger.begin_stage(failed, "fetch", "k"), HOSTILE)
    office.ledger.open_run(f"x-{HOSTILE[:40]}", name=HOSTILE, spec="{}", started_by=HOSTILE)
    pages = ["/", page, f"/runs/{failed}", "/traffic", "/audit", f"/?find={HOSTILE[:9]}"]
    for path in [*pages, "/login?next=%22%3E%3Cscript%3E", "/runs/%3Cscript%3E"]:
        answer = anybody.get(path)
        seen = Tags(answer.text)
        assert seen.scripts == ["/static/console.js"], path
        assert not seen.handlers, path
        assert "\x1b" not in answer.text
        assert "\u202e" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "49" not in re.findall(r"onerror[^<]*", answer.text)[:1]
    assert "&lt;script&gt;alert(1)" in anybody.get(page).text, "it is shown as it was said"


class Tags(HTMLParser):
    """Scripts and handlers of a page, as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "script":
            self.scripts.append(said.get("src"))
        self.handlers += [name for name in said if name.startswith("on") or name == "style"]


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:1", "/\n/x", ""],
)
def test_nobody_is_led_elsewhere_by_logging_in(path: str) -> None:
    assert local_path(path) == "/"
    assert local_path("/runs/x?done=begun#decide") == "/runs/x?done=begun#decide"


def test_who_has_no_role_is_refused_by_the_same_checks(guarded_console: Console) -> None:
    run = guarded_console.office.evaluated("bot", "blue")
    zoe, action, fields = approving(guarded_console, run, "zoe")
    refused(guarded_console, run, zoe.post(action, fields), 403, "this takes `review`")
    ben, action, fields = approving(guarded_console, run, "ben")
    refused(guarded_console, run, ben.post(action, fields), 403, "they started this run")
    anna = guarded_console.of("anna")
    assert anna.get("/users").status_code == 403
    assert anna.post("/users", {"user": "x"}).status_code == 403


def test_a_ledger_that_was_tampered_with_opens_nothing(guarded_console: Console) -> None:
    office = guarded_console.office
    anna = guarded_console.of("anna")
    with office.ledger._database.writing() as connection:
        connection.exec_driver_sql("UPDATE grants SET envelope = replace(envelope, 'a', 'b')")
    answer = anna.get("/")
    assert (answer.status_code, "cannot be trusted" in answer.text) == (503, True)


def test_the_console_starts_says_how_to_come_in_and_stops(office: Office) -> None:
    up = office.command("up", "--gateway-only")
    assert up.returncode == ExitCode.DONE, up.stderr
    (address,) = re.findall(r"console   (\S+)", up.stdout)
    url, _, key = address.partition("/login#")
    assert url == office.settings.console_url
    assert (office.settings.home / "console" / "key").stat().st_mode & 0o777 == 0o600
    assert address in office.command("console").stdout, "said again, by whoever may read the key"
    browser = Browser(url)
    with browser.client:
        assert browser.log_in(key).status_code == 303
        assert browser.get("/").status_code == 200
    log = (office.settings.home / "console" / "console.log").read_text()
    assert key not in log
    assert "it was started with" not in log
    assert office.command("doctor", "--quick").returncode == ExitCode.DONE
    console_server.stop(office.settings)
    assert not console_server.is_running(office.settings)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_port_that_is_taken_keeps_production_from_nothing(office: Office) -> None:
    with socket.create_server(("127.0.0.1", office.settings.console_port)):
        up = office.command("up", "--gateway-only")
    assert (up.returncode, "no console: the console did not start" in up.stderr) == (0, True)


def test_beyond_the_loopback_it_takes_tls(office: Office) -> None:
    everywhere = replace(office.settings, console_host="0.0.0.0")
    with pytest.raises(UsageError, match="without TLS, and tokens would cross the network"):
        console_server.start(everywhere)
    with pytest.raises(UsageError, match="without TLS"):
        console_server.start(replace(everywhere, console_address="http://assay.example.org"))
    url = "https://assay.example.org"
    office.settings = replace(office.settings, console_address=url)
    with console_of(office) as console:
        browser = console.browser()
        browser.client.headers["Host"] = "assay.example.org"  # as the proxy passes it on
        answer = browser.post("/login", {"secret": KEY}, Origin=url)
        assert "Secure" in answer.headers["set-cookie"].split("; ")
        answer = browser.post("/login", {"secret": KEY}, Origin="https://example.org")
        assert answer.status_code == 403
