"""Splits rows into training, validation and test rows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from descent.errors import invalid

Indices = NDArray[np.intp]


class Split(NamedTuple):
    """Row numbers; each part keeps the order of the rows."""

    train: Indices
    val: Indices
    test: Indices


def split(num_rows: int, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Draws ``val_fraction`` and ``test_fraction`` of the rows; the rest are for training.

    The draw depends only on ``seed`` and the number of rows.

    Raises:
        UserError: a fraction above 0 that leaves fewer than two rows (R2 needs two), or no training row.
    """
    check_fractions(val_fraction, test_fraction)
    sizes = {}
    for name, fraction in (("val", val_fraction), ("test", test_fraction)):
        sizes[name] = round(fraction * num_rows)
        if fraction > 0 and sizes[name] < 2:
            raise invalid(f"data.{name}_fraction", f"0 or at least 2 of the {num_rows} rows", fraction)
    if num_rows - sum(sizes.values()) < 1:
        raise invalid(
            "data.val_fraction and data.test_fraction",
            f"small enough to leave at least one of {num_rows} rows for training",
            sizes,
        )
    order = np.random.default_rng((seed, 1)).permutation(num_rows)
    val, test, train = np.split(order, np.cumsum(list(sizes.values())))
    return Split(np.sort(train), np.sort(val), np.sort(test))


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises an error if the fractions leave no training rows."""
    if val_fraction + test_fraction >= 1:
        rule = "below 1, to leave training rows"
        raise invalid("data.val_fraction + data.test_fraction", rule, val_fraction + test_fraction)


def split_by_hash(first: int, rows: int, settings: tuple[float, float, int]) -> NDArray[np.int8]:
    """The parts (0 training, 1 validation, 2 test) of ``rows`` rows that start at row number ``first``.

    The part depends only on a hash of the row's number and the seed: a row stays in its part when rows are added after
    it, and the parts have approximately the requested sizes. The hash is SplitMix64: Steele, Lea and Flood, Fast
    splittable pseudorandom number generators, 2014.

    Args:
        settings: the fractions of validation and test rows, and the seed.
    """
    val_fraction, test_fraction, seed = settings
    start = np.random.SeedSequence((seed, 1)).generate_state(1, np.uint64)
    z = (np.arange(first, first + rows, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    uniform = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    held_out = np.where(uniform < val_fraction, np.int8(1), np.int8(2))
    return np.where(uniform < val_fraction + test_fraction, held_out, np.int8(0))
