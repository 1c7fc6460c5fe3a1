"""Measures two things alternately, so that a slow moment of the machine affects both."""

import os
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

HEADER = "| what | here | against | there | ratio | range | bar |\n|---|---|---|---|---|---|---|"


def in_turn(
    what: str,
    ours: Callable[[], float],
    against: str,
    theirs: Callable[[], float],
    rounds: int,
    unit: str = "s",
    bar: float | None = None,
) -> str:
    """Measures both sides alternately, ``rounds`` times, and returns a row of the table.

    The row has the median of each side, and the median and range of the ratios of the rounds.
    """
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    here, there = (f"{median(side):.3g} {unit}" for side in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}" if rounds > 1 else ""
    shown = "" if bar is None else f"{bar:g}"
    return f"| {what} | {here} | {against} | {there} | **{median(ratios):.2f}** | {spread} | {shown} |"


class Process(NamedTuple):
    """The wall time of a command in seconds, and its peak resident size in MiB."""

    seconds: float
    mebibytes: float


# A process inherits the peak memory of its parent, so a small process starts it
STARTER = """
import os, resource, sys, time
started = time.perf_counter()
code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *sys.argv[1:]])
seconds = time.perf_counter() - started
print(code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=sys.__stdout__)
"""


def process(
    *arguments: str, logs: str = os.devnull, expected: int = 0, python: str = sys.executable, bare: bool = False
) -> Process:
    """Measures ``python ARGUMENTS`` in a new process, with its output in ``logs``.

    Args:
        bare: whether to clear ``PYTHONPATH``.

    Raises:
        RuntimeError: its exit code is not ``expected``.
    """
    command = [python, "-S", "-c", STARTER, *arguments]
    environment = os.environ | {"DESCENT_LOGS": logs} | ({"PYTHONPATH": ""} if bare else {})
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    code, seconds, mebibytes = map(float, done.stdout.split()[-3:])
    if code != expected:
        raise RuntimeError(f"python {' '.join(arguments)} exited with {code:g}, not {expected}")
    return Process(seconds, mebibytes)
