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
    check_fractions(val_fraction, test_fraction)
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


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises an error where they leave nothing."""
    if val_fraction + test_fraction >= 1:
        rule = "below 1, to leave training rows"
        raise invalid("data.val_fraction + data.test_fraction", rule, val_fraction + test_fraction)


def split_by_hash(first: int, rows: int, settings: tuple[float, float, int]) -> NDArray[np.int8]:
    """0 for training, 1 for validation, 2 for test, of ``rows`` rows from the number ``first`` on.

    By a hash of the row's number and the seed alone: a row stays where it is when others are added after it, and the
    parts have about the sizes asked for. The hash is SplitMix64's: Steele, Lea and Flood, Fast splittable pseudorandom
    number generators, 2014.

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
