"""Compares the data module's parts, loaders and checksum with values computed by hand."""

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from conftest import config_of, data_module, split
from lightning.pytorch.utilities.model_helpers import is_overridden

from descent.batches.exact import exact
from descent.errors import UserError
from regression.data import module
from regression.data.module import RegressionData
from regression.data.sources import ListedData
from regression.data.standardization import Standardization


def trained_by(data: RegressionData, dtype: torch.dtype = torch.float32) -> RegressionData:
    """Gives the data module a trainer, as during a fit."""
    data.trainer = SimpleNamespace(lightning_module=torch.nn.Linear(1, 1, dtype=dtype))  # type: ignore[assignment]
    return data


def test_each_loader_has_its_rows_in_the_precision_of_the_model() -> None:
    config = config_of("data.num_samples=50", "batch.size=4")
    for dtype in (torch.float32, torch.float64):
        data = trained_by(data_module(config.data), dtype)
        (x, y), *rest = data.val_dataloader()
        assert not rest and x.dtype == y.dtype == dtype
        assert torch.equal(x, torch.from_numpy(data.val.x).to(dtype))
        assert torch.equal(y, torch.from_numpy(data.val.y).to(dtype))
        ((x, y),) = data.test_dataloader()
        assert torch.equal(y, torch.from_numpy(data.test.y).to(dtype)) and len(x) == len(data.test)
        loader, note = exact(data.train_dataloader(), 3)
        order = np.random.default_rng((3, 0, 2)).permutation(len(data.train))
        batches = list(loader)
        assert [len(y) for _, y in batches] == [4] * 10 and len(loader) == 10 and note is None
        assert torch.equal(torch.cat([y for _, y in batches]), torch.from_numpy(data.train.y[order]).to(dtype))
    plain = {**config.data, "shuffle": False}
    data = trained_by(data_module({**plain, "batch_size": None}))
    ((x, _),) = loader = data.train_dataloader()
    assert torch.equal(x, torch.from_numpy(data.train.x).float()) and len(loader) == 1
    assert (loader.seed, data.bias) == (None, True)
    data = trained_by(data_module({**plain, "bias": False}))
    assert torch.equal(torch.cat([y for _, y in data.train_dataloader()]), torch.from_numpy(data.train.y).float())
    solved = data.least_squares()
    assert solved is not None and solved[1].bias is None
    assert len(solved[1].weight) == len(data.rows.feature_names) and data.least_squares() is solved
    data = trained_by(data_module({**config.data, "val_fraction": 0.0, "test_fraction": 0.0, "batch_size": 49}))
    assert len(data.train_dataloader()) == 2
    assert not is_overridden("val_dataloader", data) and not is_overridden("test_dataloader", data)


def test_evaluation_splits_many_rows_into_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.EVALUATION_BATCH == 2**16
    monkeypatch.setattr(module, "EVALUATION_BATCH", 3)
    rows = ("data.num_samples=20", "data.num_features=1", "data.val_fraction=0.35", "data.test_fraction=0.25")
    data = trained_by(data_module(config_of(*rows).data))
    assert [len(y) for _, y in data.val_dataloader()] == [3, 3, 1]
    assert [len(y) for _, y in data.test_dataloader()] == [3, 2]
    (tmp_path / "rows.csv").write_text("y,x_1\n" + "".join(f"{i},{10 * i}\n" for i in range(4)))
    units = Standardization([10.0], [5.0], 1.0, 0.5)
    model: Any = SimpleNamespace(parameters=lambda: iter([torch.zeros(1, dtype=torch.float64)]), units=units)
    loader = data.file_dataloader(tmp_path / "rows.csv", model, {"features": ["x_1"], "target": "y"})
    found = [(x.tolist(), y.tolist()) for x, y in loader]
    assert found == [([[-2], [0], [2]], [-2, 0, 2]), ([[4]], [4])] and next(iter(loader))[0].dtype == torch.float64


def test_omitted_arguments_have_their_defaults() -> None:
    data = ListedData([[1.0]], [2.0], val_fraction=0.5, test_fraction=0.25, standardize=True, seed=3)
    assert (data.max_rows, data.batch_size, data.shuffle, data.bias) == (None, 32, True, True)
    assert (data.val_fraction, data.test_fraction, data.standardize, data.seed) == (0.5, 0.25, True, 3)


def test_the_checksum_covers_the_raw_rows_and_the_split() -> None:
    config = config_of("data=line", "data.val_fraction=0.5")
    parts = split(config.data, 4)
    content = b"[2, 2, 0]"
    for rows in (parts.train, parts.val):
        content += (
            np.array([[1.0], [2.0], [3.0], [4.0]])[rows].tobytes() + np.array([2.0, 4.0, 6.0, 8.0])[rows].tobytes()
        )
    for standardize in (True, False):
        data = data_module({**config.data, "standardize": standardize})
        assert data.checksum == crc32(content)
        assert data.state_dict() == {"checksum": crc32(content), "columns": ["x_1", "y"]}
        data.load_state_dict({"checksum": crc32(content)})
        data.load_state_dict({"checksum": crc32(content), "columns": ["x_1", "y"]})
        for other in ({"checksum": 1}, {"checksum": crc32(content), "columns": ["y", "x_1"]}):
            with pytest.raises(UserError) as raised:
                data.load_state_dict(other)
            said = "data must be the same as at the start of the run to resume it: its rows or columns have changed"
            assert str(raised.value) == said
        mean, scale = (data.standardization.y_mean, data.standardization.y_scale)
        assert (mean == 0 and scale == 1) != standardize


def test_the_module_keeps_the_column_names_and_drops_the_table() -> None:
    config = config_of("data=two_features")
    data = data_module(config.data)
    assert data.rows.feature_names == ("x_1", "x_2")
    for kept, shape in ((data.rows.inputs, (0, 2)), (data.rows.targets, (0,))):
        assert kept.shape == shape and kept.base is None
    without = data_module({**config.data, "standardize": True, "bias": False})
    assert without.standardization.x_mean == [0.0, 0.0] and without.standardization.y_mean == 0.0
    assert without.standardization.y_scale == pytest.approx(math.sqrt((3**2 + 7**2) / 2))


@pytest.mark.parametrize("spared", [False, True])
def test_least_squares_that_would_take_minutes_is_skipped_with_a_note(
    spared: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ("data.num_samples=30", "data.num_features=4", "data.val_fraction=0", "data.test_fraction=0")
    config = config_of(*rows, "batch=full")
    monkeypatch.setattr(module, "MOST_WORK", 30 * 4 * 4 + 20 * 4 * 4 * 4 - spared)
    data = data_module(config.data)
    with caplog.at_level(logging.INFO):
        assert (data.least_squares() is None) == (data.least_squares() is None) == spared
    said = "note: the least-squares solution of 30 rows and 4 features would take minutes and is not computed"
    assert [(r.levelname, r.message) for r in caplog.records] == ([("WARNING", said)] if spared else [])


@pytest.mark.parametrize(("operations", "spared"), [(1e12, False), (1.001e12, True)])
def test_least_squares_is_solved_up_to_1e12_operations(
    operations: float, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "work", lambda rows, features: operations)
    config = config_of("data=line")
    assert (data_module(config.data).least_squares() is None) == spared
