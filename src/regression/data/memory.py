"""Checks that synthetic data fit into memory."""

import os

from descent.errors import invalid

# A random rotation of d features is a QR decomposition of d x d numbers: 2.7 d^3 operations, minutes above this
MOST_FEATURES = 7_000
# Assumed if the platform does not report its memory
USUAL_MEMORY = 64 * 2**30  # bytes


def check_size(num_samples: int, num_features: int) -> None:
    """Refuses data that this machine cannot generate in its memory, or not within minutes.

    Raises:
        UserError: too many features, or too many numbers.
    """
    if num_features > MOST_FEATURES:
        rule = f"at most {MOST_FEATURES}: the rotation of more features would take minutes"
        raise invalid("data.num_features", rule, num_features)
    needed, there = needed_bytes(num_samples, num_features), memory_bytes()
    if needed > there:
        rule = (
            f"small enough for the data to fit into memory: generating {num_samples} x {num_features} numbers takes"
            f" {needed / 2**30:.1f} GiB, and there are {there / 2**30:.1f} GiB"
        )
        raise invalid("data.num_samples", rule, num_samples)


def needed_bytes(num_samples: int, num_features: int) -> int:
    """Peak memory: the table, its rotated copy, and four matrices of the rotation's size, in double precision."""
    return 8 * (2 * num_samples * (num_features + 1) + 4 * num_features**2)


def memory_bytes() -> int:
    """The physical memory of this machine; ``USUAL_MEMORY`` if the platform does not report it."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX, or not reported
        return USUAL_MEMORY
    return page * pages if min(page, pages) > 0 else USUAL_MEMORY
