"""Tests the example's callbacks in resumed runs, in repeated fits, and without an optimum or full loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, config_of
from drawn import drawn, lines
from lightning.pytorch import LightningModule, Trainer
from loaders import quiet
from test_divergence import notes
from test_resume import SignalAt
from test_train import events

from descent.training import divergence
from descent.training.build import build
from descent.training.intervals import Intervals
from regression.callbacks.parameters import Parameters
from regression.data import module
from regression.data.module import RegressionData

START = ("data=line", "trainer=float64", "batch=full", "model.init_weight=0.5", "model.init_bias=1")  # y = 2 x
LINE = (*START, "optimizer.lr=0.02", "trainer.log_every_n_steps=1")


def path_by_hand(steps: int) -> list[Any]:
    """Returns weight and bias at the start and after each full-batch step."""
    a, y, p = np.c_[[1.0, 2, 3, 4], np.ones(4)], np.array([2.0, 4, 6, 8]), np.array([0.5, 1.0])
    path = [p]
    for _ in range(steps):
        p = p - 0.02 * 2 * a.T @ (a @ p - y) / 4
        path.append(p)
    return [pytest.approx(tuple(p), rel=1e-12) for p in path]


def test_a_resumed_run_keeps_the_path_and_the_first_predictions(run: Run, tmp_path: Path) -> None:
    options = *LINE, "trainer.max_epochs=4", "predict_at=[[10],[0]]", "figures=true"
    stopped = run(*options, callbacks=[SignalAt(2)], run_dir=tmp_path / "r")
    assert (stopped.status, stopped.steps) == ("interrupted", 2)
    with drawn() as figures:
        result = run(*options, run_dir=tmp_path / "r", resume=True)
    path = path_by_hand(4)
    way, _ = lines(figures[-1][0].axes[0])
    assert (way[0], way[4]) == ("this run", path)
    weight, bias = path[-1].expected
    assert result.predictions == [
        {"input": [10], "before": 6.0, "after": pytest.approx(10 * weight + bias)},
        {"input": [0], "before": 1.0, "after": pytest.approx(bias)},
    ]


def test_without_least_squares_everything_else_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WORK", 0)
    with drawn() as figures:
        result = run(*LINE, "trainer.max_epochs=2", "figures=true")
    assert (result.status, result.optimum, set(result.metrics)) == ("completed", None, {"train/loss"})
    said = "note: the least-squares solution of 4 rows and 1 features would take minutes and is not computed"
    assert notes(caplog) == [said]
    assert not [tag for tag in events(tmp_path / "0").Tags()["scalars"] if "optimum" in tag]
    assert {path.name for path in (tmp_path / "0/figures").iterdir()} == {"predicted.png", "fit.png"}
    assert [label for label, *_ in lines(figures[-1][0].axes[0])] == ["training rows", "learned"]
    failed = run(*LINE, "optimizer.lr=5", "trainer.max_epochs=99")
    assert failed.reason is not None and failed.reason.endswith(": try a lower optimizer.lr, or clip=norm")
    assert notes(caplog) == [said] * 2


def test_without_a_full_loss_the_first_loss_is_that_of_the_first_step(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the losses before the first two steps are 10.4 and 23.1; predicting 0 has a loss of 30
    options = *LINE, "optimizer.lr=0.15", "stopping.diverged_above=2", "trainer.max_epochs=2"
    assert run(*options).status == "completed"
    monkeypatch.setattr(divergence, "has_full_loss", lambda trainer: False)
    reason = run(*options).reason
    assert reason is not None and reason.startswith("the training loss before step 2 is over 2 times the first (23.1)")


@quiet
def test_a_second_fit_with_the_same_callback_starts_a_new_path() -> None:
    callback = Parameters()
    callback.intervals = Intervals(log_every=1, validate_every=None)
    for epochs in (3, 2):
        config = config_of(*LINE)
        data, model = build(config.data, "data", RegressionData), build(config.model, "model", LightningModule)
        quiet: Any = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        trainer = Trainer(max_epochs=epochs, callbacks=[callback], precision="64-true", accelerator="cpu", **quiet)
        trainer.fit(model, datamodule=data)
        assert [tuple(point) for point in callback.path] == path_by_hand(epochs)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_checkpoint_has_all_arguments_of_the_model(standardize: bool, run: Run, tmp_path: Path) -> None:
    x, y = [1.0, 2, 3, 6], [2.0, 4, 6, 12]
    rows = f"data.inputs={[[value] for value in x]}", f"data.targets={y}", f"data.standardize={standardize}"
    run(*LINE, *rows, "trainer.max_epochs=1")
    loaded = torch.load(tmp_path / "0/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    deviation = 3.5**0.5  # of x; y is twice x
    units: dict[str, Any] = {"x_mean": [3.0], "x_scale": [pytest.approx(deviation)], "y_mean": 6.0}
    units["y_scale"] = pytest.approx(2 * deviation)
    raw = {"x_mean": [0.0], "x_scale": [1.0], "y_mean": 0.0, "y_scale": 1.0}
    assert loaded == {
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02},
        **{"scheduler": {}, "loss": "mse", "bias": True, "init_weight": 0.5, "init_bias": 1, "num_features": 1},
        "standardization": units if standardize else raw,
        "target_center": pytest.approx(0.0 if standardize else 6.0, abs=1e-12),
        "target_scale": pytest.approx(1.0 if standardize else 2 * deviation),
    }
