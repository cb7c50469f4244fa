"""The console as people see it: a real Chromium, from a waiting run to promotion."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from assay.spec.spec import Spec
from consoles import KEY, Console, console, guarded_console  # noqa: F401
from office import TO_BLUE, office, running  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]
# Without a network the browser would ask for updates in vain; as root it has no sandbox.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Large enough for a finger: WCAG 2.2, which axe-core does not look at unless it is told to.
FINGERS = {"rules": {"target-size": {"enabled": True}}}
WIDTHS = {"desktop": 1280, "phone": 360}


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Person:
    """Somebody before a window. Whatever the browser complains of is kept."""

    def __init__(self, chromium: "Browser", console: Console, **options: Any) -> None:
        self.context = chromium.new_context(base_url=console.url, **options)
        self.context.set_default_timeout(120_000)
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.on("console", self._listen)

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def log_in(self, secret: str) -> "Page":
        self.page.goto("/login")
        self.page.get_by_label("Token or key").fill(secret)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("heading", name="Runs").wait_for()
        return self.page


def test_a_reviewer_decides_and_another_promotes(
    chromium: "Browser", guarded_console: Console
) -> None:
    office, tokens = guarded_console.office, guarded_console.tokens
    office.says = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    run = office.evaluated("bot", "blue", num_right=50)
    anna, ben = Person(chromium, guarded_console), Person(chromium, guarded_console)
    page = anna.log_in(tokens["anna"])
    page.get_by_role("link", name=run).first.click()
    page.get_by_text("onerror=alert(1)").first.wait_for()  # shown, and not run
    page.get_by_role("link", name="Decide").click()
    page.get_by_label("Why").fill("reads well")
    page.keyboard.press("Tab")  # the whole of it by keyboard
    page.keyboard.type(tokens["anna"])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Your approval is recorded.").wait_for()
    assert [word.reviewer for word in office.ledger.approvals(run)] == ["anna"]

    page = ben.log_in(tokens["ben"])
    page.goto(f"/runs/{run}")
    form = page.locator(f'form[action="/runs/{run}/promotion"]')
    form.get_by_label("Your token once more").fill(tokens["ben"])
    form.get_by_role("button", name="Promote").click()
    for one in (page, anna.page):  # neither loads the page again: the news come by themselves
        one.locator("#live-standing").get_by_text("has the traffic").wait_for()
    assert office.weights() == TO_BLUE
    assert (anna.faults, ben.faults) == ([], [])


def test_the_link_in_the_terminal_opens_the_console(chromium: "Browser", console: Console) -> None:
    person = Person(chromium, console)
    asked: list[str] = []
    person.page.on("request", lambda request: asked.append(request.url))
    person.page.goto(f"/login#{KEY}")
    person.page.get_by_role("heading", name="Runs").wait_for()
    assert KEY not in person.page.url
    assert not [url for url in asked if KEY in url.partition("#")[0]]
    assert person.faults == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_pages_are_accessible_and_fit_a_phone(
    chromium: "Browser", guarded_console: Console, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    office = guarded_console.office
    champion = office.evaluated("bot", "blue")
    guarded_console.approve_and_promote(champion)
    serving = office.ledger.champion()
    assert serving is not None
    said = office.spec("next").model_dump(mode="json", exclude_defaults=True) | {"name": "other"}
    waiting = office.evaluated(
        "next",
        "green",
        champion_digest=serving.artifact_digest,
        spec=Spec.model_validate(said),
        num_right=50,
        champion_right=60,
    )
    office.ledger.begin_stage(office.run("busy"), "train", "k")
    paths = ["/", f"/runs/{waiting}", "/traffic", "/audit", "/users", "/api", "/runs/none"]
    for name, width in WIDTHS.items():
        person = Person(
            chromium,
            guarded_console,
            color_scheme=scheme,
            viewport={"width": width, "height": 800},
        )
        page = person.log_in(guarded_console.tokens["root"])
        for path in paths:
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, path)
            found = axe.run(page, options=FINGERS).response["violations"]
            told = [(one["id"], one["nodes"][0]["html"]) for one in found]
            assert told == [], (name, path)
        person.context.close()
