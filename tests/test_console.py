"""The console: from a waiting run to promotion and back, by the functions of the command line."""

import json
import re
import threading
from collections.abc import Callable

from assay.console.app import make_app
from assay.store.ledger import Ledger
from consoles import KEY, Browser, Console, console, guarded_console, text_of  # noqa: F401
from office import TO_BLUE, TO_GREEN, office, running  # noqa: F401


def until(has_come: Callable[[], bool]) -> None:
    """Waits for what another process or thread does; the test's own time limit ends it."""
    pause = threading.Event()
    while not has_come():
        pause.wait(0.05)


def decide(console: Console, browser: Browser, run: str, **fields: str) -> int:
    """Sends the form of the run's page; returns the status."""
    page = f"/runs/{run}"
    form = browser.form(page, f"{page}/decision")
    return browser.post(f"{page}/decision", form | fields).status_code


def promote(console: Console, name: str, run: str) -> str:
    """Promotes from the run's page, and waits for the end; returns what the page says then."""
    page, browser = f"/runs/{run}", console.of(name)
    form = browser.form(page, f"{page}/promotion")
    answer = browser.post(f"{page}/promotion", form | {"secret": console.tokens[name]})
    assert answer.headers["location"] == f"{page}?done=begun", answer.text
    until(lambda: "goes on" not in browser.get(page).text)
    return text_of(browser.get(page).text)


def test_a_run_is_decided_promoted_and_taken_back_from_its_page(guarded_console: Console) -> None:
    office, tokens = guarded_console.office, guarded_console.tokens
    run = office.evaluated("bot", "blue")
    anna = guarded_console.of("anna")
    assert "1 waits for a decision" in text_of(anna.get("/").text)
    assert "is not approved" in anna.get(f"/runs/{run}").text
    said = {"decision": "approve", "reason": "reads well", "secret": tokens["anna"]}
    assert decide(guarded_console, anna, run, **said) == 303
    (word,) = office.ledger.approvals(run)
    assert word.actor is not None
    assert (word.reviewer, word.reason) == ("anna", "reads well")
    assert (word.actor.name, word.actor.token) == ("anna", tokens["anna"].split("_")[1])

    assert "has the traffic" in promote(guarded_console, "ben", run)
    assert office.weights() == TO_BLUE
    moved = [event for event in office.ledger.verify() if event.kind == "traffic"]
    assert [(one.actor.name, bool(one.actor.act)) for one in moved] == [("ben", True)]

    office.says = "Your parcel is on its way."
    first = office.ledger.champion()
    assert first is not None
    better = office.evaluated("next", "green", "PASS", first.artifact_digest, num_right=58)
    said |= {"reason": "better still"}
    assert decide(guarded_console, anna, better, **said) == 303
    promote(guarded_console, "ben", better)
    assert office.weights() == TO_GREEN

    ben = guarded_console.of("ben")
    form = ben.form("/traffic", "/traffic/rollback")
    answer = ben.post("/traffic/rollback", form | {"reason": "wrong tone", "secret": tokens["ben"]})
    assert answer.status_code == 303, answer.text
    assert office.weights() == TO_BLUE
    assert office.ledger.traffic()[-1].reason == "wrong tone"
    for page in ("/", "/traffic", "/audit?verify=1", f"/runs/{better}"):
        assert anna.get(page).status_code == 200


def test_a_refused_promotion_says_why(guarded_console: Console) -> None:
    run = guarded_console.office.evaluated("bot", "blue")
    said = promote(guarded_console, "ben", run)
    assert "ended with code 12" in said
    assert f"run {run} is not approved" in said


def test_what_would_change_is_shown_before_the_decision(guarded_console: Console) -> None:
    office, tokens = guarded_console.office, guarded_console.tokens
    run = office.evaluated("bot", "blue")
    anna = guarded_console.of("anna")
    said = {"decision": "approve", "reason": "first", "secret": tokens["anna"]}
    assert decide(guarded_console, anna, run, **said) == 303
    promote(guarded_console, "ben", run)
    champion = office.ledger.champion()
    assert champion is not None
    other = office.spec("next").model_copy(update={"name": "other"})
    worse = office.evaluated(
        "next",
        "green",
        champion_digest=champion.artifact_digest,
        spec=other,
        num_right=50,
        champion_right=60,
    )
    page = text_of(anna.get(f"/runs/{worse}").text)
    assert re.search(r'name "bot" "other"', page.replace("&#34;", '"')), page
    assert "answers that got worse 10" in page
    assert "10 worse, 0 better, of 60" in page
    assert "question 50? wanted ! champion ! candidate ! not" in page
    assert "the champion" in page
    for digest in (champion.artifact_digest, office.model(worse).artifact.digest):
        assert digest in anna.get(f"/runs/{worse}").text


def test_the_page_shows_the_scorecard_of_the_file(guarded_console: Console) -> None:
    office = guarded_console.office
    run = office.evaluated("bot", "blue", "FAIL")
    page = guarded_console.of("anna").get(f"/runs/{run}").text
    from assay.reporting.document import report
    from assay.reporting.html import render_body

    assert str(render_body(report(run, settings=office.settings), level=2)) in page
    assert "Approve</button>" not in page, "what has not passed can only be rejected"


def test_somebody_with_the_terminals_key_acts_by_name_where_words_are_believed(
    console: Console,
) -> None:
    office = console.office
    run = office.evaluated("bot", "blue")
    anybody = console.browser(KEY)
    said = {"decision": "approve", "reason": "fine", "secret": KEY}
    assert decide(console, anybody, run, **said, name="ben") == 403, "they started this run"
    assert decide(console, anybody, run, **said, name=" ") == 400
    assert decide(console, anybody, run, **said, name="anna") == 303
    (word,) = office.ledger.approvals(run)
    assert word.actor is not None
    assert (word.reviewer, word.actor.token) == ("anna", None)


def test_admins_give_and_take_tokens(guarded_console: Console) -> None:
    root, tokens = guarded_console.of("root"), guarded_console.tokens
    form = root.form("/users", "/users")
    fields = {"user": "kim", "days": "7", "role-review": "1", "secret": tokens["root"]}
    page = root.post("/users", form | fields).text
    (token,) = re.findall(r"assay_[0-9a-f]{8}_[0-9a-f]{64}", page)
    kim = guarded_console.browser(token)
    assert kim.get("/users").status_code == 403
    form = root.form("/users", "/users/revocation")
    fields = {"token": token.split("_")[1], "secret": tokens["root"]}
    assert root.post("/users/revocation", form | fields).status_code == 303
    assert kim.get("/").headers["location"] == "/login?next=%2F", "from the next request on"


def test_news_come_by_themselves(guarded_console: Console) -> None:
    office = guarded_console.office
    run = office.run("bot")
    anna = guarded_console.of("anna")
    with anna.client.stream("GET", f"/events?run={run}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        office.ledger.begin_stage(run, "train", "k")
        second = next(line for line in lines if line.startswith("data: "))
        assert second != first
        folder = office.settings.run_folder(run) / "train"
        folder.mkdir(parents=True)
        steps = [{"step": step, "num_steps": 9, "loss": 3 / step} for step in (1, 2)]
        (folder / "progress.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in steps))
        assert next(line for line in lines if line.startswith("data: ")) != second
    page = anna.get(f"/runs/{run}").text
    assert "step 2/9, loss 1.500" in page
    assert page.count("<polyline") == 1, "the losses so far are drawn"


def test_the_api_says_and_does_the_same(guarded_console: Console) -> None:
    office, tokens = guarded_console.office, guarded_console.tokens
    run = office.evaluated("bot", "blue")
    client = guarded_console.browser().client
    client.headers = {"Authorization": f"Bearer {tokens['anna']}"}
    (listed,) = client.get("/api/runs").json()
    assert (listed["id"], listed["standing"]) == (run, "waits for a decision")
    report = client.get(f"/api/runs/{run}/report").json()
    said = {
        "decision": "approve",
        "reason": "reads well",
        "artifact": report["scorecard"]["artifact_digest"],
        "scorecard": report["scorecard_digest"],
    }
    stale = client.post(f"/api/runs/{run}/decision", json={**said, "scorecard": "0" * 64})
    assert (stale.status_code, office.ledger.approvals(run)) == (403, [])
    assert client.post(f"/api/runs/{run}/decision", json=said).status_code == 201
    assert [word.reviewer for word in office.ledger.approvals(run)] == ["anna"]
    assert client.get(f"/api/runs/{run}").json()["approvals"][0]["reason"] == "reads well"
    schema = client.get("/openapi.json").json()
    operations = [one for methods in schema["paths"].values() for one in methods.values()]
    assert len(operations) == 5
    assert all(one["summary"] and one["description"] for one in operations)


def test_pages_of_many_runs(console: Console) -> None:
    ledger = Ledger(console.office.settings.ledger_url)
    for number in range(120):
        ledger.open_run(f"run-{number:03d}-aa", name="run", spec="{}", started_by="zoe")
    anybody = console.browser(KEY)
    first, last = anybody.get("/").text, anybody.get("/?at=3").text
    assert first.count('class="sheet row"') == 50
    assert "run-119-aa" in first
    assert last.count('class="sheet row"') == 20
    assert "page 3 of 3 · 120 runs" in text_of(last)
    assert anybody.get("/?find=07%25").text.count('class="sheet row"') == 0, "no pattern of SQL"
    assert anybody.get("/?at=4").text.count('class="sheet row"') == 0
    for odd in ("/?at=0", f"/?at={10**30}", "/?at=x", f"/audit?before={10**30}"):
        assert anybody.get(odd).status_code == 422
    assert anybody.get("/?find=run-07").text.count('class="sheet row"') == 10


def test_make_app_asks_for_nothing_from_elsewhere(console: Console) -> None:
    """It works offline: no page names another host."""
    office = console.office
    run = office.evaluated("bot", "blue")
    anybody = console.browser(KEY)
    pages = ["/", f"/runs/{run}", "/traffic", "/audit", "/users", "/api"]
    files = ["/static/console.js", "/static/console.css", "/static/scorecard.css"]
    for path in pages + files:
        text = anybody.get(path).text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"(src|href|action|url\(|import|fetch)[^\n]{0,9}https?://", text), path
    paths = {getattr(route, "path", "") for route in make_app(office.settings, KEY).routes}
    assert not paths & {"/docs", "/redoc"}, "FastAPI's pages load their scripts from a CDN"
