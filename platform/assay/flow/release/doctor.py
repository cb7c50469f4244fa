"""`assay doctor`: whether a place is as it should be. It changes nothing."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from assay import secrets_file
from assay.engines.deployment import ray_serve
from assay.errors import AssayError, PlaceError
from assay.flow.place.book import place_keys, read_place, verified
from assay.flow.release.receipts import receipt_store, verify_folder
from assay.flow.release.writer import controls, digests_of, weights_of
from assay.rules.release.slots import former_champion
from assay.serving import gateway, supervisor
from assay.settings import Settings
from assay.store.artifacts import open_store
from assay.store.database import is_there
from assay.store.ledger import Ledger
from assay.store.receipts import open_receipt

RESTORE = "restore the ledger from a backup; nothing can be released until it is whole"


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be."""

    check: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Checked:
    """One check, with what it has found."""

    name: str
    said: str
    """What was looked at."""
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class _Patient:
    settings: Settings
    ledger: Ledger
    reads_all: bool


Found = Iterator[tuple[str, str]]
"""What is wrong, and what to do."""


def examine(settings: Settings, *, reads_all: bool = True) -> Iterator[Checked]:
    """Every check, one after the other. With `reads_all` every byte of every artifact is read;
    otherwise files whose size and times are as they were left are taken at their word. What needs a
    ledger is left out where that cannot be opened."""
    # First: a ledger that is opened is closed to others by that.
    yield _checked("permissions", "who may read and write", lambda: _permissions(settings))
    yield _checked("secrets", "who may read them, and their form", lambda: _secrets(settings))
    if not is_there(settings.ledger_url):
        yield Checked("ledger", "there is none yet; the first run makes it", ())
        return
    try:
        patient = _Patient(settings, Ledger(settings.ledger_url), reads_all)
    except PlaceError as error:
        yield Checked("ledger", "its file", (Fault("ledger", str(error), RESTORE),))
        return
    checks: tuple[tuple[str, str, Callable[[_Patient], Found]], ...] = (
        ("ledger", "the database's own check of itself", _database),
        ("audit", "every event, and the tables against them", _audit),
        ("policy", "the signatures on tokens and policies", _policy),
        ("artifacts", "their files against their digests", _artifacts),
        ("receipts", "their signatures, and what they say of each other", _receipts),
        ("gateway", "what it lets through against the ledger", _gateway),
    )
    for name, said, check in checks:
        yield _checked(name, said, lambda check=check: check(patient))  # type: ignore[misc]


def _checked(name: str, said: str, check: Callable[[], Found]) -> Checked:
    faults = []
    try:
        for what, remedy in check():
            faults.append(Fault(name, what, remedy))
    except (AssayError, ValueError, OSError) as error:  # a row that was mangled cannot be read
        faults.append(Fault(name, str(error).splitlines()[0], RESTORE))
    return Checked(name, said, tuple(faults))


def _database(patient: _Patient) -> Found:
    for line in patient.ledger.check_database():
        yield line, RESTORE


def _audit(patient: _Patient) -> Found:
    verified(patient.settings, patient.ledger)
    yield from ()


def _policy(patient: _Patient) -> Found:
    read_place(patient.settings, patient.ledger)
    yield from ()


def _artifacts(patient: _Patient) -> Found:
    store = open_store(patient.settings)
    digests = set(store.digests())
    # Whatever is there, and what must be: the champion's may be gone altogether.
    champion = patient.ledger.champion()
    if champion is not None:
        digests.add(champion.artifact_digest)
    for digest in sorted(digests):
        try:
            store.check(digest, reads_all=patient.reads_all)
        except AssayError as error:
            yield str(error), "move it away; `assay run SPEC` makes it anew and evaluates it"


def _receipts(patient: _Patient) -> Found:
    folder = receipt_store(patient.settings).folder
    public = place_keys(patient.settings).public_files()
    remedy = "restore the file from a backup: what it says cannot be shown to anybody without it"
    for file in sorted(folder.glob("*/*.json")):
        try:
            open_receipt(file, public)
        except AssayError as error:
            yield str(error), remedy
    for run in sorted(folder.glob("*/")):
        try:
            verify_folder(run, public)
        except AssayError as error:
            yield f"{run}: {error}", remedy
    champion = patient.ledger.champion()
    if champion is not None and not list((folder / champion.run).glob("release-*.json")):
        yield f"{champion.run} has the traffic, and no receipt of its release is there", remedy


def _gateway(patient: _Patient) -> Found:
    settings, ledger = patient.settings, patient.ledger
    champion = ledger.champion()
    release = ledger.releases.under_way()
    if release is not None:
        if not controls(ledger):
            run = release.intent.candidate.run
            yield f"the promotion of {run} was left unfinished", "`assay up` takes it back"
        return
    if not gateway.is_running(settings):
        if champion is not None:
            yield f"{champion.run} has the traffic, and the gateway does not run", "`assay up`"
        return
    if ledger.restorations.is_held(champion):
        what = f"{champion.run if champion else 'the champion'} is not back since a restart"
        yield what, "`assay status` says why; `assay up` brings it back"
        return
    kept, live = supervisor.read_weights(settings), gateway.get_weights(settings)
    # What is in effect, and what a HAProxy that is started again would come up with.
    if not kept == live == weights_of(champion):
        said = f"{live} now and {kept} at the next start"
        yield f"the gateway's weights are not the ledger's: {said}", "`assay up` sets them right"
    allowed = digests_of(champion, former_champion(ledger.traffic()))
    for digest in sorted(gateway.get_approved(settings) - allowed):
        what = f"the gateway lets artifact {digest[:12]} through, which has no traffic"
        yield what, "`assay up` sets that right"
    if champion is not None:
        url = f"http://127.0.0.1:{settings.serve_port}/{champion.slot}/v1"
        said_by_slot = ray_serve.artifacts_said(url)
        if said_by_slot != [champion.artifact_digest]:
            there = ", ".join(one[:12] for one in said_by_slot) or "nothing that says what it is"
            what = f"slot {champion.slot} holds {there}, not {champion.artifact_digest[:12]}"
            yield what, "look at `assay status`; `assay rollback`, or run the spec again"


def _permissions(settings: Settings) -> Found:
    private = (
        *_files(settings.home / "keys", "*.key"),
        supervisor.folder(settings),
        supervisor.keys_map(settings),
        settings.home / "keys",
        settings.token_file,
        settings.token_path,
        settings.home / "api-key",
        settings.home / "console",
        settings.home / "console" / "key",
    )
    shared = (
        settings.home,
        settings.home / "artifacts",
        settings.home / "receipts",
        settings.home / "loaded",
        *_files(settings.home / "keys", "*.pub"),
        *_files(supervisor.folder(settings), "*"),  # in a folder that is closed
    )
    for path in private:
        yield from _may(path, 0o077, "read or write", "go-rwx")
    for path in shared:
        yield from _may(path, 0o022, "write", "go-w")
    database = settings.ledger_url.removeprefix("sqlite:///")
    if database != settings.ledger_url:
        yield from _may(Path(database), 0o007, "read or write", "o-rwx")


def _secrets(settings: Settings) -> Found:
    path = settings.secrets
    faults = [(one, secrets_file.exposure(one)) for one in secrets_file.files_of(path)]
    exposed = [(file, fault) for file, fault in faults if fault]
    for file, fault in exposed:
        yield fault, f"chmod 600 {file}; where Kubernetes mounts it, defaultMode: 0440"
    if not exposed:
        try:
            secrets_file.read(path)
        except PlaceError as error:
            yield str(error), f"mend {path}"
    if os.environ.get("ASSAY_SECRETS") and not path.exists():
        yield f"ASSAY_SECRETS names {path}, which is not there", "mount it, or unset the variable"


def _may(path: Path, bits: int, verb: str, mode: str) -> Found:
    try:
        # Of a link itself: whoever owns it says what it leads to.
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if status.st_uid not in (os.getuid(), 0):
        yield f"{path} is another user's", f"chown it, and look who has changed it: {path}"
    if status.st_mode & bits:
        yield (
            f"others may {verb} {path} (mode {status.st_mode & 0o777:04o})",
            f"chmod {mode} {path}",
        )


def _files(folder: Path, pattern: str) -> list[Path]:
    return [file for file in sorted(folder.glob(pattern)) if not file.is_dir()]
