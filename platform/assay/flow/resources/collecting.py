"""What of the artifacts is needed no more: `assay gc`, and the cache of a place whose artifacts are
in an object store."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from assay.flow.place.run_lock import LOCK
from assay.rules.release.slots import former_champion
from assay.settings import Settings
from assay.store.artifacts import ArtifactStore, open_store
from assay.store.ledger import Ledger
from assay.store.lock import is_held

DAY_S = 86400.0
RECENT_S = DAY_S
"""An artifact that was used since then stays in the cache: a run may be working with it."""


@dataclass(frozen=True)
class Kept:
    """A run whose artifacts stay."""

    run: str
    why: str


@dataclass(frozen=True)
class Collection:
    """What may go, and what stays."""

    freed: dict[str, int]
    """Bytes of each artifact that nothing needs, by digest."""
    kept: tuple[Kept, ...]
    num_kept: int
    """Artifacts that stay."""


def collectable(settings: Settings, ledger: Ledger, *, days: float) -> Collection:
    """What no run needs that serves, has served last, was approved, is at work, or did anything in
    the last `days`; nothing is changed. What a run needs are the artifacts of all its stages, from
    the base model to the evidence of its gate."""
    store, now = open_store(settings), time.time()
    kept = tuple(_kept_runs(settings, ledger, now - days * DAY_S))
    needed = set()
    for one in kept:
        needed |= _artifacts_of_run(one.run, ledger)
    sizes = store.sizes()
    if store.remote is not None:
        sizes = store.remote.sizes() | sizes
    freed = {}
    for digest, size in sizes.items():
        # One without a record is being made, or is left of a run that was killed.
        if digest not in needed and store.last_used(digest) < now - days * DAY_S:
            freed[digest] = size
    return Collection(freed=freed, kept=kept, num_kept=len(sizes) - len(freed))


def collect(settings: Settings, found: Collection) -> None:
    """Removes what may go, from the folder and from the object store. A stage that made it runs
    again when a run asks for it."""
    store = open_store(settings)
    for digest in found.freed:
        store.delete(digest)


def trim_cache(settings: Settings, ledger: Ledger) -> int:
    """Takes those that were used longest ago out of the folder until it holds no more than
    `ASSAY_CACHE_LIMIT_GB`; the object store keeps them. What serves or has served last stays, and
    what was used in the last day. Returns the bytes that were freed."""
    store = open_store(settings)
    if store.remote is None or not settings.cache_limit_gb:
        return 0
    sizes = store.sizes()
    beyond = sum(sizes.values()) - settings.cache_limit_gb * 1e9
    freed = 0
    for digest in _oldest_first(store, sizes, _serving(ledger)):
        if freed >= beyond:
            break
        if store.remote.has(digest):
            store.delete(digest, everywhere=False)
            freed += sizes[digest]
    return freed


def _oldest_first(store: ArtifactStore, sizes: dict[str, int], serving: set[str]) -> list[str]:
    recent = time.time() - RECENT_S
    movable = []
    for digest in sizes:
        if digest not in serving and store.last_used(digest) < recent:
            movable.append(digest)
    return sorted(movable, key=store.last_used)


def _serving(ledger: Ledger) -> set[str]:
    """Artifacts that have traffic or may get it back."""
    release = ledger.releases.under_way()
    candidates = [ledger.champion(), former_champion(ledger.traffic())]
    if release is not None:
        candidates += [release.intent.candidate, release.intent.former]
    return {one.artifact_digest for one in candidates if one is not None}


def _kept_runs(settings: Settings, ledger: Ledger, since: float) -> Iterator[Kept]:
    champion, former = ledger.champion(), former_champion(ledger.traffic())
    release = ledger.releases.under_way()
    for row in ledger.runs():
        stages = ledger.stages(row.id)
        newest = max([row.created_at, *(one.ended_at or one.started_at for one in stages)])
        words = ledger.approvals(row.id)
        if champion is not None and champion.run == row.id:
            yield Kept(row.id, "champion")
        elif former is not None and former.run == row.id:
            yield Kept(row.id, "former champion")
        elif release is not None and release.intent.candidate.run == row.id:
            yield Kept(row.id, "being promoted")
        elif words and all(word.decision == "approve" for word in words):
            yield Kept(row.id, "approved")
        elif is_held(settings.run_folder(row.id) / LOCK):
            yield Kept(row.id, "at work")
        elif newest >= since:
            yield Kept(row.id, "young")


def _artifacts_of_run(run: str, ledger: Ledger) -> set[str]:
    found = set()
    for stage in ledger.stages(run):
        row = ledger.record(stage.key)
        if row is not None:
            found |= set(_digests(json.loads(row.record)))
    return found


def _digests(value: Any) -> Iterator[str]:
    """Of every artifact in a record, whatever its form: one of an older version counts, too."""
    if isinstance(value, dict):
        if {"digest", "kind", "path"} <= value.keys():
            yield str(value["digest"])
        for inner in value.values():
            yield from _digests(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _digests(inner)
