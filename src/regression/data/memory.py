"""Whether data that are to be drawn fit into memory."""

import os

from descent.errors import invalid

# The random rotation of d features is a QR decomposition of d x d numbers: 2.7 d^3 operations, minutes above this
MOST_FEATURES = 7_000
# Where the platform does not tell how much memory it has
USUAL_MEMORY = 64 * 2**30  # bytes


def check_size(num_samples: int, num_features: int) -> None:
    """Refuses data that cannot be drawn in the memory of this machine, or not within minutes.

    Raises:
        UserError: too many features, or too many numbers.
    """
    if num_features > MOST_FEATURES:
        rule = f"at most {MOST_FEATURES}: the rotation of more features would take minutes"
        raise invalid("data.num_features", rule, num_features)
    needed, there = needed_bytes(num_samples, num_features), memory_bytes()
    if needed > there:
        rule = (
            f"such that the data fit into memory: {num_samples} x {num_features} numbers take"
            f" {needed / 2**30:.1f} GiB while they are drawn, and there are {there / 2**30:.1f} GiB"
        )
        raise invalid("data.num_samples", rule, num_samples)


def needed_bytes(num_samples: int, num_features: int) -> int:
    """At the peak: the table and its rotated copy, and four squares of the rotation, all in double precision."""
    return 8 * (2 * num_samples * (num_features + 1) + 4 * num_features**2)


def memory_bytes() -> int:
    """The physical memory of this machine; ``USUAL_MEMORY`` where the platform does not tell."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX platform, or one that does not tell
        return USUAL_MEMORY
    return page * pages if min(page, pages) > 0 else USUAL_MEMORY
