"""Tests that the benchmark measures what it claims to."""

import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import CONF, ROOT, config_of

from benchmarks import streaming
from benchmarks.measure import HEADER, in_turn, process
from benchmarks.processes import IMPORTS, sweep_rows
from benchmarks.rivals import Setting, plain_loop
from benchmarks.steps import gpu_rows, overrides_of, step_rows
from descent.batches.row_groups import row_groups


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


@pytest.mark.parametrize("quick", [False, True])
def test_a_step_without_validation_has_a_row_for_batches_of_32_and_for_the_full_batch(
    quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.steps.in_turn", lambda what, ours, against, *rest: (what, against))
    rows: list[Any] = list(step_rows(CONF, quick))
    for batch in ("batch 32", "full batch of 1,000 x 5"):
        assert (f"a step, {batch}, sgd, no validation", "plain loop") in rows
    config = config_of(*overrides_of(Setting("sgd", None, "none", 1000, 5, 10, validation=False)))
    assert {key: config.data[key] for key in ("num_samples", "val_fraction", "test_fraction")} == {
        **{"num_samples": 1000, "val_fraction": 0, "test_fraction": 0}
    }


def test_the_loops_of_a_sweep_are_found_wherever_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.processes.in_turn", lambda what, ours, against, theirs, *rest, **given: theirs.args)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    rows: list[Any] = list(sweep_rows(ROOT))
    for (code,), call in zip(rows, ("sweep_by('plain_loop', 20)", "sweep_by('usual_lightning', 2)"), strict=True):
        assert code.endswith(call)
        light = (
            code.removesuffix(call)
            .replace(IMPORTS, "pass")
            .replace("processes import sweep_by", "measure import Process")
        )
        process("-c", light)  # raises an error if it exits with 1


@pytest.mark.parametrize(
    ("size", "indexed", "expected"), [(2, True, [2, 1, 2]), (None, True, [3] * 3), (2, False, [3] * 3)]
)
def test_the_plain_loop_takes_its_steps_on_batches_of_this_size(
    size: int | None, indexed: bool, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(len(targets))
        return (predicted - targets).square().mean()

    monkeypatch.setattr("benchmarks.rivals.mse_loss", loss)
    assert plain_loop(Setting("sgd", size, "norm", 3, 2, 3), indexed) > 0
    assert seen == expected


@pytest.mark.filterwarnings("ignore")
def test_a_row_has_the_columns_of_the_table(tmp_path: Path) -> None:
    row = str(next(step_rows(CONF, quick=True)))
    assert row.startswith("| a step, batch 1, sgd |")
    assert row.count("|") == HEADER.splitlines()[0].count("|")


def test_the_plain_loop_over_a_file_sees_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": 120, "GROUP": 10, "SIZE": 16}.items():
        monkeypatch.setattr(streaming, name, value)
    streaming.write(tmp_path / "rows.parquet", 120)
    assert row_groups(tmp_path / "rows.parquet") == [10] * 12
    seen: list[torch.Tensor] = []

    def loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets)
        return (predicted - targets).square().mean()

    monkeypatch.setattr(streaming, "mse_loss", loss)
    assert streaming.plain_loop(tmp_path / "rows.parquet") > 0
    assert [len(targets) for targets in seen] == [16, 16, 8] * 3
    targets = pl.read_parquet(tmp_path / "rows.parquet")["y"].to_list()
    assert sorted(torch.cat(seen).tolist()) == sorted(targets)
    assert torch.cat(seen).tolist() != targets


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_the_rows_of_a_gpu_are_empty_without_one() -> None:
    rows = [*gpu_rows(CONF)]
    assert rows[0] == "| a step on cuda, batch 32, sgd |  | plain loop |  |  |  |  |"
    assert all(row.count("|") == HEADER.splitlines()[0].count("|") for row in rows)
