"""Training, validation and test rows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from descent.errors import invalid

Indices = NDArray[np.intp]


class Split(NamedTuple):
    """Row numbers; each part keeps the order that the rows had."""

    train: Indices
    val: Indices
    test: Indices


def split(num_rows: int, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Draws ``val_fraction`` and ``test_fraction`` of the rows; the rest are for training.

    The draw depends on ``seed`` and the number of rows alone.

    Raises:
        UserError: a fraction above 0 that leaves fewer than two rows (R2 needs two), or no training row.
    """
    if val_fraction + test_fraction >= 1:
        rule = "below 1, to leave training rows"
        raise invalid("data.val_fraction + data.test_fraction", rule, val_fraction + test_fraction)
    sizes = {}
    for name, fraction in (("val", val_fraction), ("test", test_fraction)):
        sizes[name] = round(fraction * num_rows)
        if fraction > 0 and sizes[name] < 2:
            raise invalid(f"data.{name}_fraction", f"0 or at least 2 of the {num_rows} rows", fraction)
    if num_rows - sum(sizes.values()) < 1:
        raise invalid(
            "data.val_fraction and data.test_fraction", f"such that training keeps a row of {num_rows}", sizes
        )
    order = np.random.default_rng((seed, 1)).permutation(num_rows)
    val, test, train = np.split(order, np.cumsum(list(sizes.values())))
    return Split(np.sort(train), np.sort(val), np.sort(test))
