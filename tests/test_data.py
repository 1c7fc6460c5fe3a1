"""Rows, splits, standardisation and batches, held against NumPy, scikit-learn and polars."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import config_of
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from descent.data.batches import InMemoryBatches
from descent.data.module import RegressionData
from descent.data.sources import load
from descent.data.split import split
from descent.data.standardization import Standardization
from descent.errors import UserError


def test_synthetic_features_have_the_condition_number_asked_for() -> None:
    rows = load(config_of("data.num_samples=200000", "data.condition_number=50").data)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.inputs.T))
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(50, rel=0.03)
    assert eigenvalues.mean() == pytest.approx(1, rel=0.03)


def test_synthetic_targets_follow_the_true_weights_with_the_noise_asked_for() -> None:
    rows = load(config_of("data.num_samples=100000", "data.noise_std=0.3").data)
    residual = rows.targets - rows.inputs @ np.array(rows.true_weight) - rows.true_bias
    assert residual.std() == pytest.approx(0.3, rel=0.02)
    assert abs(residual.mean()) < 0.01


def test_the_outlier_fraction_of_the_rows_is_far_off() -> None:
    rows = load(config_of("data.outlier_fraction=0.05", "data.noise_std=0.1").data)
    residual = np.abs(rows.targets - rows.inputs @ np.array(rows.true_weight) - rows.true_bias)
    assert (residual > 5).sum() == 50


def test_the_data_seed_alone_decides_the_data() -> None:
    same, other = (load(config_of(f"seed={s}").data) for s in (0, 1))
    assert np.array_equal(same.inputs, other.inputs)
    assert not np.array_equal(same.inputs, load(config_of("data.seed=1").data).inputs)


def test_diabetes_is_what_scikit_learn_has() -> None:
    rows, bunch = load(config_of("data=diabetes").data), load_diabetes(scaled=False)
    assert np.array_equal(rows.inputs, bunch.data)
    assert np.array_equal(rows.targets, bunch.target)
    assert rows.inputs.shape == (442, 10)


def test_the_tutorials_data_are_as_the_tutorials_write_them() -> None:
    expected = {
        "study_hours": ([[1], [2], [3]], [2, 4, 6]),
        "line": ([[1], [2], [3], [4]], [2, 4, 6, 8]),
        "two_features": ([[1, 2], [3, 4]], [3, 7]),
    }
    for name, (inputs, targets) in expected.items():
        data = RegressionData(config_of(f"data={name}").data, config_of().batch)
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
        ("x,y\n1,2\n,3\n", "column x of .* must be a finite number in data row 2, got null"),
        ("x,y\n1,2\n2,nan\n", "column y of .* must be a finite number in data row 2, got 'nan'"),
        ("x,y\n1,2\n2,oops\n", "column y of .* must be a finite number in data row 2, got 'oops'"),
        ("x,y\n1,2\n2,inf\n", "column y of .* must be a finite number in data row 2, got .inf."),
        ("x,x,y\n1,2,3\n", "different column names, got x twice"),
        ("x,y\na,2\nb,3\n", "no numeric column besides the target 'y'"),
    ],
)
def test_a_bad_table_is_refused_with_the_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(config_of("data=table", f"data.path={path}", "data.target=y").data)


def test_splits_are_disjoint_complete_and_decided_by_the_data_seed() -> None:
    data = config_of("data.val_fraction=0.2", "data.test_fraction=0.1").data
    parts = split(data, 1000)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (700, 200, 100)
    assert sorted([*parts.train, *parts.val, *parts.test]) == list(range(1000))
    assert np.array_equal(parts.val, split(data, 1000).val)
    assert not np.array_equal(parts.val, split(replace(data, seed=1), 1000).val)


@pytest.mark.parametrize("fraction", ["val", "test"])
def test_a_fraction_that_leaves_less_than_two_rows_is_refused(fraction: str) -> None:
    data = config_of("data=line", f"data.{fraction}_fraction=0.3").data
    with pytest.raises(UserError, match=f"data.{fraction}_fraction must be 0 or at least 2 of the 4 rows, got 0.3"):
        split(data, 4)


def test_standardization_is_scikit_learns_on_the_training_rows_alone() -> None:
    data = RegressionData(config_of("data=diabetes").data, config_of().batch)
    parts = split(config_of("data=diabetes").data, 442)
    inputs = load(config_of("data=diabetes").data).inputs
    scaler = StandardScaler().fit(inputs[parts.train])
    np.testing.assert_allclose(data.train.x, scaler.transform(inputs[parts.train]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(data.test.x, scaler.transform(inputs[parts.test]), rtol=1e-12, atol=1e-12)
    assert data.train.y.std() == pytest.approx(1)


def test_without_a_bias_standardization_scales_and_does_not_shift() -> None:
    inputs, targets = np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0])
    units = Standardization.fit(inputs, targets, center=False)
    assert units.x_mean == [0.0] and units.y_mean == 0.0
    weight = (units.targets(targets) / units.inputs(inputs)[:, 0])[0]
    assert units.own_units([weight], None) == (pytest.approx([2.0]), None)


def test_a_constant_column_keeps_its_scale() -> None:
    inputs = np.column_stack([np.full(5, 0.1), np.arange(5.0)])
    units = Standardization.fit(inputs, np.arange(5.0), center=True)
    assert units.x_scale[0] == 1.0
    assert np.abs(units.inputs(inputs)[:, 0]).max() < 1e-12


def batches(size: int | None, shuffle: bool = True, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    x = torch.arange(10.0).unsqueeze(1)
    loader = InMemoryBatches(x, x[:, 0], size, shuffle, seed)
    loader.set_epoch(epoch)
    assert all(torch.equal(bx[:, 0], by) for bx, by in loader)
    assert len(list(loader)) == len(loader)
    return [[int(v) for v in by] for _, by in loader]


def rows(size: int | None) -> list[int]:
    return [row for batch in batches(size) for row in batch]


def test_an_epoch_sees_every_row_once() -> None:
    for size in (None, 1, 3, 10):
        assert sorted(rows(size)) == list(range(10))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert batches(3) == batches(3)
    assert rows(1) == rows(3)
    assert batches(3) != batches(3, epoch=1)
    assert batches(3) != batches(3, seed=1)


def test_without_shuffling_rows_come_in_order() -> None:
    assert batches(4, shuffle=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
