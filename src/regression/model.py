"""Linear regression as a LightningModule."""

import math
from dataclasses import asdict
from typing import Annotated, Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from descent.config.types import Number, OrNull, PositiveInteger
from descent.errors import invalid
from descent.training.build import build_optimizer, build_scheduler
from regression.data.standardization import Standardization, scale_about


class LinearRegression(LightningModule):
    """``y = w x + b``, trained on the mean squared error.

    Training runs in the units of the standardised data; metrics, predictions and ``own_units`` are in the
    data's own. Every argument is a plain value, so that ``load_from_checkpoint(path)`` needs nothing else.

    Args:
        optimizer: ``{"_target_": "torch.optim.SGD", "lr": 0.05}``, with any further argument of the class.
        scheduler: the same for a class of ``torch.optim.lr_scheduler``, with Lightning's ``interval``,
            ``frequency`` and ``monitor``; ``None`` or empty: the learning rate stays as it is.
        bias: whether there is a b.
        init_weight: the initial value of every weight; ``None``: torch's default, random.
        init_bias: the same for b.
        num_features: d; ``None``: this and what follows are taken from the ``RegressionData`` that it trains on.
        standardization: the fields of ``Standardization``; ``None``: the data were left as they are.
        target_center: mean of the training targets in the units of training; metrics are computed about it.
        target_scale: their standard deviation; 1 where all are the same.

    Attributes:
        loss_unit: what a training loss is multiplied by to be in the data's own units.
    """

    def __init__(
        self,
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None = None,
        bias: bool = True,
        init_weight: Annotated[Number | None, OrNull("torch's default initialisation")] = None,
        init_bias: Annotated[Number | None, OrNull("torch's default initialisation")] = None,
        num_features: PositiveInteger | None = None,
        standardization: dict[str, Any] | None = None,
        target_center: float = 0.0,
        target_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not bias and init_bias is not None:
            raise invalid("model.init_bias", "null when model.bias is false", init_bias)
        self.save_hyperparameters(logger=False)
        # Of targets with mean 0 and deviation 1: torchmetrics' R2 loses all digits of targets far from 0 or tiny.
        metrics = MetricCollection({"loss": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()})
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        if num_features is not None:
            self._build(num_features)

    def configure_model(self) -> None:
        """Takes from the data what the config cannot know: features, units, and the size of the targets."""
        if hasattr(self, "linear"):
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
        center = float(data.train.y.mean())
        self.hparams.update(
            num_features=len(data.rows.feature_names),
            standardization=asdict(data.standardization),
            target_center=center,
            target_scale=scale_about(data.train.y, center),
        )
        self._build(self.hparams["num_features"])

    def _build(self, num_features: int) -> None:
        given = self.hparams
        self.linear = nn.Linear(num_features, 1, bias=given["bias"])
        if given["init_weight"] is not None:
            nn.init.constant_(self.linear.weight, given["init_weight"])
        if given["init_bias"] is not None:
            nn.init.constant_(self.linear.bias, given["init_bias"])
        fields = given["standardization"]
        self.units = Standardization(**fields) if fields else Standardization.identity(num_features)
        if len(self.units.x_mean) != num_features:
            raise ValueError(f"its standardization must have a mean and a scale for each of {num_features} features")
        if not (math.isfinite(given["target_center"]) and 0 < given["target_scale"] < math.inf):
            raise ValueError("its target_center must be a finite number, and its target_scale one greater than 0")
        self.loss_unit = self.units.loss_unit

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (batch,) for inputs (batch, d), both in the units of training."""
        prediction: Tensor = self.linear(x).squeeze(-1)
        return prediction

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (batch, d), (batch,)
        return mse_loss(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.update(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.compute(self.val_metrics))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.update(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.compute(self.test_metrics))

    def predict_step(self, batch: Tensor, batch_idx: int = 0) -> Tensor:
        """Predictions (batch,) for inputs (batch, d), both in the data's own units and in the precision of ``batch``.

        Means and scales are taken off and put on in that precision, whatever the model's own.
        """
        x = (batch - batch.new_tensor(self.units.x_mean)) / batch.new_tensor(self.units.x_scale)
        y: Tensor = self(x.to(self.linear.weight)).to(batch)
        return y * self.units.y_scale + self.units.y_mean

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.hparams["optimizer"], self.parameters())
        if not self.hparams["scheduler"]:
            return optimizer
        scheduler = build_scheduler(self.hparams["scheduler"], optimizer, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def update(self, metrics: MetricCollection, batch: tuple[Tensor, ...]) -> None:
        """Adds a batch, in the units of training, to ``metrics``."""
        x, y = batch
        center, scale = self.hparams["target_center"], self.hparams["target_scale"]
        metrics.update((self(x) - center) / scale, (y - center) / scale)

    def compute(self, metrics: MetricCollection) -> dict[str, Tensor]:
        """The values of ``metrics`` in the data's own units; begins them anew."""
        values: dict[str, Tensor] = metrics.compute()
        metrics.reset()
        unit = self.hparams["target_scale"] * self.units.y_scale
        powers = {"loss": 2, "mae": 1, "r2": 0}
        return {name: value * unit ** powers[name.split("/")[1]] for name, value in values.items()}

    def own_units(self) -> tuple[list[float], float | None]:
        """The weights ``[w_1, ..., w_d]`` and the bias, or ``None``, in the data's own units."""
        weight: list[float] = self.linear.weight.detach()[0].tolist()
        bias = self.linear.bias.item() if self.hparams["bias"] else None
        return self.units.own_units(weight, bias)
