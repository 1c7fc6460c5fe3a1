"""The benchmark measures what it says."""

from pathlib import Path

import numpy as np
import pytest
from conftest import CONF

from descent.benchmark.measure import HEADER, in_turn, process
from descent.benchmark.processes import slope
from descent.benchmark.steps import step_rows


def test_both_sides_are_measured_in_turn() -> None:
    order: list[str] = []

    def measured(name: str, value: float) -> float:
        order.append(name)
        return value

    row = in_turn("x", lambda: measured("ours", 3.0), "y", lambda: measured("theirs", 2.0), 3, "s", 1.6)
    assert order == ["ours", "theirs"] * 3
    assert str(row) == "| x | 3 s | y | 2 s | **1.50** | 1.50-1.50 | 1.6 |"


def test_a_process_is_measured_with_its_memory() -> None:
    small, large = process("-c", "pass"), process("-c", "import time; x = b'x' * (200 * 2**20); time.sleep(0.5)")
    assert large.seconds > 0.5
    assert 195 < large.mebibytes - small.mebibytes < 230


def test_slope_equals_numpys() -> None:
    x, y = np.array([1.0, 2, 4, 8]), np.array([1.0, 3, 5, 11])
    assert slope(list(x), list(y)) == pytest.approx(np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.filterwarnings("ignore")
def test_a_row_has_the_columns_of_the_table(tmp_path: Path) -> None:
    row = str(next(step_rows(CONF, quick=True)))
    assert row.startswith("| a step, batch 1, sgd |")
    assert row.count("|") == HEADER.splitlines()[0].count("|")
