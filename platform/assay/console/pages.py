"""The pages that are looked at."""

import time
from functools import cache
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from jinja2 import Environment
from starlette.responses import HTMLResponse, RedirectResponse, Response

from assay.console.overview import PAGE, listed
from assay.console.place import Admin, ConsolePlace, Place, Who
from assay.console.runs import run_page
from assay.errors import PlaceError
from assay.flow.place.book import read_place
from assay.flow.release.audit import check_audit
from assay.records.releases.grant import ROLES
from assay.records.releases.run_id import short_run
from assay.reporting.html import make_environment
from assay.rules.release.slots import former_champion
from assay.serving import gateway

router = APIRouter(include_in_schema=False)

NUM_EVENTS = 100
Number = Annotated[int, Query(ge=1, le=1_000_000_000)]
"""What no database takes for too large."""
DONE = {
    "approved": "Your approval is recorded.",
    "rejected": "Your rejection is recorded.",
    "begun": "The promotion has begun; its steps show below.",
    "rolled-back": "The traffic went back.",
    "revoked": "The token opens nothing any more.",
    "verified": "The chain is whole, and the tables say what it says.",
}


@router.get("/login")
def login(request: Request, next: str = "/") -> Response:
    """Where a token is given."""
    return page(request, "login.html.j2", next=local_path(next))


@router.get("/session")
def session(request: Request) -> dict[str, bool]:
    """Whether a session is open: a page that was linked from elsewhere comes without its cookie,
    and asks again from here."""
    return {"open": request.state.visitor is not None}


@router.get("/")
def runs(request: Request, place: Place, who: Who, at: Number = 1, find: str = "") -> Response:
    """All runs."""
    found = listed(place.settings, place.ledger, page=at, name=find)
    num_runs = place.ledger.overview.num_runs(find)
    return page(
        request,
        "runs.html.j2",
        runs=found,
        num_runs=num_runs,
        at=at,
        num_pages=max(1, -(-num_runs // PAGE)),
        find=find,
        **_serving(place),
    )


@router.get("/runs/{run}")
def one_run(request: Request, run: str, place: Place, who: Who) -> Response:
    """One run, with all that a decision rests on."""
    row = place.ledger.find_run(run)
    if row.id != run:
        return RedirectResponse(f"/runs/{quote(row.id, safe='')}", 303)
    shown = run_page(row, place.settings, place.ledger, place.promotions.newest(run))
    return page(request, "run.html.j2", shown=shown, **_serving(place))


@router.get("/traffic")
def traffic(request: Request, place: Place, who: Who) -> Response:
    """Who has the traffic, who had it, and what the gateway counts."""
    try:
        counters, fault = gateway.counters(place.settings), ""
    except PlaceError as error:
        counters, fault = {}, str(error)
    return page(
        request,
        "traffic.html.j2",
        changes=list(reversed(place.ledger.traffic())),
        releases=list(reversed(place.ledger.releases.all())),
        former=former_champion(place.ledger.traffic()),
        weights=gateway.get_weights(place.settings),
        counters=counters,
        fault=fault,
        **_serving(place),
    )


@router.get("/audit")
def audit(
    request: Request, place: Place, who: Who, before: Number | None = None, verify: bool = False
) -> Response:
    """Every act, the newest first."""
    num_verified = check_audit(place.ledger, place.settings) if verify else None
    events = place.ledger.audit.newest(limit=NUM_EVENTS, before=before or 0)
    return page(request, "audit.html.j2", events=events, num_verified=num_verified)


@router.get("/users")
def users(request: Request, place: Place, who: Admin) -> Response:
    """Who may do what."""
    return page(request, "users.html.j2", made=None, **people(place))


def people(place: ConsolePlace) -> dict[str, Any]:
    """Every token, and what it opens."""
    known, now = read_place(place.settings, place.ledger), place.ledger.grants.now()
    rows = []
    for grant in known.tokens:
        state = "valid" if known.is_valid(grant, now) else "expired"
        state = "revoked" if grant.token in known.revoked else state
        rows.append((grant, state))
    return {"tokens": list(reversed(rows)), "roles": ROLES, "policy": known.policy}


def page(request: Request, template: str, *, status: int = 200, **content: Any) -> HTMLResponse:
    """A page, with who looks at it."""
    visitor = getattr(request.state, "visitor", None)
    done = DONE.get(request.query_params.get("done", ""), "")
    text = (
        _environment()
        .get_template(template)
        .render(**content, who=visitor, done=done, path=request.url.path, now=time.time())
    )
    return HTMLResponse(text.encode("utf-8", "replace"), status)


def local_path(path: str) -> str:
    """A path of this console; its first page for whatever leads elsewhere."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if is_local and path.isprintable() and path.isascii() else "/"


def _serving(place: ConsolePlace) -> dict[str, Any]:
    """Who has the traffic, and who is about to."""
    champion = place.ledger.champion()
    return {
        "champion": champion,
        "is_held": place.ledger.restorations.is_held(champion),
        "release": place.ledger.releases.under_way(),
    }


@cache
def _environment() -> Environment:
    environment = make_environment("assay.console", "templates")
    environment.filters.update(ago=_ago, took=_took, short=short_run, path=_quoted)
    return environment


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _ago(at: float) -> str:
    """How long ago."""
    seconds = max(0.0, time.time() - at)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name} ago"
    return "just now"


def _took(seconds: float | None) -> str:
    """A duration."""
    if seconds is None:
        return ""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s"
