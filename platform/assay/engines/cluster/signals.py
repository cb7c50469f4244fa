"""Ctrl-C, SIGTERM (`ray job stop`) and a terminal's end as a wish that is waited for, so that a
checkpoint can be written first."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

WISHES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_unheeded = threading.Event()
"""Set when the process was asked to stop, and the work beside had ended by itself before it
could."""


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that these signals set, in the main thread; elsewhere nobody sets it. A second one
    interrupts at once, but for the end of the terminal, of which shells and kernel both tell."""
    asked = threading.Event()
    # Python lets the main thread alone set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number != signal.SIGHUP:
            raise KeyboardInterrupt
        asked.set()

    # nohup ignores it, so that a run outlives its terminal.
    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    wishes = [number for number in WISHES if not (number == signal.SIGHUP and under_nohup)]
    former = {number: signal.signal(number, ask) for number in wishes}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            # None is a handler that was not set from Python; it cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def run_beside(work: Callable[[], object], *, ask: Callable[[], None], within_s: float) -> None:
    """Runs `work` in a thread beside this one, for libraries whose own signal handlers end
    everything at once. When the process is asked to stop, `ask` is called, and the work has
    `within_s` seconds to end by itself; if it does not, `KeyboardInterrupt` is raised and the
    thread left behind. Raises what `work` raises, when nobody asked it to stop. Where the work was
    done before it could stop, the caller goes on to put it down, and then calls `heed`."""
    _unheeded.clear()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with asked_to_stop() as asked:
        thread.start()
        deadline = None
        while thread.is_alive():
            # With a timeout: a join without one would keep Python from running the handler.
            thread.join(0.2)
            if asked.is_set() and deadline is None:
                ask()
                deadline = time.monotonic() + within_s
            if deadline is not None and time.monotonic() > deadline:
                raise KeyboardInterrupt
    if errors and asked.is_set():
        # Work that was asked to stop fails in its own way, such as with lost workers; the wish is
        # what counts.
        raise KeyboardInterrupt from errors[0]
    if errors:
        raise errors[0]
    if asked.is_set():
        _unheeded.set()


def raise_if_requested() -> None:
    """Raises `KeyboardInterrupt` where this process was asked to stop and has not: nothing more is
    to be begun."""
    if _unheeded.is_set():
        _unheeded.clear()
        raise KeyboardInterrupt
