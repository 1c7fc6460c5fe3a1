"""Watches the other processes of a run: none hangs when another has ended, and none is left running."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from torch import distributed

from descent.errors import UserError
from descent.processes import started
from descent.training.collectives import leave

POLL = 0.1  # seconds
GRACE = 10.0  # seconds for a process to notice by itself that another has ended
BY_SIGNAL = (129, 130, 143)
ORDERLY = {0, 3, *BY_SIGNAL}  # exit codes with which all processes of a run end: completed, diverged, by a signal
FIRST = "DESCENT_FIRST_PROCESS"  # the id of the first process, for those that Lightning starts from it
SET_BY_LIGHTNING = (FIRST, "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

OnLost = Callable[[str, int | None], int]


@contextmanager
def other_processes(trainer: Trainer, on_lost: OnLost) -> Iterator[None]:
    """Watches the other processes of a run; on exit, ends the processes that Lightning has started.

    Args:
        trainer: of the run.
        on_lost: called when another process has ended and this one hangs; takes the reason and the signal that ended
            the run, or ``None``; returns the exit code.
    """
    if trainer.world_size == 1:
        yield
        return
    environment = {name: os.environ.get(name) for name in SET_BY_LIGHTNING}
    watch = _Watch(trainer, on_lost)
    os.environ.setdefault(FIRST, str(os.getpid()))
    watch.start()
    try:
        yield
    except Exception as error:
        if _is_of_others(error):
            raise UserError(f"{watch.reason()}; scripts/resume.py resumes from the last checkpoint") from error
        raise
    finally:
        leave()  # others that wait for this process get an error
        watch.end()
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _is_of_others(error: BaseException | None) -> bool:
    """Whether the end of another process caused the error."""
    while error is not None:
        ended = any(words in str(error) for words in ("gloo", "by peer", "NCCL"))
        if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and ended):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Watch(threading.Thread):
    """Polls the processes that Lightning has started from this one, or the one that started this one."""

    def __init__(self, trainer: Trainer, on_lost: OnLost) -> None:
        super().__init__(daemon=True)
        self.launcher: Any = trainer.strategy.launcher
        self.on_lost, self.is_over = on_lost, threading.Event()
        self.children: list[subprocess.Popen[bytes]] = []
        found = started()
        is_child = found is not None and found.by == "Lightning" and found.rank
        self.parent = int(os.environ.get(FIRST, os.getppid())) if is_child else None

    def run(self) -> None:
        lost_at = None
        while not self.is_over.wait(POLL):
            found = self._lost()
            if found is None:
                continue
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > GRACE or not distributed.is_initialized():
                reason, code = found
                exit_code = self.on_lost(reason, code - 128 if code in BY_SIGNAL else None)
                print(f"error: {reason}", file=sys.stderr, flush=True)
                self._kill()
                os._exit(exit_code)

    def reason(self) -> str:
        """Returns why the others have ended; waits a moment, because this process may notice before the system."""
        until = time.monotonic() + 1
        while (found := self._lost()) is None and time.monotonic() < until:
            time.sleep(POLL / 10)
        return "another process of this run has ended; it printed the reason if it could" if found is None else found[0]

    def end(self) -> None:
        """Waits for the children for ``GRACE`` seconds, then kills them."""
        self.is_over.set()
        self.join()
        self._take_over()
        until = time.monotonic() + GRACE
        while any(child.poll() is None for child in self.children) and time.monotonic() < until:
            time.sleep(POLL / 10)
        self._kill()

    def _take_over(self) -> None:
        """Removes the children from Lightning's launcher, which would silently kill this process if one had failed."""
        procs = getattr(self.launcher, "procs", [])
        while procs:
            self.children.append(procs.pop(0))

    def _lost(self) -> tuple[str, int] | None:
        """Returns how another process has ended unexpectedly, and its exit code; ``None``: none has."""
        self._take_over()
        if self.parent is not None and os.getppid() != self.parent:
            return "the first process of this run has ended", 1
        orderly = ORDERLY if distributed.is_initialized() else {None}
        for number, child in enumerate(self.children, start=1):
            code = child.poll()
            if code is not None and code not in orderly:
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                return f"process {number} of this run has ended {how}", code
        return None

    def _kill(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
