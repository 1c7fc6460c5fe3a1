"""Handles SIGINT (Ctrl-C), SIGTERM and SIGHUP, which end a process at once and a training run at its next safe point.

Runs resume exactly from a safe point; ``descent.training.checkpoints`` decides where those are.
SIGHUP means that the terminal was closed; Windows does not have it.
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

# Slurm sends it to a job that must end, at its time limit for example; submitit then queues the job again.
REQUEUE = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", None)

ONE_REQUEST = 2.0  # seconds in which signals count as one: srun and torchrun forward one that the group gets too
POLL_SECONDS = 0.5  # between two checks for the file that stops a sweep

_received: list[int] = []  # the signal that was to end this process, from ``exit_at_once``
_exit_code: list[int] = []  # of a finished command, from ``leave_with``
LOGGING = 1  # how many atexit functions ``logging`` registers


class Interrupted(Exception):  # noqa: N818  # not an error
    """A signal ended a run, after it saved what it needs to resume."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = signal.Signals(number)


def exit_at_once(number: int, frame: FrameType | None = None) -> None:
    """Ends the process without a traceback, with the exit code that shells give to the signal."""
    _received[:] = [number]
    raise SystemExit(128 + number)


def exit_if_received() -> None:
    """Ends the process if an earlier signal should have ended it.

    Python drops an exception that a signal handler raises in a destructor, and libraries may catch one.
    """
    if _received:
        exit_at_once(_received[0])


def install() -> None:
    """Makes signals end the process at once. Scripts call it first."""
    # atexit calls functions in reverse order: _leave is last if only logging has registered one before
    if getattr(atexit, "_ncallbacks", lambda: 0)() == LOGGING:
        atexit.register(_leave)
    for number in HANDLED:
        if not _is_by_nohup(number):
            signal.signal(number, exit_at_once)


def ignore() -> None:
    """Ignores signals from now on, while a finished command exits."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


def leave_with(code: int) -> None:
    """Makes the process end with this code right after the atexit functions of libraries.

    Python would first tear down all modules, for a tenth of a second with torch. Works only after ``install``.
    """
    _exit_code[:] = [code]


def _leave() -> None:
    if _exit_code and gc.get_freeze_count():  # without gc.freeze, gc.collect would search the libraries too
        gc.collect()  # closes files that were left open
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_exit_code[0])


def _is_by_nohup(number: int) -> bool:
    """Whether it is a SIGHUP that nohup made the process ignore, to continue after its terminal is closed."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


def _deferrable() -> list[int]:
    """The signals that end a run; ``REQUEUE`` only if it has a handler."""
    listened = [REQUEUE] if REQUEUE is not None and callable(signal.getsignal(REQUEUE)) else []
    return [*(number for number in HANDLED if not _is_by_nohup(number)), *listened]


class Deferred:
    """Remembers the first signal; a second one ends the process at once."""

    number: int | None = None
    noted_at = 0.0

    def check(self) -> None:
        """Raises ``Interrupted`` if a signal was received."""
        if self.number is not None:
            raise Interrupted(self.number)

    def listen(self) -> None:
        """Replaces the current signal handlers."""
        if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
            for number in _deferrable():
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            at_once = started() is not None and time.monotonic() - self.noted_at < ONE_REQUEST
            if at_once or (number == signal.SIGTERM and "SLURM_JOB_ID" in os.environ):  # Slurm and srun send two
                return
            raise SystemExit(128 + number)
        self.number, self.noted_at = number, time.monotonic()
        if not is_main():
            return
        with suppress(OSError):  # the terminal may be gone
            print("\nstopping at the next step that can be resumed; press Ctrl-C again to quit now", file=sys.stderr)


def _leave_group() -> None:
    """Keeps signals to the process group, such as Ctrl-C, from a DataLoader's worker: the run still needs its batches.

    The worker ends when its parent says so, or with its parent.
    """
    if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), Deferred):
        os.setpgid(0, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_group)


def stop_mark(sweep_dir: Path) -> Path:
    """The file that stops a sweep's jobs, wherever they run; it holds the number of the signal."""
    return sweep_dir / ".stop"


def asked_to_stop(mark: Path) -> int | None:
    """The number of the signal that stops the sweep; ``None``: the sweep continues."""
    try:
        return int(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the file is missing or not yet written
        return None


@contextmanager
def deferred(mark: Path | None = None) -> Iterator[Deferred]:
    """Remembers signals instead of ending the process, then restores the previous handlers.

    Args:
        mark: the stop file of the sweep that the run belongs to; once it exists, its signal counts as received.
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
