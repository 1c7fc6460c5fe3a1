"""Defines the base class of the models: units, loss, metrics, predictions, optimizer."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score

from descent.config.types import PositiveInteger
from descent.training.build import build_optimizer, build_scheduler
from regression.data.standardization import Standardization

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": mse_loss, "mae": l1_loss, "huber": huber_loss}
POWERS = {"mse": 2, "mae": 1, "huber": 2}  # the power of the target's unit in each loss


class RegressionModel(LightningModule):
    """A model with one target. Subclasses define ``make_layers`` and ``forward``.

    Training uses the units of the standardised data; metrics and predictions are in the data's own units. Every
    argument is a plain value, so ``load_from_checkpoint(path)`` needs nothing else.

    Args:
        optimizer: ``{"_target_": "torch.optim.SGD", "lr": 0.05}``, with any other arguments of the class.
        scheduler: the same for a class of ``torch.optim.lr_scheduler``, with Lightning's ``interval``,
            ``frequency`` and ``monitor``; ``None`` or empty: the learning rate is constant.
        loss: the mean over the rows of ``e^2`` (mse), ``|e|`` (mae), or ``e^2 / 2`` where ``|e| <= 1`` and
            ``|e| - 1/2`` elsewhere (huber), of the error e in training units. ``train/loss`` and ``val/loss`` are those
            of the error E in the data's own units; huber's: ``E^2 / 2`` and ``s (|E| - s / 2)``, s the target's scale.
        bias: whether the model has a bias.
        num_features: d; ``None``: this and the arguments below are taken from the ``RegressionData`` in training.
        standardization: the fields of ``Standardization``; ``None``: the data are not standardised.
        target_center: the mean of the training targets in training units; metrics are computed about it.
        target_scale: their standard deviation; 1 if all are equal.

    Attributes:
        metric_quantities: what the metric ``loss`` measures; a sweep refuses to choose by a metric that differs.
        loss_unit: the factor that converts a training loss to the data's own units.
    """

    def __init__(
        self,
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None = None,
        loss: Literal["mse", "mae", "huber"] = "mse",
        bias: bool = True,
        num_features: PositiveInteger | None = None,
        standardization: dict[str, Any] | None = None,
        target_center: float = 0.0,
        target_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.loss, self.metric_quantities = LOSSES[loss], {"loss": loss}
        if num_features is not None:
            self._make(num_features)

    def make_layers(self, num_features: int) -> None:
        """Creates the layers for inputs (batch, d)."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Takes the number of features, the units, and the centre and scale of the targets from the data."""
        if hasattr(self, "units"):
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
        center, scale = data.train.target_spread()
        self.hparams.update(
            num_features=len(data.rows.feature_names),
            standardization=asdict(data.standardization),
            target_center=center,
            target_scale=scale,
        )
        self._make(self.hparams["num_features"])

    def _make(self, num_features: int) -> None:
        given = self.hparams
        self.make_layers(num_features)
        fields = given["standardization"]
        self.units = Standardization(**fields) if fields else Standardization.identity(num_features)
        if len(self.units.x_mean) != num_features:
            raise ValueError(f"its standardization must have a mean and a scale for each of {num_features} features")
        if not (math.isfinite(given["target_center"]) and 0 < given["target_scale"] < math.inf):
            raise ValueError("its target_center must be a finite number, and its target_scale one greater than 0")
        self.loss_unit = self.units.y_scale ** POWERS[given["loss"]]
        # For targets with mean 0 and deviation 1: torchmetrics' R2 loses all digits if targets are tiny or far from 0.
        losses = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "huber": Huber(1 / given["target_scale"])}
        metrics = MetricCollection({"loss": losses[given["loss"]], "mae": MeanAbsoluteError(), "r2": R2Score()})
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (batch, d), (batch,)
        return self.loss(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.update(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.compute(self.val_metrics))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.update(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.compute(self.test_metrics))

    def predict_step(self, batch: Tensor, batch_idx: int = 0) -> Tensor:
        """Predictions (batch,) for inputs (batch, d), both in the data's own units and the precision of ``batch``.

        Standardisation is computed in that precision, whatever the model's own.
        """
        x = (batch - batch.new_tensor(self.units.x_mean)) / batch.new_tensor(self.units.x_scale)
        y: Tensor = self(x.to(next(self.parameters()))).to(batch)
        return y * self.units.y_scale + self.units.y_mean

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.hparams["optimizer"], self.parameters())
        if not self.hparams["scheduler"]:
            return optimizer
        scheduler = build_scheduler(self.hparams["scheduler"], optimizer, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def update(self, metrics: MetricCollection, batch: tuple[Tensor, ...]) -> None:
        """Adds a batch in training units to ``metrics``."""
        x, y = batch
        center, scale = self.hparams["target_center"], self.hparams["target_scale"]
        metrics.update((self(x) - center) / scale, (y - center) / scale)

    def compute(self, metrics: MetricCollection) -> dict[str, Tensor]:
        """Returns the values of ``metrics`` in the data's own units and resets them."""
        values: dict[str, Tensor] = metrics.compute()
        metrics.reset()
        unit = self.hparams["target_scale"] * self.units.y_scale
        powers = {"loss": POWERS[self.hparams["loss"]], "mae": 1, "r2": 0}
        return {name: value * unit ** powers[name.split("/")[1]] for name, value in values.items()}


class Huber(Metric):
    """The mean Huber loss, which torchmetrics does not have."""

    sum: Tensor
    rows: Tensor

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta
        for state in ("sum", "rows"):
            self.add_state(state, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.sum = self.sum + huber_loss(prediction, target, reduction="sum", delta=self.delta)
        self.rows = self.rows + len(target)

    def compute(self) -> Tensor:
        return self.sum / self.rows
