"""What every route is handed: the place, its ledger, and who has logged in."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from assay.console.promotions import Promotions
from assay.console.sessions import Sessions, Visitor
from assay.errors import NotApproved
from assay.settings import Settings
from assay.store.ledger import Ledger


@dataclass(frozen=True)
class ConsolePlace:
    """One console's place. Its ledger is for looking; an act opens its own."""

    settings: Settings
    ledger: Ledger
    sessions: Sessions
    promotions: Promotions
    cookie: str
    """The name of the session's cookie."""


def _place(request: Request) -> ConsolePlace:
    found: ConsolePlace = request.app.state.place
    return found


def _visitor(request: Request) -> Visitor:
    """Who has logged in; the guard lets nobody else come here. Raises `NotApproved`."""
    found: Visitor | None = getattr(request.state, "visitor", None)
    if found is None:
        raise NotApproved("log in first")
    return found


def _admin(visitor: Annotated[Visitor, Depends(_visitor)]) -> Visitor:
    if "admin" not in visitor.roles:
        raise NotApproved(f"this is for admins; you have the roles {', '.join(visitor.roles)}")
    return visitor


Place = Annotated[ConsolePlace, Depends(_place)]
Who = Annotated[Visitor, Depends(_visitor)]
Admin = Annotated[Visitor, Depends(_admin)]
