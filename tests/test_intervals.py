"""Tests when runs log and validate."""

from itertools import pairwise

import pytest

from descent.training.intervals import Intervals


def validated(intervals: Intervals, epochs: int) -> list[int]:
    return [epoch for epoch in range(1, epochs + 1) if intervals.next_validated(epoch) == epoch]


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 32, 1000])
@pytest.mark.parametrize("log_every", [1, 7, 50])
def test_next_logged_is_the_first_logged_step(steps_per_epoch: int, log_every: int) -> None:
    intervals = Intervals(log_every, None, steps_per_epoch)
    points = [step for step in range(1, 3000) if intervals.logs(step)]
    for step in range(1, points[-1]):
        assert intervals.next_logged(step) == next(point for point in points if point >= step)


def test_the_first_20_epochs_and_every_50th_step_are_logged() -> None:
    intervals = Intervals(50, None, 32)
    points = [step for step in range(1, 1001) if intervals.logs(step)]
    assert points == sorted({*range(32, 641, 32), *range(50, 1001, 50)})


@pytest.mark.parametrize("steps_per_epoch", [1, 25, 32, 1000])
def test_validations_become_rarer_after_20_epochs(steps_per_epoch: int) -> None:
    epochs = validated(Intervals(50, None, steps_per_epoch), 3000)
    assert epochs[:20] == list(range(1, 21))
    for before, after in pairwise(epochs[19:]):
        gap = after - before
        assert gap * steps_per_epoch >= 100
        assert gap in (before // 10, -(-100 // steps_per_epoch))


def test_a_given_validation_interval_is_kept() -> None:
    assert validated(Intervals(50, 7, 1), 30) == [7, 14, 21, 28]


def test_large_validations_are_rarer_from_the_start() -> None:
    assert validated(Intervals(50, None, 1, 1_250_000), 250) == [1, 101, 201]
    assert validated(Intervals(50, None, 1, 500_000), 110) == [1, 2, 3, 4, 104]
    assert validated(Intervals(50, None, 30_000, 10**9), 5) == [1, 2, 3, 4, 5]


def test_epochs_of_unknown_length_are_logged_at_the_step_interval() -> None:
    intervals = Intervals(50, 1)
    assert [intervals.next_logged(step) for step in (0, 1, 50, 51, 99)] == [0, 50, 50, 100, 100]
    assert validated(intervals, 4) == [1, 2, 3, 4]
