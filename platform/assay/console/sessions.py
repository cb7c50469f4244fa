"""Who has logged in to the console, and what a session lets them see.

A session only shows. Every act takes the token, or the key, once more, and goes through the checks
of the command line with it: a cookie that is stolen changes nothing.
"""

import hashlib
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from assay.errors import NotApproved, UsageError
from assay.flow.place.book import read_place
from assay.flow.place.identity import authenticated
from assay.records.releases.grant import ROLES, Role
from assay.settings import Settings
from assay.spec.approval import folded_name
from assay.store.ledger import Ledger

SESSION_S = 12 * 3600.0
MOST_FAILURES, FAILURES_WITHIN_S = 10, 60.0


class TooManyTries(NotApproved):
    """Somebody has given what opens nothing too often; they may try again in a minute."""


@dataclass(frozen=True)
class Visitor:
    """Somebody who has logged in."""

    name: str
    roles: tuple[Role, ...]
    """What their token opens; with the key, all: the place takes people's word."""
    token: str
    """The token's prefix; empty for who came with the key."""
    csrf: str
    """What a form of theirs must bring back."""


@dataclass(frozen=True)
class _Session:
    token: str
    csrf: str
    ends_at: float
    """By the monotonic clock, in seconds."""


class Sessions:
    """The sessions of one console, in memory: they end with it. `key` opens a place that takes
    people's word, as the terminal does that shows it."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._key = key
        self._clock = clock
        self._open: dict[str, _Session] = {}
        self._failures: dict[str, deque[float]] = defaultdict(deque)
        # One Argon2 hash at a time: each takes 19 MiB.
        self._turn = threading.Lock()

    def log_in(self, secret: str, client: str) -> str:
        """Opens a session with a token or the key; returns the cookie's value. Raises
        `NotApproved` for what opens nothing."""
        token = self._prefix(secret, client)
        cookie = secrets.token_urlsafe(32)
        session = _Session(token, secrets.token_urlsafe(32), self._clock() + SESSION_S)
        with self._turn:
            self._forget_old()
            self._open[_hashed(cookie)] = session
        return cookie

    def log_out(self, cookie: str) -> None:
        """Ends a session."""
        with self._turn:
            self._open.pop(_hashed(cookie), None)

    def visitor(self, cookie: str) -> Visitor | None:
        """Whose session it is now: a token that was revoked or has expired since shows nothing."""
        session = self._open.get(_hashed(cookie)) if cookie else None
        if session is None or session.ends_at <= self._clock():
            return None
        return self._known(session.token, session.csrf)

    def bearer(self, token: str, client: str) -> Visitor | None:
        """Whose token it is. Raises `NotApproved` for one that opens nothing."""
        return self._known(self._prefix(token, client, takes_key=False), "")

    def acting(self, visitor: Visitor, secret: str, name: str, client: str) -> Settings:
        """The place, for an act of this visitor, who has given their token or the key once more;
        `name` is who they say they are where the place takes their word. Raises `NotApproved` for
        another's token."""
        prefix = self._prefix(secret, client)
        # Whoever runs the console may have logged in; nobody acts with that token here.
        bare = replace(self._settings, act="", token_file=no_token_file(self._settings))
        if bool(prefix) != bool(visitor.token):
            raise NotApproved("give again what you have logged in with")
        if not prefix:
            if not folded_name(name) or not name.isprintable():
                raise UsageError("say who you are: your name as the spec has it")
            return replace(bare, token="", user=name.strip())
        owner = self._known(prefix, "")
        if owner is None or folded_name(owner.name) != folded_name(visitor.name):
            raise NotApproved(f"you have logged in as {visitor.name}, and this is another's token")
        return replace(bare, token=secret.strip(), user=owner.name)

    def _prefix(self, secret: str, client: str, *, takes_key: bool = True) -> str:
        """The prefix of a token that opens something; empty for the key where it does."""
        secret = secret.strip()
        with self._turn:
            self._check_tries(client)
            try:
                place = read_place(self._settings, self._ledger)
                is_key = secrets.compare_digest(secret.encode(), self._key.encode())
                if not (is_key and takes_key):
                    return authenticated(secret, place, self._ledger).token
                if place.policy.identity != "local":
                    raise NotApproved("this place asks for personal tokens; the key opens nothing")
                return ""
            except NotApproved:
                self._failures[client].append(self._clock())
                raise

    def _check_tries(self, client: str) -> None:
        """Raises `TooManyTries`. Tokens cannot be guessed; each try costs memory and time."""
        tries = self._failures[client]
        while tries and tries[0] <= self._clock() - FAILURES_WITHIN_S:
            tries.popleft()
        if len(tries) >= MOST_FAILURES:
            raise TooManyTries("too many tries; wait a minute")

    def _known(self, prefix: str, csrf: str) -> Visitor | None:
        place = read_place(self._settings, self._ledger)
        if not prefix:
            if place.policy.identity != "local":
                return None
            return Visitor(self._settings.user, ROLES, "", csrf)
        now = self._ledger.grants.now()
        for grant in place.tokens:
            if grant.token == prefix and place.is_valid(grant, now):
                return Visitor(grant.name, grant.roles, prefix, csrf)
        return None

    def _forget_old(self) -> None:
        now = self._clock()
        over = [name for name, session in self._open.items() if session.ends_at <= now]
        for name in over:
            del self._open[name]


def no_token_file(settings: Settings) -> Path:
    """Where no token is kept: for what is done in a visitor's name, or with their word alone."""
    return settings.home / "console" / "nobodys-token"


def _hashed(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
