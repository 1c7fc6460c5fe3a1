"""Measuring two things in turn, so that a slow moment of the machine falls on both."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

IMPORTS = "import lightning.pytorch, torch.utils.tensorboard, hydra"
IMPORT_HYDRA = "import hydra"


@dataclass(frozen=True)
class Row:
    """A line of the table: medians of both, the median of the rounds' ratios, and their range."""

    what: str
    ours: float
    against: str
    theirs: float
    ratio: float
    lowest: float
    highest: float
    bar: float | None
    unit: str = "s"

    HEADER = "| what | here | against | there | ratio | range | bar |\n|---|---|---|---|---|---|---|"

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"{self.bar:g}"
        return (
            f"| {self.what} | {self.ours:.4g} {self.unit} | {self.against} | {self.theirs:.4g} {self.unit}"
            f" | **{self.ratio:.2f}** | {self.lowest:.2f}-{self.highest:.2f} | {bar} |"
        )


def in_turn(
    what: str,
    ours: Callable[[], float],
    against: str,
    theirs: Callable[[], float],
    rounds: int,
    bar: float | None = None,
    unit: str = "s",
    scale: float = 1.0,
) -> Row:
    """Measures both ``rounds`` times, one after the other; ``scale`` turns what they return into ``unit``."""
    pairs = [(ours() * scale, theirs() * scale) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    here, there = (median(side) for side in zip(*pairs, strict=True))
    return Row(what, here, against, there, median(ratios), ratios[0], ratios[-1], bar, unit)


def process(*arguments: str, logs: str | None = None) -> tuple[float, float]:
    """Wall seconds and peak resident size in MiB of ``python ARGUMENTS`` as a process of its own."""
    environment = os.environ | ({"DESCENT_LOGS": logs} if logs else {})
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(child.pid, 0)
    child.returncode = 0  # it has been waited for
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def python(code: str) -> Sequence[str]:
    return ("-c", code)
