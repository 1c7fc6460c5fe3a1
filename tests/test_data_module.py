"""The data module: its parts, loaders and checksum, against numbers worked out by hand."""

import logging
import math
from dataclasses import replace
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest
import torch
from conftest import config_of

from descent.errors import UserError
from regression.data import module
from regression.data.module import RegressionData
from regression.data.split import split


def trained_by(data: RegressionData, dtype: torch.dtype = torch.float32) -> RegressionData:
    """As within a fit."""
    data.trainer = SimpleNamespace(lightning_module=torch.nn.Linear(1, 1, dtype=dtype))  # type: ignore[assignment]
    return data


def test_the_loaders_have_the_rows_of_their_parts_in_the_precision_of_the_model() -> None:
    config = config_of("data.num_samples=50", "batch.size=4")
    for dtype in (torch.float32, torch.float64):
        data = trained_by(RegressionData(config.data, config.batch, seed=3), dtype)
        (x, y), *rest = data.val_dataloader()
        assert not rest and x.dtype == y.dtype == dtype
        assert torch.equal(x, torch.from_numpy(data.val.x).to(dtype))
        assert torch.equal(y, torch.from_numpy(data.val.y).to(dtype))
        ((x, y),) = data.test_dataloader()
        assert torch.equal(y, torch.from_numpy(data.test.y).to(dtype)) and len(x) == len(data.test)
        order = np.random.default_rng((3, 0, 2)).permutation(len(data.train))
        batches = list(data.train_dataloader())
        assert [len(y) for _, y in batches] == [4] * 10 and data.batches_per_epoch == 10
        assert torch.equal(torch.cat([y for _, y in batches]), torch.from_numpy(data.train.y[order]).to(dtype))
    plain = replace(config.batch, shuffle=False, size=None)
    data = trained_by(RegressionData(config.data, plain))
    ((x, _),) = data.train_dataloader()
    assert torch.equal(x, torch.from_numpy(data.train.x).float()) and data.batches_per_epoch == 1
    assert (data.seed, data.bias) == (0, True)
    data = trained_by(RegressionData(config.data, replace(config.batch, shuffle=False), bias=False))
    assert torch.equal(torch.cat([y for _, y in data.train_dataloader()]), torch.from_numpy(data.train.y).float())
    assert data.optimum is not None and data.optimum.bias is None and len(data.optimum.weight) == data.num_features
    none = replace(config.data, val_fraction=0.0, test_fraction=0.0)
    data = trained_by(RegressionData(none, replace(config.batch, size=49)))
    assert (data.val_dataloader(), data.test_dataloader(), data.batches_per_epoch) == ([], [], 2)


def test_evaluation_takes_many_rows_in_parts() -> None:
    rows = ("data.num_samples=131074", "data.num_features=1", "data.val_fraction=0.5", "data.test_fraction=0")
    config = config_of(*rows)
    data = trained_by(RegressionData(config.data, config.batch))
    assert [len(y) for _, y in data.val_dataloader()] == [2**16, 1]


def test_the_checksum_is_of_the_rows_in_their_own_units_and_of_the_split() -> None:
    config = config_of("data=line", "data.val_fraction=0.5")
    parts = split(config.data, 4)
    content = b"[2, 2, 0]"
    for rows in (parts.train, parts.val):
        content += (
            np.array([[1.0], [2.0], [3.0], [4.0]])[rows].tobytes() + np.array([2.0, 4.0, 6.0, 8.0])[rows].tobytes()
        )
    for standardize in (True, False):
        data = RegressionData(replace(config.data, standardize=standardize), config.batch)
        assert data.checksum == crc32(content)
        assert data.state_dict() == {"checksum": crc32(content)}
        data.load_state_dict({"checksum": crc32(content)})
        with pytest.raises(UserError) as raised:
            data.load_state_dict({"checksum": 1})
        assert str(raised.value) == "data must be what the run began with to be resumed: its rows have changed"
        mean, scale = (data.standardization.y_mean, data.standardization.y_scale)
        assert (mean == 0 and scale == 1) != standardize


def test_the_module_keeps_the_names_of_the_rows_and_not_their_table() -> None:
    config = config_of("data=two_features")
    data = RegressionData(config.data, config.batch)
    assert data.rows.feature_names == ("x_1", "x_2") and data.num_features == 2
    for kept, shape in ((data.rows.inputs, (0, 2)), (data.rows.targets, (0,))):
        assert kept.shape == shape and kept.base is None
    without = RegressionData(replace(config.data, standardize=True), config.batch, bias=False)
    assert without.standardization.x_mean == [0.0, 0.0] and without.standardization.y_mean == 0.0
    assert without.standardization.y_scale == pytest.approx(math.sqrt((3**2 + 7**2) / 2))


@pytest.mark.parametrize("spared", [False, True])
def test_least_squares_that_would_take_minutes_is_left_out_with_a_note(
    spared: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of("data.num_samples=30", "data.num_features=4", "data.val_fraction=0", "data.test_fraction=0")
    monkeypatch.setattr(module, "MOST_WORK", 30 * 4 * 4 + 20 * 4 * 4 * 4 - spared)
    data = RegressionData(config.data, config.batch)
    with caplog.at_level(logging.INFO):
        assert (data.triangle is None) == (data.optimum is None) == spared
    said = "note: the least-squares solution of 30 rows and 4 features would take minutes, and is left out"
    assert [(r.levelname, r.message) for r in caplog.records] == ([("WARNING", said)] if spared else [])


@pytest.mark.parametrize(("operations", "spared"), [(1e12, False), (1.001e12, True)])
def test_least_squares_may_take_a_million_million_operations(
    operations: float, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "work", lambda rows, features: operations)
    config = config_of("data=line")
    assert (RegressionData(config.data, config.batch).triangle is None) == spared
