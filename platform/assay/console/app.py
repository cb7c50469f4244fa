"""The console's application: the routes, behind the guard."""

from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from assay import __version__
from assay.console import acts, api, events, pages
from assay.console.forms import OtherPage
from assay.console.guard import Guard, cookie_name
from assay.console.pages import page
from assay.console.place import ConsolePlace
from assay.console.promotions import Promotions
from assay.console.sessions import Sessions, TooManyTries
from assay.errors import AssayError, IntegrityError, NotApproved, PlaceError, UsageError
from assay.reporting.html import style_sheet
from assay.settings import Settings
from assay.store.ledger import Ledger

STATUS = (
    (TooManyTries, 429),
    (NotApproved, 403),
    (OtherPage, 403),
    (UsageError, 400),
    (IntegrityError, 409),
    (PlaceError, 503),
)
"""The first that fits; 500 for none."""

API_TEXT = """The acts and the evidence of the console, for programs.

Every call carries a personal token: `Authorization: Bearer assay_…`. Whoever decides or moves
traffic names the digests that they have seen, and is refused where those have changed.
"""


def make_app(settings: Settings, key: str) -> FastAPI:
    """The console of a place. `key` lets those in who see the terminal, where the place takes
    people's word for who they are."""
    app = FastAPI(
        title="Assay",
        description=API_TEXT,
        version=__version__,
        docs_url=None,  # those pages load their scripts from a CDN; `/api` shows the same
        redoc_url=None,
    )
    ledger = Ledger(settings.ledger_url)
    sessions = Sessions(settings, ledger, key)
    app.state.place = ConsolePlace(
        settings=settings,
        ledger=ledger,
        sessions=sessions,
        promotions=Promotions(),
        cookie=cookie_name(settings),
    )
    for router in (pages.router, acts.router, events.router, api.router):
        app.include_router(router)
    app.add_api_route("/static/scorecard.css", _scorecard_css, include_in_schema=False)
    folder = Path(str(resources.files("assay.console") / "static"))
    app.mount("/static", StaticFiles(directory=folder))
    app.add_exception_handler(AssayError, _failed)
    app.add_middleware(Guard, settings=settings, sessions=sessions)
    return app


def _scorecard_css() -> Response:
    return Response(style_sheet(), media_type="text/css")


def _failed(request: Request, error: Exception) -> Response:
    """What could not be done, with the reason, as the command line gives it."""
    status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": str(error)}, status)
    return page(
        request, "error.html.j2", status=status, message=str(error), back=_came_from(request)
    )


def _came_from(request: Request) -> str:
    """Where the form stood: its own path without the act."""
    parent = request.url.path.rpartition("/")[0]
    return parent or "/"
