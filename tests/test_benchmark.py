"""The benchmark measures what it says."""

import time
from pathlib import Path

import numpy as np
import pytest
from conftest import CONF

from benchmarks.measure import HEADER, in_turn, process
from benchmarks.processes import slope
from benchmarks.steps import step_rows


def test_both_sides_are_measured_in_turn() -> None:
    order: list[str] = []

    def measured(name: str, value: float) -> float:
        order.append(name)
        return value

    row = in_turn("x", lambda: measured("ours", 3.0), "y", lambda: measured("theirs", 2.0), 3, "s", 1.6)
    assert order == ["ours", "theirs"] * 3
    assert str(row) == "| x | 3 s | y | 2 s | **1.50** | 1.50-1.50 | 1.6 |"


REPORTING = """
import re, sys, time
started = time.perf_counter()
x = b"x" * (64 * 2**20)
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(time.perf_counter() - started, peak, file=open(sys.argv[1], "w"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's own account of a process")
def test_a_process_is_measured_with_its_memory(tmp_path: Path) -> None:
    started = time.perf_counter()
    found = process("-c", REPORTING, str(tmp_path / "own"))
    outer = time.perf_counter() - started
    seconds, peak = map(float, (tmp_path / "own").read_text().split())
    assert found.mebibytes == pytest.approx(peak, rel=0.01)
    assert seconds <= found.seconds <= outer


def test_slope_equals_numpys() -> None:
    x, y = np.array([1.0, 2, 4, 8]), np.array([1.0, 3, 5, 11])
    assert slope(list(x), list(y)) == pytest.approx(np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.filterwarnings("ignore")
def test_a_row_has_the_columns_of_the_table(tmp_path: Path) -> None:
    row = str(next(step_rows(CONF, quick=True)))
    assert row.startswith("| a step, batch 1, sgd |")
    assert row.count("|") == HEADER.splitlines()[0].count("|")
