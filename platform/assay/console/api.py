"""The REST API: the same evidence and acts as the pages, for programs with a personal token."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from assay.console.guard import client_of
from assay.console.overview import PAGE, listed, seen_now
from assay.console.pages import Number, page
from assay.console.place import ConsolePlace, Place, Who
from assay.console.sessions import Visitor
from assay.errors import NotApproved
from assay.flow.release.checks import Seen
from assay.flow.release.operations import ReviewerWord, record_decision
from assay.records.releases.release import Approval, Champion, Release, Traffic
from assay.records.report import Report
from assay.reporting import document
from assay.settings import Settings

router = APIRouter()

Bearer = Annotated[str, Header(include_in_schema=False)]


class RunSummary(BaseModel):
    """A run in a list."""

    id: str
    name: str
    started_by: str
    started_at: float = Field(description="Seconds since the epoch.")
    standing: str = Field(description="Where it stands, in words.")
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] | None


class StageState(BaseModel):
    """One stage of a run."""

    stage: str
    state: str
    started_at: float
    ended_at: float | None
    error: str | None


class RunState(BaseModel):
    """How far a run is."""

    id: str
    stages: list[StageState]
    approvals: list[Approval]


class TrafficState(BaseModel):
    """Who has the traffic, and how it came so."""

    champion: Champion | None
    release: Release | None = Field(description="That is under way.")
    changes: list[Traffic]


class Decision(BaseModel):
    """A reviewer's word, on what they have seen."""

    decision: Literal["approve", "reject"]
    reason: str = Field(min_length=1)
    artifact: str = Field(description="Digest of the model, from the scorecard.")
    scorecard: str = Field(description="Digest of the scorecard (`scorecard_digest`).")
    champion: str = Field("", description="Digest of what has the traffic; empty for nobody.")


@router.get("/api/runs", summary="All runs, the one started last first")
def runs(place: Place, who: Who, page: Number = 1, find: str = "") -> list[RunSummary]:
    """Fifty a page; `find` is a part of their ids."""
    found = listed(place.settings, place.ledger, page=page, name=find)
    summaries = []
    for one in found:
        summary = RunSummary(**vars(one.run), standing=one.standing.words, verdict=one.verdict)
        summaries.append(summary)
    return summaries


@router.get("/api/runs/{run}", summary="How far a run is")
def run_state(run: str, place: Place, who: Who) -> RunState:
    """Its stages, and what reviewers have said."""
    row = place.ledger.find_run(run)
    stages = []
    for stage in seen_now(row.id, place.ledger.stages(row.id), place.settings):
        values = {name: getattr(stage, name) for name in StageState.model_fields}
        stages.append(StageState(**values))
    return RunState(id=row.id, stages=stages, approvals=place.ledger.approvals(row.id))


@router.get("/api/runs/{run}/report", summary="The scorecard document", response_model=Report)
def report(run: str, place: Place, who: Who) -> Any:
    """What `assay report --json` prints."""
    return document.report(run, settings=place.settings)


@router.get("/api/traffic", summary="Who has the traffic")
def traffic(place: Place, who: Who) -> TrafficState:
    """The champion, what is under way, and every change."""
    ledger = place.ledger
    return TrafficState(
        champion=ledger.champion(),
        release=ledger.releases.under_way(),
        changes=list(ledger.traffic()),
    )


@router.post("/api/runs/{run}/decision", summary="Approve or reject", status_code=201)
def decide(
    run: str, said: Decision, place: Place, who: Who, request: Request, authorization: Bearer = ""
) -> Approval:
    """The word of whose token it is. A session's cookie is not enough."""
    return record_decision(
        run,
        ReviewerWord(said.decision, "", said.reason),
        settings=_acting(place, who, request, authorization),
        seen=Seen(said.artifact, said.scorecard, said.champion),
    )


@router.get("/api", include_in_schema=False)
def describe(request: Request, who: Who) -> Response:
    """The API, for people: what FastAPI's own page says, without what that loads from elsewhere."""
    schema = request.app.openapi()
    return page(request, "api.html.j2", schema=schema, page_size=PAGE)


def _acting(place: ConsolePlace, who: Visitor, request: Request, authorization: str) -> Settings:
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "bearer":
        raise NotApproved("an act takes your token: Authorization: Bearer assay_…")
    return place.sessions.acting(who, token, "", client_of(request.scope))
