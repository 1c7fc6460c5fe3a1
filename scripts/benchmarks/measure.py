"""Measuring two things in turn, so that a slow moment of the machine falls on both."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

HEADER = "| what | here | against | there | ratio | range | bar |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    """A line of the table: the medians of both sides, and the median and range of the rounds' ratios."""

    what: str
    ours: float
    against: str
    theirs: float
    ratios: list[float]
    unit: str
    bar: float | None

    def __str__(self) -> str:
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}" if len(self.ratios) > 1 else ""
        bar = "" if self.bar is None else f"{self.bar:g}"
        sides = f"{self.ours:.3g} {self.unit} | {self.against} | {self.theirs:.3g} {self.unit}"
        return f"| {self.what} | {sides} | **{median(self.ratios):.2f}** | {spread} | {bar} |"


def in_turn(
    what: str,
    ours: Callable[[], float],
    against: str,
    theirs: Callable[[], float],
    rounds: int,
    unit: str = "s",
    bar: float | None = None,
) -> Row:
    """Measures both sides ``rounds`` times, one after the other."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    here, there = (median(side) for side in zip(*pairs, strict=True))
    return Row(what, here, against, there, [a / b for a, b in pairs], unit, bar)


@dataclass(frozen=True)
class Process:
    """What a command took: wall seconds, and its peak resident size in MiB."""

    seconds: float
    mebibytes: float


# A process begins with the peak memory of the one that started it, so a small one stands between
STARTER = """
import os, resource, sys, time
started = time.perf_counter()
code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *sys.argv[1:]])
seconds = time.perf_counter() - started
print(code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=sys.__stdout__)
"""


def process(*arguments: str, logs: str = os.devnull, expected: int = 0) -> Process:
    """Runs ``python ARGUMENTS`` as a process of its own, its output in ``logs``.

    Raises:
        RuntimeError: it exits otherwise than ``expected``; what it took would say nothing.
    """
    command = [sys.executable, "-S", "-c", STARTER, *arguments]
    environment = os.environ | {"DESCENT_LOGS": logs}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    code, seconds, mebibytes = map(float, done.stdout.split()[-3:])
    if code != expected:
        raise RuntimeError(f"python {' '.join(arguments)} exited with {code:g}, not {expected}")
    return Process(seconds, mebibytes)
