"""When to log and when to validate."""

import math
from dataclasses import dataclass

FIRST_EPOCHS = 20  # each has a point of its own, however few its steps
LARGE = 2_000_000  # cells of validation rows; more take longer than all else around a step
STEPS_BETWEEN_VALIDATIONS = 100  # on small data a validation costs as much as fifteen steps


@dataclass
class Intervals:
    """Every so many optimizer steps, and after each of the first epochs.

    A function of the step alone, so that a run which is resumed has the same points; one that is made longer has a
    validation more, where it ended first.

    Args:
        log_every: steps from one point of the training curves to the next.
        validate_every: epochs from one validation to the next; ``None``: after each of the first, and then whenever
            their number has grown by a tenth, with ``STEPS_BETWEEN_VALIDATIONS`` between two.
        steps_per_epoch: optimizer steps in an epoch; ``inf``: not known.
        validated_cells: numbers in the rows of a validation; where they are many, fewer of the first epochs have one.
    """

    log_every: int
    validate_every: int | None
    steps_per_epoch: float = math.inf
    validated_cells: int = 0

    def logs(self, step: int) -> bool:
        """Whether the training curves have a point at ``step``."""
        return self.next_logged(step) == step

    def next_logged(self, step: int) -> int:
        """The first step from ``step`` on at which they have one."""
        after = -(-step // self.log_every) * self.log_every
        if self.steps_per_epoch == math.inf:
            return after
        per_epoch = int(self.steps_per_epoch)
        epoch = -(-step // per_epoch)
        return min(after, epoch * per_epoch) if epoch <= FIRST_EPOCHS else after

    def next_validated(self, epoch: int) -> int:
        """The first epoch from ``epoch`` on, counted from 1, after which there is a validation."""
        if self.validate_every is not None:
            return -(-epoch // self.validate_every) * self.validate_every
        first = max(1, min(FIRST_EPOCHS, LARGE // max(1, self.validated_cells)))
        if epoch <= first:
            return epoch
        validated, least = first, math.ceil(STEPS_BETWEEN_VALIDATIONS / self.steps_per_epoch)
        while validated < epoch:
            validated += max(least, validated // 10)
        return validated
