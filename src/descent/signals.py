"""SIGINT (Ctrl-C) and SIGTERM: they end the process at once, and a training run at its next safe point.

A safe point is one from which resuming is exact. ``descent.callbacks.checkpoints`` knows where those are.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818  # not an error of anybody's
    """A run has been asked to end and has saved what it needs to go on."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = signal.Signals(number)


def exit_at_once(number: int, frame: FrameType | None = None) -> None:
    """Ends the process with the exit code that shells give to the signal, and without a traceback."""
    raise SystemExit(128 + number)


def install() -> None:
    """From now on a signal ends the process at once; for scripts, first thing."""
    for number in HANDLED:
        signal.signal(number, exit_at_once)


def ignore() -> None:
    """From now on signals do nothing: for the moments in which a finished command leaves the process."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


class Deferred:
    """Notes the first signal that comes in; a second one ends the process at once."""

    number: int | None = None

    def check(self) -> None:
        """Raises ``Interrupted`` if a signal has come in."""
        if self.number is not None:
            raise Interrupted(self.number)

    def listen(self) -> None:
        """Puts itself in the place of whatever handles the signals now."""
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in HANDLED:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            exit_at_once(number)
        self.number = number
        print("\nstopping at the next step from which training can go on; once more: at once", file=sys.stderr)


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Within it signals are noted; after it they are handled as before."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    pending = Deferred()
    pending.listen()
    try:
        yield pending
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
