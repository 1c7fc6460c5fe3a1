"""Compares the model's defaults, steps and metrics with values computed by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule

from descent.errors import UserError
from regression.callbacks.getters import data_of, model_of
from regression.data.sources import ListedData
from regression.model import LinearRegression

SGD = {"_target_": "torch.optim.SGD", "lr": 0.5}
UNITS = {"x_mean": [1.0, 2.0], "x_scale": [2.0, 4.0], "y_mean": 10.0, "y_scale": 5.0}


def by_hand(**options: Any) -> LinearRegression:
    """Predicts 10 + 5 ((x_1 - 1) / 2 + 2 (x_2 - 2) / 4 + 0.5) = 2.5 x_1 + 2.5 x_2 + 5 in the data's own units."""
    model = LinearRegression(SGD, num_features=2, standardization=UNITS, init_bias=0.5, **options)
    torch.nn.init.constant_(model.linear.weight[0, 0], 1.0)
    torch.nn.init.constant_(model.linear.weight[0, 1], 2.0)
    return model


def test_by_default_the_model_is_torchs_linear_layer() -> None:
    torch.manual_seed(1)
    layer = torch.nn.Linear(3, 1)
    torch.manual_seed(1)
    model = LinearRegression(SGD, num_features=3)
    assert torch.equal(model.linear.weight, layer.weight) and torch.equal(model.linear.bias, layer.bias)
    assert dict(model.hparams) == {
        **{"num_features": 3, "optimizer": SGD, "bias": True, "init_weight": None, "init_bias": None},
        **{"scheduler": None, "loss": "mse", "standardization": None, "target_center": 0.0, "target_scale": 1.0},
    }
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]])
    assert torch.equal(model(x), layer(x)[:, 0]) and torch.equal(model.predict_step(x), layer(x)[:, 0])
    assert set(model.state_dict()) == {"linear.weight", "linear.bias"}


def test_init_weight_and_init_bias_set_the_initial_values() -> None:
    model = LinearRegression(SGD, num_features=2, init_weight=0.25, init_bias=-3.0)
    assert (model.linear.weight.tolist(), model.linear.bias.tolist()) == ([[0.25, 0.25]], [-3.0])
    model = LinearRegression(SGD, num_features=2, init_weight=0.0, init_bias=0.0)
    assert model.own_units() == ([0.0, 0.0], 0.0)
    model = LinearRegression(SGD, num_features=2, bias=False, init_weight=1.5)
    assert model.linear.bias is None and model.own_units() == ([1.5, 1.5], None)
    assert LinearRegression(SGD, num_features=2, init_bias=0.0).linear.weight.abs().min() > 0


def test_predictions_are_in_the_datas_own_units() -> None:
    model, inputs = by_hand(), [[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]]
    assert model.own_units() == ([2.5, 2.5], 5.0)
    for precision in (torch.float32, torch.float64):
        found = model.predict_step(torch.tensor(inputs, dtype=precision))
        assert found.tolist() == [12.5, 27.5, 5.0] and found.dtype == precision
    assert model(torch.tensor([[0.0, 0.0], [1.0, -1.0]])).tolist() == [0.5, -0.5]  # in standardised units


def test_a_training_step_returns_the_loss_in_standardised_units() -> None:
    x, y = torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([2.5, -1.5])
    loss = by_hand(target_center=3.0, target_scale=7.0).training_step((x, y), 0)
    assert loss.item() == (2.0**2 + 1.0**2) / 2 and loss.requires_grad


@pytest.mark.parametrize("units", [{}, {"target_center": 1.0, "target_scale": 2.0}], ids=str)
def test_metrics_cover_all_batches_since_the_last_compute_in_the_datas_own_units(units: dict[str, float]) -> None:
    model = by_hand(**units)
    zero = torch.zeros(3, 2)  # the prediction is 0.5
    # errors 0, 1, 3, -2 with the target mean 1, then 1, -1 with the target mean 0.5; the target's scale is 5
    for targets, squares, sizes, total in (([0.5, 1.5, 3.5, -1.5], 14 / 4, 6 / 4, 13), ([1.5, -0.5], 1, 1, 2)):
        model.update(model.val_metrics, (zero[:1], torch.tensor(targets[:1])))
        model.update(model.val_metrics, (torch.zeros(len(targets) - 1, 2), torch.tensor(targets[1:])))
        found = {name: value.item() for name, value in model.compute(model.val_metrics).items()}
        expected = {"val/loss": squares * 25, "val/mae": sizes * 5, "val/r2": 1 - squares * len(targets) / total}
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    model.update(model.test_metrics, (zero, torch.tensor([1.5, 1.5, 4.5])))
    found = {name: value.item() for name, value in model.compute(model.test_metrics).items()}
    assert found == pytest.approx({"test/loss": 6 * 25, "test/mae": 2 * 5, "test/r2": 1 - 18 / 6}, rel=1e-6)


def test_without_a_scheduler_only_the_optimizer_is_returned() -> None:
    for scheduler in (None, {}):
        optimizer = LinearRegression(SGD, num_features=2, scheduler=scheduler).configure_optimizers()
        assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["lr"] == 0.5


def test_the_examples_callbacks_refuse_other_models_and_data() -> None:
    class Mine(LightningModule): ...

    class Theirs(LightningDataModule): ...

    with pytest.raises(UserError) as raised:
        model_of(Mine())
    cure = "; callbacks=none works with others, and in the defaults of conf/train.yaml it is for every run"
    assert str(raised.value) == f"callbacks=regression needs a RegressionModel, got Mine{cure}"
    trainer: Any = SimpleNamespace(datamodule=Theirs())
    with pytest.raises(UserError) as raised:
        data_of(trainer)
    assert str(raised.value) == f"callbacks=regression needs RegressionData, got Theirs{cure}"
    model, data = by_hand(), ListedData([[1.0]], [2.0], val_fraction=0, test_fraction=0, standardize=False, seed=0)
    assert (model_of(model), data_of(SimpleNamespace(datamodule=data))) == (model, data)  # type: ignore[arg-type]
