"""What is done from the pages: by the functions of the command line, with the visitor's own token,
which they give once more."""

from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from assay.console.forms import Form, OwnForm
from assay.console.guard import client_of
from assay.console.pages import local_path, page, people
from assay.console.place import Admin, ConsolePlace, Place, Who
from assay.console.sessions import SESSION_S, TooManyTries, Visitor
from assay.errors import NotApproved, UsageError
from assay.flow.place.people import add_user, revoke
from assay.flow.release.checks import Seen, check_seen, evaluated
from assay.flow.release.operations import ReviewerWord, record_decision, rollback_run
from assay.records.releases.grant import ROLES
from assay.rules.release.slots import former_champion
from assay.settings import Settings

router = APIRouter(include_in_schema=False)

DAY_S = 24 * 3600.0
MOST_DAYS = 365


@router.post("/login")
def log_in(request: Request, place: Place, form: Form) -> Response:
    """Opens a session."""
    target = local_path(form.get("next", "/"))
    try:
        cookie = place.sessions.log_in(form.get("secret", ""), client_of(request.scope))
    except NotApproved as error:
        status = 429 if isinstance(error, TooManyTries) else 403
        return page(request, "login.html.j2", status=status, next=target, message=str(error))
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        place.cookie,
        cookie,
        max_age=int(SESSION_S),
        httponly=True,
        samesite="strict",
        secure=place.settings.console_url.startswith("https://"),
    )
    return answer


@router.post("/logout")
def log_out(request: Request, place: Place, who: Who, form: OwnForm) -> Response:
    """Ends the session."""
    place.sessions.log_out(request.cookies.get(place.cookie, ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(place.cookie, httponly=True, samesite="strict")
    return answer


@router.post("/runs/{run}/decision")
def decide(request: Request, run: str, place: Place, who: Who, form: OwnForm) -> Response:
    """A reviewer's word, on what the page has shown them."""
    decision = form.get("decision", "")
    if decision not in ("approve", "reject"):
        raise UsageError("say whether you approve or reject")
    if not form.get("reason", "").strip():
        raise UsageError("say why: whoever reads the audit will want to know")
    record_decision(
        run,
        ReviewerWord("approve" if decision == "approve" else "reject", "", form["reason"].strip()),
        settings=_acting(request, place, who, form),
        seen=_seen(form),
    )
    return _done(
        f"/runs/{quote(run, safe='')}", f"{decision}{'d' if decision[-1] == 'e' else 'ed'}"
    )


@router.post("/runs/{run}/promotion")
def promote(request: Request, run: str, place: Place, who: Who, form: OwnForm) -> Response:
    """Begins to move the traffic, step by step; the run's page shows how it goes."""
    settings = _acting(request, place, who, form)
    check_seen(_seen(form), evaluated(run, place.ledger), place.ledger.champion())
    place.promotions.begin(run, settings)
    return _done(f"/runs/{quote(run, safe='')}", "begun")


@router.post("/traffic/rollback")
def roll_back(request: Request, place: Place, who: Who, form: OwnForm) -> Response:
    """Gives the traffic back, from whom the page has shown to whom it has shown."""
    settings = _acting(request, place, who, form)
    _check_traffic(place, form)
    if not form.get("reason", "").strip():
        raise UsageError("say why: whoever reads the audit will want to know")
    rollback_run(settings=settings, reason=form["reason"].strip())
    return _done("/traffic", "rolled-back")


@router.post("/users")
def give_token(request: Request, place: Place, who: Admin, form: OwnForm) -> Response:
    """A new token, shown this once."""
    roles = [role for role in ROLES if form.get(f"role-{role}")]
    if not roles:
        raise UsageError("a token opens at least one role")
    days = form.get("days", "")
    if not (days.isascii() and days.isdigit() and 1 <= int(days[:6]) <= MOST_DAYS):
        raise UsageError(f"a token lives 1 to {MOST_DAYS} days")
    settings = _acting(request, place, who, form)
    token, grant = add_user(settings, form.get("user", ""), roles, int(days) * DAY_S)
    return page(request, "users.html.j2", made=(token, grant), **people(place))


@router.post("/users/revocation")
def take_token(request: Request, place: Place, who: Admin, form: OwnForm) -> Response:
    """Takes one token away."""
    settings = _acting(request, place, who, form)
    revoke(settings, form.get("token", ""))
    return _done("/users", "revoked")


def _acting(request: Request, place: ConsolePlace, who: Visitor, form: dict[str, str]) -> Settings:
    """The place, in the visitor's name. Raises `NotApproved` unless the secret is theirs."""
    client = client_of(request.scope)
    return place.sessions.acting(who, form.get("secret", ""), form.get("name", ""), client)


def _seen(form: dict[str, str]) -> Seen:
    return Seen(form.get("artifact", ""), form.get("scorecard", ""), form.get("champion", ""))


def _check_traffic(place: ConsolePlace, form: dict[str, str]) -> None:
    """Raises `NotApproved` unless traffic is as the page has shown it."""
    champion, former = place.ledger.champion(), former_champion(place.ledger.traffic())
    release = place.ledger.releases.under_way()
    now = (
        champion.artifact_digest if champion else "",
        former.artifact_digest if former else "",
        str(release.id) if release else "",
    )
    if now != tuple(form.get(name, "") for name in ("champion", "former", "release")):
        raise NotApproved("the traffic has moved since the page was shown; nothing was done")


def _done(path: str, what: str) -> Response:
    return RedirectResponse(f"{path}?done={what}", 303)
