"""Decides when checkpoints are due."""

import logging
import math
import time

log = logging.getLogger(__name__)

SHARE = 20  # writing takes at most 1/SHARE of a run's time


class WriteInterval:
    """The time and the steps between two writes.

    Args:
        every_seconds: the interval, longer if a write takes more than 1/19 of it; 0: always; ``None``: no such rule.
        every_steps: the same in optimizer steps.
    """

    def __init__(self, every_seconds: float | None, every_steps: int | None) -> None:
        self.every_seconds = math.inf if every_seconds is None else every_seconds
        self.every_steps = math.inf if every_steps is None else every_steps
        self.seconds = self.every_seconds
        self.noted = self.every_seconds / 2  # a note is logged when the interval is over twice this

    def start(self, step: int) -> None:
        """Begins the interval: after a write, or at the start of training."""
        self.started_at, self.step = time.monotonic(), step

    def is_due(self, step: int) -> bool:
        return time.monotonic() - self.started_at >= self.seconds or step >= self.next_step

    @property
    def next_step(self) -> float:
        """The step at which a checkpoint is due, whatever the time."""
        return self.step + self.every_steps

    def adapt(self, took: float) -> None:
        """Makes the next interval so long that a write of ``took`` seconds is a small share of it."""
        self.seconds = max(self.every_seconds, (SHARE - 1) * took)
        if self.seconds > 2 * self.noted:
            self.noted = self.seconds
            log.warning(
                "note: writing a checkpoint takes %.3g s, so writes are %.3g s apart, not checkpoint.every_seconds=%g",
                *(took, self.seconds, self.every_seconds),
            )
