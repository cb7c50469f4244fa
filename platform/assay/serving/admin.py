"""Commands to the running HAProxy, over its admin socket."""

import socket
from collections.abc import Collection

from assay.serving.haproxy import APPROVED_MAP, BACKEND, KEYS_MAP, SLOTS, admin_socket
from assay.settings import Settings


def ask(settings: Settings, command: str) -> str:
    """Send one command to HAProxy's admin socket. Raises OSError when HAProxy does not answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(str(admin_socket(settings.socket_dir)))
        connection.sendall(f"{command}\n".encode())
        with connection.makefile() as answer:
            return answer.read()


def live_weights(settings: Settings) -> dict[str, int]:
    """The weights in effect. Raises OSError when HAProxy does not answer."""
    answers = {slot: ask(settings, f"get weight {BACKEND}/{slot}") for slot in SLOTS}
    try:
        # HAProxy answers such as "192 (initial 64)".
        return {slot: int(answer.split()[0]) for slot, answer in answers.items()}
    except (IndexError, ValueError) as error:
        raise ConnectionError(f"HAProxy answered {answers}") from error


def apply_weights(settings: Settings, weights: dict[str, int]) -> bool:
    """Tell HAProxy the weights and read them back; the highest first, so that never all of them are
    0 between."""
    try:
        for slot in sorted(SLOTS, key=weights.__getitem__, reverse=True):
            ask(settings, f"set server {BACKEND}/{slot} weight {weights[slot]}")
        return live_weights(settings) == weights
    except OSError:
        return False


def live_approved(settings: Settings) -> set[str]:
    """The digests whose answers are let through. Raises OSError when HAProxy does not answer."""
    answer = ask(settings, f"show map {APPROVED_MAP}")  # "0x55d0c8 DIGEST 1", a line each
    digests = set()
    for line in filter(str.strip, answer.splitlines()):
        words = line.split()
        if len(words) != 3:
            raise ConnectionError(f"HAProxy answered {answer!r}")
        digests.add(words[1])
    return digests


def approve(settings: Settings, digests: Collection[str], *, only: bool = False) -> bool:
    """Let answers of these artifacts through, and with `only` those of no others; whether HAProxy
    says so."""
    try:
        there = live_approved(settings)
        for digest in set(digests) - there:
            ask(settings, f"add map {APPROVED_MAP} {digest} 1")
        for digest in there - set(digests) if only else ():
            ask(settings, f"del map {APPROVED_MAP} {digest}")
        there = live_approved(settings)
    except OSError:
        return False
    return there == set(digests) if only else there >= set(digests)


def load_key(settings: Settings, digest: str, label: str) -> bool:
    """Tell HAProxy of one more API key; whether it was told."""
    try:
        return not ask(
            settings, f"add map {KEYS_MAP} {digest} {label}"
        ).strip()  # says nothing when all is well
    except OSError:
        return False
