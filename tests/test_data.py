"""Compares rows, splits, standardisation and batches with NumPy, scikit-learn and polars."""

import os
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import config_of, data_module, load, split
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from descent.batches.in_memory import InMemoryBatches
from descent.errors import UserError
from regression.data.memory import check_size, needed_bytes
from regression.data.standardization import Standardization
from regression.data.table import read_table


def test_synthetic_features_have_the_given_condition_number() -> None:
    rows = load(config_of("data.num_samples=200000", "data.condition_number=50").data)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.inputs.T))
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(50, rel=0.03)
    assert eigenvalues.mean() == pytest.approx(1, rel=0.03)


def test_synthetic_targets_follow_the_true_weights_with_the_given_noise() -> None:
    rows = load(config_of("data.num_samples=100000", "data.noise_std=0.3").data)
    residual = rows.targets - rows.inputs @ np.array(rows.true_weight) - rows.true_bias
    assert residual.std() == pytest.approx(0.3, rel=0.02)
    assert abs(residual.mean()) < 0.01


def test_the_outlier_fraction_of_rows_has_large_residuals() -> None:
    rows = load(config_of("data.outlier_fraction=0.05", "data.noise_std=0.1").data)
    residual = np.abs(rows.targets - rows.inputs @ np.array(rows.true_weight) - rows.true_bias)
    assert (residual > 5).sum() == 50


def test_only_the_data_seed_decides_the_data() -> None:
    same, other = (load(config_of(f"seed={s}").data) for s in (0, 1))
    assert np.array_equal(same.inputs, other.inputs)
    assert not np.array_equal(same.inputs, load(config_of("data.seed=1").data).inputs)


def test_diabetes_equals_scikit_learns_data() -> None:
    rows, bunch = load(config_of("data=diabetes").data), load_diabetes(scaled=False)
    assert np.array_equal(rows.inputs, bunch.data)
    assert np.array_equal(rows.targets, bunch.target)
    assert rows.inputs.shape == (442, 10)


def test_the_tutorial_configs_have_the_tutorials_data() -> None:
    expected = {
        "study_hours": ([[1], [2], [3]], [2, 4, 6]),
        "line": ([[1], [2], [3], [4]], [2, 4, 6, 8]),
        "two_features": ([[1, 2], [3, 4]], [3, 7]),
    }
    for name, (inputs, targets) in expected.items():
        data = data_module(config_of(f"data={name}").data)
        assert data.train.x.tolist() == inputs
        assert data.train.y.tolist() == targets
        assert len(data.val) == len(data.test) == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_read_as_polars_reads_it(kind: str, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"größe": [1, 2, 3, 4], "text": list("abcd"), "y": [1.5, 2.5, 3.5, 5], "b": [0.1, 0.2, 0.3, 1]}
    )
    path = tmp_path / f"my rows.{kind}"
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    rows = load(config_of("data=table", f"data.path='{path}'", "data.target=y").data)
    assert rows.feature_names == ("größe", "b")
    assert np.array_equal(rows.inputs, frame.select("größe", "b").to_numpy())
    assert rows.targets.tolist() == [1.5, 2.5, 3.5, 5]
    named = load(config_of("data=table", f"data.path='{path}'", "data.target=y", "data.features=[b]").data)
    assert named.feature_names == ("b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty file"),
        ("x,y\n", "file with rows of data, got none"),
        ("x,z\n1,2\n", "data.target must be a column of .*, got 'y'"),
        ("x,y\n1,2\n,3\n", "rows.csv has missing cells: x 1; data.missing=drop leaves out those rows"),
        ("x,y\n1,2\n2,nan\n", "column y of .* must be a finite number in data row 2, got 'nan'"),
        ("x,y\n1,2\n2,oops\n", "column y of .* must be a finite number in data row 2, got 'oops'"),
        ("x,y\n1,2\n2,inf\n", "column y of .* must be a finite number in data row 2, got .inf."),
        ("x,x,y\n1,2,3\n", "different column names, got x twice"),
        ("x,y\na,2\nb,3\n", "no numeric column besides the target 'y'"),
    ],
)
def test_the_error_of_a_bad_table_names_the_column_and_row(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(config_of("data=table", f"data.path={path}", "data.target=y").data)


def test_a_first_fraction_after_149_integers_is_read_exactly(tmp_path: Path) -> None:
    cells = [str(i) for i in range(149)] + ["0.1", "1e-3", "17"]
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n" + "".join(f"{cell},{cell}\n" for cell in cells))
    inputs, targets, _ = read_table(path, "y", None)
    assert inputs[:, 0].tolist() == targets.tolist() == [float(cell) for cell in cells]


def test_text_cells_are_parsed_as_python_parses_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = [repr(float(x)) for x in rng.standard_normal(300) * 10.0 ** rng.integers(-300, 14, 300)]
    cells += [f"{x:.{digits}f}" for x in rng.standard_normal(100) for digits in (0, 3, 60)]
    cells += [str(n) for n in rng.integers(-(10**15), 10**15, 100)] + ["+1", ".5", "5.", "1E5", "1e+05", "007", '"2.5"']
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n" + "".join(f"{cell},1\n" for cell in cells))
    expected = np.array([float(cell.strip('"')) for cell in cells])
    assert read_table(path, "y", None)[0].tobytes() == expected.tobytes()


def test_true_and_false_are_numbers_and_other_words_are_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("flag,mixed,word,y\ntrue,TRUE,yes,1\nFalse,0.5,no,0\n\n,,,\nfalse,2,true,True\n")
    inputs, targets, names = read_table(path, "y", None)
    assert [feature.name for feature in names] == ["flag", "mixed"]
    assert inputs.tolist() == [[1, 1], [0, 0.5], [0, 2]]
    assert targets.tolist() == [1, 0, 1]


def test_a_column_name_is_not_read_as_a_pattern(tmp_path: Path) -> None:
    frame = pl.DataFrame({"*": [1.0, 2.0], "^x.$": [3.0, 4.0], "x1": [5.0, 6.0], "y": [7.0, 8.0]})
    for kind in ("csv", "parquet"):
        path = tmp_path / f"rows.{kind}"
        frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
        assert read_table(path, "y", ["^x.$", "*"])[0].tolist() == [[3, 1], [4, 2]]
        assert read_table(path, "*", None)[2] == (("^x.$", None), ("x1", None), ("y", None))


def test_only_a_leading_tilde_with_a_slash_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number, name in enumerate(("home/a.csv", "~/a.csv", "~a.csv")):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f"x,y\n{number},0\n")
    for number, path in ((0, "~/a.csv"), (1, "./~/a.csv"), (2, "~a.csv"), (2, "./~a.csv")):
        assert load(config_of("data=table", f"data.path='{path}'", "data.target=y").data).inputs.item() == number


def test_a_parquet_column_of_dates_is_not_a_feature(tmp_path: Path) -> None:
    days = [date(2024, 1, 1), date(2024, 1, 2)]
    small = pl.Series([1.5, 2.5], dtype=pl.Float32)
    frame = pl.DataFrame({"day": days, "x": [Decimal("0.1"), Decimal("2")], "s": small, "t": ["1", "2"], "y": [1, 2]})
    frame.write_parquet(tmp_path / "rows.parquet")
    inputs, _, names = read_table(tmp_path / "rows.parquet", "y", None)
    assert [feature.name for feature in names] == ["x", "s", "t"]
    assert inputs.tolist() == [[0.1, 1.5, 1], [2, 2.5, 2]]
    with pytest.raises(UserError, match=r"column day of .* must be numeric, got 'Date'"):
        read_table(tmp_path / "rows.parquet", "y", ["day"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.num_features=1000000000"], "data.num_features must be at most 7000: .*, got 1000000000"),
        (["data.num_features=7001"], "data.num_features must be at most 7000: .*, got 7001"),
        (
            ["data.num_samples=2000000000", "data.num_features=7000"],
            "data.num_samples must be .* fit into memory: .* GiB",
        ),
    ],
)
def test_too_large_synthetic_data_are_refused_before_drawing(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "default_rng", lambda seed: pytest.fail("drawing started"))
    with pytest.raises(UserError, match=message) as raised:
        load(config_of(*overrides).data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("answer", [None, -1, OSError, ValueError], ids=str)
def test_a_platform_that_does_not_report_its_memory_gets_a_fixed_bound(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sysconf(name: str) -> int:
        if isinstance(answer, int):
            return answer
        raise answer

    if answer is None:
        monkeypatch.delattr(os, "sysconf")
    else:
        monkeypatch.setattr(os, "sysconf", sysconf)
    check_size(1_000_000_000, 3)  # 64 GB
    with pytest.raises(UserError, match=r"data.num_samples .*there are 64.0 GiB, got 1100000000"):
        check_size(1_100_000_000, 3)


def test_drawing_synthetic_data_takes_about_the_estimated_memory() -> None:
    for samples, features in ((200_000, 10), (10, 400)):
        data = config_of(f"data.num_samples={samples}", f"data.num_features={features}").data
        tracemalloc.start()
        load(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak == pytest.approx(needed_bytes(samples, features), rel=0.3)


def test_splits_are_disjoint_and_complete_and_depend_on_the_data_seed() -> None:
    data = config_of("data.val_fraction=0.2", "data.test_fraction=0.1").data
    parts = split(data, 1000)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (700, 200, 100)
    assert sorted([*parts.train, *parts.val, *parts.test]) == list(range(1000))
    assert np.array_equal(parts.val, split(data, 1000).val)
    assert not np.array_equal(parts.val, split({**data, "seed": 1}, 1000).val)


@pytest.mark.parametrize("fraction", ["val", "test"])
def test_a_fraction_of_fewer_than_two_rows_is_refused(fraction: str) -> None:
    data = config_of("data=line", f"data.{fraction}_fraction=0.3").data
    with pytest.raises(UserError, match=f"data.{fraction}_fraction must be 0 or at least 2 of the 4 rows, got 0.3"):
        split(data, 4)


def test_standardization_equals_scikit_learns_fit_on_the_training_rows() -> None:
    data = data_module(config_of("data=diabetes").data)
    parts = split(config_of("data=diabetes").data, 442)
    inputs = load(config_of("data=diabetes").data).inputs
    scaler = StandardScaler().fit(inputs[parts.train])
    np.testing.assert_allclose(data.train.x, scaler.transform(inputs[parts.train]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(data.test.x, scaler.transform(inputs[parts.test]), rtol=1e-12, atol=1e-12)
    assert data.train.y.std() == pytest.approx(1)


def test_without_a_bias_standardization_only_scales() -> None:
    inputs, targets = np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0])
    units = Standardization.fit(inputs, targets, center=False)
    assert units.x_mean == [0.0] and units.y_mean == 0.0
    weight = (units.targets(targets) / units.inputs(inputs)[:, 0])[0]
    assert units.own_units([weight], None) == (pytest.approx([2.0]), None)


def test_a_constant_column_is_not_scaled() -> None:
    for rows in (5, 6):  # rounding moves the mean of six away from 0.1
        inputs = np.column_stack([np.full(rows, 0.1), np.arange(float(rows))])
        units = Standardization.fit(inputs, np.arange(float(rows)), center=True)
        assert (units.x_mean[0] == 0.1) == (rows == 5)
        assert units.x_scale[0] == 1.0
        assert np.abs(units.inputs(inputs)[:, 0]).max() < 1e-12


def batches(size: int | None, shuffle: bool = True, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    x = torch.arange(10.0).unsqueeze(1)
    loader = InMemoryBatches(x, x[:, 0], size=size, shuffle=shuffle, seed=seed)
    loader.set_epoch(epoch)
    assert all(torch.equal(bx[:, 0], by) for bx, by in loader)
    assert len(list(loader)) == len(loader)
    return [[int(v) for v in by] for _, by in loader]


def rows(size: int | None) -> list[int]:
    return [row for batch in batches(size) for row in batch]


def test_an_epoch_sees_every_row_once() -> None:
    for size in (None, 1, 3, 10):
        assert sorted(rows(size)) == list(range(10))


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    assert batches(3) == batches(3)
    assert rows(1) == rows(3)
    assert batches(3) != batches(3, epoch=1)
    assert batches(3) != batches(3, seed=1)


def test_without_shuffling_rows_keep_their_order() -> None:
    assert batches(4, shuffle=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(("words", "numeric"), [(4, True), (5, True), (6, False)])
def test_text_cells_are_errors_in_a_column_that_is_at_least_half_numbers(
    words: int, numeric: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    cells = ["word"] * words + ["1"] * (10 - words)
    path.write_text("a,b,y\n" + "".join(f"{number},{cell},2\n" for number, cell in enumerate(cells)))
    if numeric:
        with pytest.raises(UserError, match=r"column b of .* must be a finite number in data row 1, got 'word'"):
            read_table(path, "y", None)
    else:
        assert read_table(path, "y", None)[2] == (("a", None),)
