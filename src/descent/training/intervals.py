"""Decides when to log and validate."""

import math
from dataclasses import dataclass

FIRST_EPOCHS = 20  # each has a point, even if an epoch has few steps
LARGE = 2_000_000  # numbers in the validation rows; validating more takes longer than all else around a step
STEPS_BETWEEN_VALIDATIONS = 100  # on small data a validation takes as long as 15 steps


@dataclass
class Intervals:
    """Logs at regular steps, validates less often as a run gets longer, and does both after the first epochs.

    The points depend on the step alone, so a resumed run has the same ones. An extended run has one more validation,
    where it first ended.

    Args:
        log_every: optimizer steps between points of the training curves.
        validate_every: epochs between validations; ``None``: validate after each of the first epochs, then whenever
            the number of epochs has grown by a tenth, at least ``STEPS_BETWEEN_VALIDATIONS`` steps apart.
        steps_per_epoch: optimizer steps in an epoch; ``inf``: not known.
        validated_cells: numbers in the validation rows; if there are many, fewer of the first epochs are validated.
    """

    log_every: int
    validate_every: int | None
    steps_per_epoch: float = math.inf
    validated_cells: int = 0

    def logs(self, step: int) -> bool:
        """Whether the training curves have a point at ``step``."""
        return self.next_logged(step) == step

    def next_logged(self, step: int) -> int:
        """The first step, not before ``step``, at which the training curves have a point."""
        after = -(-step // self.log_every) * self.log_every
        if self.steps_per_epoch == math.inf:
            return after
        per_epoch = int(self.steps_per_epoch)
        epoch = -(-step // per_epoch)
        return min(after, epoch * per_epoch) if epoch <= FIRST_EPOCHS else after

    def next_validated(self, epoch: int) -> int:
        """The first epoch, counted from 1 and not before ``epoch``, that ends with a validation."""
        if self.validate_every is not None:
            return -(-epoch // self.validate_every) * self.validate_every
        first = max(1, min(FIRST_EPOCHS, LARGE // max(1, self.validated_cells)))
        if epoch <= first:
            return epoch
        validated, least = first, math.ceil(STEPS_BETWEEN_VALIDATIONS / self.steps_per_epoch)
        while validated < epoch:
            validated += max(least, validated // 10)
        return validated
