"""SIGINT (Ctrl-C), SIGTERM and SIGHUP: they end the process at once, and a training run at its next safe point.

A safe point is one from which resuming is exact. ``descent.training.checkpoints`` knows where those are.
SIGHUP says that the terminal was closed; Windows has no such signal.
"""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from descent.processes import is_main, started

HANDLED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# By it submitit is told to queue a job again that is to end, at its time limit for example.
REQUEUE = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", None)

ONE_REQUEST = 2.0  # seconds; srun and torchrun hand a signal on, and the whole group has it as well
POLL_SECONDS = 0.5  # between two looks for the mark of a sweep that is to end

_received: list[int] = []  # the signal that this process was to end by, where ``install`` was called
_exit_code: list[int] = []  # of a finished command
LOGGING = 1  # how many functions Python calls at its end for ``logging``


class Interrupted(Exception):  # noqa: N818  # not an error of anybody's
    """A run has been asked to end and has saved what it needs to go on."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = signal.Signals(number)


def exit_at_once(number: int, frame: FrameType | None = None) -> None:
    """Ends the process with the exit code that shells give to the signal, and without a traceback."""
    _received[:] = [number]
    raise SystemExit(128 + number)


def exit_if_received() -> None:
    """Ends the process if a signal was to end it before.

    Python drops an exception that a signal's handler raises in a destructor, and libraries may catch it.
    """
    if _received:
        exit_at_once(_received[0])


def install() -> None:
    """From now on a signal ends the process at once; for scripts, first thing."""
    # first registered, last called; after one of whoever started Python it would not be the last
    if getattr(atexit, "_ncallbacks", lambda: 0)() == LOGGING:
        atexit.register(_leave)
    for number in HANDLED:
        if not _is_by_nohup(number):
            signal.signal(number, exit_at_once)


def ignore() -> None:
    """From now on signals do nothing: for the moments in which a finished command leaves the process."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


def leave_with(code: int) -> None:
    """Has the process end with this code as soon as libraries have done what they do at its end.

    Python would take all modules apart first, for a tenth of a second with torch. Only where ``install`` was called.
    """
    _exit_code[:] = [code]


def _leave() -> None:
    if _exit_code and gc.get_freeze_count():  # or else what is in memory is not told from the libraries
        gc.collect()  # closes files that somebody has left open
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_exit_code[0])


def _is_by_nohup(number: int) -> bool:
    """Whether the process was started to go on after its terminal is closed."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


def _deferrable() -> list[int]:
    """The signals that a run ends by; that to be queued again only where somebody listens to it."""
    listened = [REQUEUE] if REQUEUE is not None and callable(signal.getsignal(REQUEUE)) else []
    return [*(number for number in HANDLED if not _is_by_nohup(number)), *listened]


class Deferred:
    """Notes the first signal that comes in; a second one ends the process at once."""

    number: int | None = None
    noted_at = 0.0

    def check(self) -> None:
        """Raises ``Interrupted`` if a signal has come in."""
        if self.number is not None:
            raise Interrupted(self.number)

    def listen(self) -> None:
        """Puts itself in the place of whatever handles the signals now."""
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in _deferrable():
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            at_once = started() is not None and time.monotonic() - self.noted_at < ONE_REQUEST
            if at_once or (number == signal.SIGTERM and "SLURM_JOB_ID" in os.environ):  # Slurm and its srun send two
                return
            raise SystemExit(128 + number)
        self.number, self.noted_at = number, time.monotonic()
        if not is_main():
            return
        with suppress(OSError):  # the terminal may be gone
            print("\nstopping at the next step from which training can go on; once more: at once", file=sys.stderr)


def _leave_group() -> None:
    """A DataLoader's worker hears nothing of a signal to the whole group, Ctrl-C say: the run still needs its batches.

    It ends as its parent says, or with it.
    """
    if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), Deferred):
        os.setpgid(0, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_group)


def stop_mark(sweep_dir: Path) -> Path:
    """The file by which a sweep ends its jobs, wherever they run; in it is the number of the signal."""
    return sweep_dir / ".stop"


def asked_to_stop(mark: Path) -> int | None:
    """The signal's number; ``None``: the sweep goes on."""
    try:
        return int(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it is about to be written
        return None


@contextmanager
def deferred(mark: Path | None = None) -> Iterator[Deferred]:
    """Within it signals are noted; after it they are handled as before.

    Args:
        mark: of the sweep that the run is a job of; where it appears, it is as if the signal had come in here.
    """
    exit_if_received()
    before = {number: signal.getsignal(number) for number in _deferrable()}
    pending, is_over = Deferred(), threading.Event()
    pending.listen()

    def watch(mark: Path) -> None:
        while not is_over.wait(POLL_SECONDS):
            pending.number = pending.number or asked_to_stop(mark)

    if mark is not None:
        threading.Thread(target=watch, args=(mark,), daemon=True).start()
    try:
        yield pending
    finally:
        is_over.set()
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
