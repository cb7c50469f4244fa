"""Server-sent events: that there is something new, so that a page loads what it shows anew."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from assay.console.place import ConsolePlace, Place, Who
from assay.reporting.progress import current, progress_words
from assay.serving import gateway

router = APIRouter(include_in_schema=False)

LOOK_S = 1.0
ALIVE_EVERY = 15
"""Looks without news after which a comment is sent, for proxies that end silent connections."""


@router.get("/events")
async def events(request: Request, place: Place, who: Who, run: str = "") -> StreamingResponse:
    """A stream of marks, one whenever something has changed; with `run`, its progress too."""
    return StreamingResponse(
        _stream(request, place, run),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _stream(request: Request, place: ConsolePlace, run: str) -> AsyncIterator[str]:
    last, silent = "", 0
    cookie = request.cookies.get(place.cookie, "")
    yield "retry: 2000\n\n"
    while not await request.is_disconnected():
        if await run_in_threadpool(place.sessions.visitor, cookie) is None:
            yield "event: gone\ndata: log in again\n\n"
            return
        mark = await run_in_threadpool(_mark, place, run)
        silent = 0 if mark != last else silent + 1
        if mark != last:
            yield f"event: changed\ndata: {mark}\n\n"
        elif silent % ALIVE_EVERY == 0:
            yield ": alive\n\n"
        last = mark
        await asyncio.sleep(LOOK_S)


def _mark(place: ConsolePlace, run: str) -> str:
    """Another text whenever something has changed; one line, without what anybody wrote."""
    weights = gateway.get_weights(place.settings)
    parts = [place.ledger.overview.mark(), place.promotions.mark(), str(sorted(weights.items()))]
    if run:
        parts.append(_progress(place, run))
    return f"{hash(tuple(parts)) & 0xFFFFFFFF:08x}"


def _progress(place: ConsolePlace, run: str) -> str:
    for stage in place.ledger.stages(run):
        if stage.state == "running":
            file = place.settings.run_folder(run) / stage.stage / "progress.jsonl"
            lines = current(file)
            return "; ".join(progress_words(name, one) for name, one in lines.items())
    return ""
