"""Compares streamed tables with the same rows in memory and with explicit formulas."""

import logging
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import CONF, Run, config_of, data_module, save_config
from test_resume import SignalAt, Trace

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.run.predict import predict
from descent.run.resume import check_unchanged
from descent.training.checkpoint_io import read_checkpoint
from regression.data import streamed, streamed_table, summary
from regression.data.csv_blocks import lines_of
from regression.data.split import split_by_hash
from regression.data.standardization import Standardization
from regression.optimum import least_squares, r_factor

ROWS, MASK = 2000, 2**64 - 1
STREAMING = ("data=table", "data.target=y", "data.streaming=true", "data.chunk_rows=500")


@pytest.fixture(autouse=True)
def blocks_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descent.batches.parquet.FEWEST", 1000)
    monkeypatch.setattr(streamed_table, "FEWEST", 1000)
    monkeypatch.setattr(streamed, "_summaries", {})


def table(rows: int = ROWS) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 3)) * [1, 40, 1e-3] + [0, -300, 5]
    y = x @ [2, 0.1, 300] + rng.normal(size=rows) - 4
    return pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "kind": ["k"] * rows, "y": y})


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    table().write_parquet(path, row_group_size=250)
    return path


def part_of(row: int, val: float, test: float, seed: int) -> int:
    """Returns a row's part by the paper's SplitMix64, in Python integers."""
    start = int(np.random.SeedSequence((seed, 1)).generate_state(1, np.uint64)[0])
    z = (row + start) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    uniform = ((z ^ (z >> 31)) >> 11) / 2**53
    return 1 if uniform < val else 2 if uniform < val + test else 0


def test_the_hash_of_its_number_decides_a_rows_part() -> None:
    found = split_by_hash(10, 3000, (0.2, 0.1, 7))
    assert found.tolist() == [part_of(row, 0.2, 0.1, 7) for row in range(10, 3010)]
    assert (split_by_hash(500, 100, (0.2, 0.1, 7)) == found[490:590]).all()  # independent of the first row
    for part, fraction in ((1, 0.2), (2, 0.1)):
        assert abs((found == part).mean() - fraction) < 4 * np.sqrt(fraction / 3000)
    assert not split_by_hash(0, 1000, (0.0, 0.0, 7)).any()


def parts(frame: pl.DataFrame, names: list[str], seed: int = 0) -> list[tuple[Any, Any]]:
    of = np.array([part_of(row, 0.1, 0.1, seed) for row in range(frame.height)])
    x, y = frame.select(names).to_numpy(), frame["y"].to_numpy()
    return [(x[of == which], y[of == which]) for which in range(3)]


def streamed_data(path: Path, *more: str) -> Any:
    return data_module(config_of(*STREAMING, f"data.path='{path}'", *more).data)


def rows_of(part: Any) -> tuple[Any, Any]:
    blocks = [*part.blocks()]
    return np.concatenate([block.x for block in blocks]), np.concatenate([block.y for block in blocks])


def sorted_by_target(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort("y")


def far_away(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col("b") * 1e-3 + 1e6, pl.when(pl.int_range(pl.len()) > 400).then(pl.col("a") + 1e6).otherwise("a")
    )


def with_a_constant(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(b=pl.lit(0.1))


def as_it_is(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


@pytest.mark.parametrize(
    ("change", "bias"),
    [
        *((as_it_is, True), (far_away, False)),
        *(
            pytest.param(change, True, marks=pytest.mark.soak)
            for change in (sorted_by_target, far_away, with_a_constant)
        ),
    ],
)
def test_means_scales_and_least_squares_equal_those_in_memory(
    change: Callable[[pl.DataFrame], pl.DataFrame], bias: bool, parquet: Path
) -> None:
    frame = change(table())
    frame.write_parquet(parquet, row_group_size=250)
    data = streamed_data(parquet, f"model.bias={str(bias).lower()}")
    expected = parts(frame, ["a", "b", "c"])
    (x, y), *_ = expected
    units = Standardization.fit(x, y, bias)
    found = data.standardization
    np.testing.assert_allclose([*found.x_scale, found.y_scale], [*units.x_scale, units.y_scale], rtol=1e-9)
    means = [math.fsum(column) / len(x) if bias else 0.0 for column in x.T]  # NumPy's means are less exact
    off = (np.array(found.x_mean) - means) / units.x_scale
    assert np.abs(off).max() < 1e-8  # rounding of values around a million, in deviations
    assert found.y_mean == pytest.approx(units.y_mean, rel=1e-12, abs=1e-12)
    for part, (own_x, own_y) in zip((data.train, data.val, data.test), expected, strict=True):
        found_x, found_y = rows_of(part)
        assert len(part) == len(own_y)
        np.testing.assert_allclose(found_x, units.inputs(own_x), rtol=1e-6, atol=1e-6)
        center, scale = part.target_spread()
        np.testing.assert_allclose([center, scale], [found_y.mean(), found_y.std()], rtol=1e-9, atol=1e-12)
        assert part.largest_input() == pytest.approx(np.abs(found_x).max(), rel=1e-12)
    found_x, found_y = rows_of(data.train)
    for degree in (1, 2):
        r, optimum = data.least_squares(degree)
        of_rows = least_squares(r_factor(torch.tensor(found_x), torch.tensor(found_y), bias, degree), len(y), bias)
        terms = [found_x**k for k in range(1, degree + 1)]
        a = np.hstack([np.stack(terms, axis=2).reshape(len(y), -1), np.ones((len(y), int(bias)))])
        gram = np.hstack([a, found_y[:, None]])
        np.testing.assert_allclose(r.T @ r, gram.T @ gram, rtol=1e-9, atol=1e-8 * len(y))
        assert optimum.loss == pytest.approx(of_rows.loss, rel=1e-9)
        assert optimum.unique == of_rows.unique
        np.testing.assert_allclose(optimum.weight, of_rows.weight, rtol=1e-5, atol=1e-6)
        assert optimum.max_stable_lr == pytest.approx(of_rows.max_stable_lr, rel=1e-9)


def test_a_linear_model_needs_no_second_pass(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = streamed_data(parquet)
    monkeypatch.setattr(type(data.train.table), "read", None)
    assert data.least_squares(1)[1].unique


def test_every_form_of_a_table_gives_the_same_rows(parquet: Path, tmp_path: Path) -> None:
    frame, expected = table(), rows_of(streamed_data(parquet).train)
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in range(3):
        frame[part * 800 : (part + 1) * 800].write_parquet(folder / f"{part}.parquet", row_group_size=300)
    csv = tmp_path / "rows.csv"
    text = frame.write_csv().splitlines()
    csv.write_text("\n".join([*text[:7], "", *text[7:]]))  # a blank line, and no newline at the end
    checksums = set()
    for path in (folder, csv):
        data = streamed_data(path)
        found = rows_of(data.train)
        if path != csv:  # the blank line shifts later row numbers
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-12)
        assert len(data.train) + len(data.val) + len(data.test) == ROWS
        checksums.add(data.checksum)
    assert len(checksums) == 2


def test_rows_with_a_missing_cell_are_dropped_or_refused(parquet: Path) -> None:
    frame = table().with_columns(b=pl.when(pl.int_range(pl.len()) % 7 == 3).then(None).otherwise("b"))
    frame.write_parquet(parquet, row_group_size=250)
    with pytest.raises(UserError, match=f"{parquet} has missing cells: b 286; data.missing=drop leaves out those rows"):
        streamed_data(parquet)
    data = streamed_data(parquet, "data.missing=drop")
    of = np.array([part_of(row, 0.1, 0.1, 0) for row in range(ROWS)])
    kept = (of == 0) & (np.arange(ROWS) % 7 != 3)
    np.testing.assert_allclose(data.standardization.own_targets(rows_of(data.train)[1]), frame["y"].to_numpy()[kept])


LINES = [
    (b'a,b\n1,"x\ny"\n2,z\n3,"q""r"\n', [["1", "x\ny"], ["2", "z"], ["3", 'q"r']]),
    (b"\xef\xbb\xbfa,b\r\n1,x\r\n2,\r\n\r\n3,y", [["1", "x"], ["2", None], [None, None], ["3", "y"]]),
    (b"a,b\n", []),
    (b"", []),
]


@pytest.mark.parametrize(("data", "expected"), LINES)
def test_csv_chunks_equal_polars_reading_the_whole_file(data: bytes, expected: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(data)
    for rows in (1, 2, 100):
        found = [[*row] for lines in lines_of(file, rows) for row in lines.read().rows()]
        assert found == expected
        assert all(lines.rows <= rows for lines in lines_of(file, rows))


def test_a_quote_within_a_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n5" pipe,1\n6,2\n7,3\n')
    with pytest.raises(UserError, match='must have quotes \\("\\) in pairs, and only around whole cells'):
        [lines.read() for lines in lines_of(tmp_path / "a.csv", 2)]


REFUSED = [
    (
        ["batch.size=null"],
        "batch.size must be a positive integer with data.streaming=true: no step sees all rows, got null",
    ),
    (
        ["data.categorical=onehot"],
        "data.categorical must be null with data.streaming=true: finding the categories needs all",
    ),
    (["data.missing=mean"], "data.missing must be error or drop with data.streaming=true, got 'mean'"),
    (["data.max_rows=10"], "data.max_rows must be null with data.streaming=true, which uses all rows, got 10"),
    (["data.chunk_rows=0"], "data.chunk_rows must be a positive integer, got 0"),
    (["data.target=z"], "data.target must be a column of"),
    (["data.features=[kind]"], "column kind of"),
    (["data.exclude=[q]"], "data.exclude must name columns of"),
    (["data.val_fraction=0.5", "data.test_fraction=0.5"], "data.val_fraction + data.test_fraction must be below 1"),
    (["data.val_fraction=0.0001"], "data.val_fraction must be 0 or at least 2 of the 2000 rows, got 0.0001"),
    (
        ["data.path=none.parquet"],
        "data.path must be an existing file, a directory or a pattern of .csv or .parquet files, got",
    ),
    (["stopping=converged"], "stopping=converged needs batches in memory"),
]


@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_settings_that_cannot_stream_are_refused_in_one_line(
    overrides: list[str], words: str, parquet: Path, run: Run
) -> None:
    with pytest.raises(UserError) as error:
        run(*STREAMING, f"data.path='{parquet}'", "trainer.max_epochs=1", "batch.size=1000", *overrides)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "words"), [(np.nan, "a finite number"), (1e200, "a number up to 1e+15")])
def test_an_unusable_cell_is_refused_with_its_row(value: float, words: str, parquet: Path) -> None:
    table().with_columns(c=pl.when(pl.int_range(pl.len()) == 1321).then(value).otherwise("c")).write_parquet(parquet)
    with pytest.raises(
        UserError, match=rf"column c of {parquet} must be {words.replace('+', chr(92) + '+')}.* in data row 1322"
    ):
        streamed_data(parquet)


FLOAT64 = ("trainer=float64", "batch.size=64", "trainer.max_epochs=2", "optimizer=adam", "logger=none")


@pytest.mark.parametrize("step", [10, 26])  # 26 steps and 3 chunks an epoch
def test_a_streamed_run_resumes_bit_for_bit_without_a_second_summary(
    step: int, parquet: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*STREAMING, f"data.path='{parquet}'", *FLOAT64)
    whole, trace = Trace(), Trace()
    expected = run(*settings, callbacks=[whole])
    assert run(*settings, callbacks=[trace, SignalAt(step)], run_dir=tmp_path / "run").status == "interrupted"
    streamed._summaries.clear()  # like a new process
    monkeypatch.setattr(summary.Summary, "of", None)  # forbids a pass over all rows
    found = run(*settings, callbacks=[trace], run_dir=tmp_path / "run", resume=True)
    assert trace.steps == whole.steps
    assert (found.metrics, found.best, found.samples) == (expected.metrics, expected.best, expected.samples)
    weights = [read_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in ("0", "run")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_fast_steps_equal_lightnings_and_see_each_row_once_an_epoch(parquet: Path, run: Run) -> None:
    traces = []
    for fast in ("true", "false"):
        traces.append(Trace())
        result = run(*STREAMING, f"data.path='{parquet}'", *FLOAT64, f"trainer.fast={fast}", callbacks=[traces[-1]])
        assert result.samples == 2 * result.entries["rows"]["train"]
    assert traces[0].steps == traces[1].steps
    per_epoch = len(traces[0].steps) // 2
    epochs = [range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1) for epoch in range(2)]
    targets = [sorted(chain.from_iterable(traces[0].steps[step][0] for step in epoch)) for epoch in epochs]
    assert targets[0] == targets[1]
    own = np.sort(rows_of(streamed_data(parquet).train)[1])
    np.testing.assert_array_equal(targets[0], own)


def test_a_streamed_run_evaluates_and_predicts_and_refuses_changed_files(
    parquet: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run_dir = tmp_path / "folder", tmp_path / "sweep" / "run"
    folder.mkdir()
    parquet.rename(folder / "a.parquet")
    settings = (*STREAMING, f"data.path='{folder}'", *FLOAT64, "trainer.enable_progress_bar=false", "figures=false")
    save_config(run_dir, *settings)
    result = run(*settings, run_dir=run_dir)
    (x, y), *_ = parts(table(), ["a", "b", "c"])
    best, *_ = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y)
    optimum = result.entries["optimum"]
    np.testing.assert_allclose([*optimum["weight"], optimum["bias"]], best, rtol=1e-7)
    streamed._summaries.clear()
    with monkeypatch.context() as patched:
        patched.setattr(summary.Summary, "of", None)
        assert evaluate(run_dir)["test/loss"] == pytest.approx(result.metrics["test/loss"], rel=1e-12)
        check_unchanged(run_dir, config_of(*settings))
    csv, out = tmp_path / "new.csv", tmp_path / "out.csv"
    table(20).write_csv(csv)
    assert evaluate(run_dir, data=csv)["test/loss"] > 0
    predict(run_dir, csv, out)
    weight, bias = result.entries["parameters"]["weight"], result.entries["parameters"]["bias"]
    if result.best is not None and result.best["step"] == result.steps:
        np.testing.assert_allclose(
            pl.read_csv(out)["prediction"], table(20).select("a", "b", "c").to_numpy() @ weight + bias, rtol=1e-9
        )
    table(ROWS - 1).write_parquet(folder / "a.parquet", row_group_size=250)
    for use in (lambda: evaluate(run_dir), lambda: check_unchanged(run_dir, config_of(*settings))):
        with pytest.raises(UserError, match="must have the rows that"):
            use()


def test_columns_of_text_are_left_out_with_a_note(
    parquet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    csv = tmp_path / "rows.csv"
    table().write_csv(csv)
    for path in (parquet, csv):
        caplog.clear()
        assert [feature.name for feature in streamed_data(path).train.table.features] == ["a", "b", "c"]
        assert [record.getMessage() for record in caplog.records] == ["note: non-numeric columns are left out: kind"]


PEAK = """
import sys
from pathlib import Path
from descent.run.cli import load_config
from descent.run.train import train
given = [f"data.path='{sys.argv[1]}'", "data=table", "data.target=y", "data.streaming=true", "batch.size=4096",
         "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "figures=false"]
train(load_config(Path(sys.argv[2]), given), Path(sys.argv[3]))
print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])  # kB; ru_maxrss begins with the parent's
"""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (2_000_000, 8_000_000):  # chunks of 400,000 rows: one in memory and one ahead
        x = np.random.default_rng(0).normal(size=(rows, 11)).astype(np.float32)
        names = [*(f"x{i}" for i in range(10)), "y"]
        pl.DataFrame(x, schema=names).write_parquet(tmp_path / "rows.parquet", row_group_size=100_000)
        command = [sys.executable, "-c", PEAK, str(tmp_path / "rows.parquet"), str(CONF), str(tmp_path / str(rows))]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 100_000, peaks  # kB; the additional rows take 264,000 in single precision
