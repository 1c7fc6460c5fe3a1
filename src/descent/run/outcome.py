"""What is to be said of a run: its result, from the trained model and the data."""

import logging
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from torch.nn.functional import mse_loss

from descent.config.hparams import flat_hparams
from descent.config.identity import config_digest
from descent.config.schema import Config
from descent.run.result import Result
from descent.training.budget import Budget, gradient_evaluations
from descent.training.checkpoints import Checkpoints
from descent.training.divergence import Divergence
from descent.training.logger import RunLogger
from regression.callbacks.converged import Converged
from regression.callbacks.to_optimum import ToOptimum
from regression.data.module import RegressionData
from regression.model import LinearRegression

log = logging.getLogger(__name__)


def new_result(config: Config, data: RegressionData, command: str) -> Result:
    """What is known of the outcome before training."""
    rows = data.rows
    true = None if rows.true_weight is None else {"weight": list(rows.true_weight), "bias": rows.true_bias}
    return Result(
        status="completed",
        seed=config.seed,
        command=command,
        features=list(rows.feature_names),
        target=rows.target_name,
        checksum=data.checksum,
        rows={"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        config_digest=config_digest(config),
        hparams=flat_hparams(config),
        optimum=_optimum(data),
        true_parameters=true,
    )


def describe(result: Result, trainer: Trainer, model: LinearRegression, data: RegressionData) -> None:
    """What is known after it."""
    weight, bias = model.own_units()
    result.parameters = {"weight": weight, "bias": bias}
    result.stopped = _why_stopped(trainer)
    for checkpoints in (c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints)):
        result.seconds += checkpoints.seconds_before
        result.best = {"step": checkpoints.best_step, "monitor": checkpoints.monitor, "value": checkpoints.best_value}
    _count(result, trainer, data)
    result.metrics = _measure(model, data)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set in Trainer's connector
        if isinstance(callback, ToOptimum):
            result.metrics |= callback.points(trainer, model, None)


def _optimum(data: RegressionData) -> dict[str, Any] | None:
    """The least-squares solution in the data's own units; curvature and learning rates in those of training."""
    found = data.optimum
    if found is None:
        return None
    if not found.unique:
        log.warning(
            "note: the least-squares solution is not unique; the one nearest to 0 in the units of training is reported"
        )
    weight, bias = data.standardization.own_units(found.weight, found.bias)
    own: dict[str, Any] = {"loss": found.loss * data.standardization.loss_unit, "weight": weight, "bias": bias}
    if len(weight) + (bias is not None) == 2:  # for the contours of the loss
        inputs = data.standardization.own_inputs(data.train.x)
        a = inputs if bias is None else np.column_stack([inputs, np.ones(len(inputs))])
        own["hessian"] = (2 * a.T @ a / len(a)).tolist()
    return asdict(found) | own


def predict(model: LinearRegression, inputs: list[list[float]]) -> list[float]:
    predictions: list[float] = model.predict_rows(np.array(inputs)).tolist() if inputs else []
    return predictions


@torch.no_grad()
def _measure(model: LinearRegression, data: RegressionData) -> dict[str, float]:
    """``train/loss`` and ``val/*`` at the model's weights, whenever the last validation was."""
    rows = data.train_dataloader()
    loss = mse_loss(model(rows.x), rows.y).item() * model.units.loss_unit
    for batch in data.val_dataloader():
        model.update(model.val_metrics, batch)
    values = model.compute(model.val_metrics) if len(data.val) else {}
    return {"train/loss": loss} | {name: value.item() for name, value in values.items()}


def loss_limit(trainer: Trainer) -> float:
    """Above which a training loss means that the run has diverged, in the data's own units."""
    (divergence,) = (c for c in trainer.callbacks if isinstance(c, Divergence))  # type: ignore[attr-defined]
    assert isinstance(trainer.model, LinearRegression)
    return min(divergence.limit * trainer.model.units.loss_unit, sys.float_info.max)


def _why_stopped(trainer: Trainer) -> str | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set in Trainer's connector
        if isinstance(callback, Converged | Budget) and callback.reason:
            return callback.reason
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            return f"{callback.monitor} has not improved for {callback.patience} validations"
    return None


def _count(result: Result, trainer: Trainer, data: RegressionData) -> None:
    steps, rows, size = trainer.global_step, len(data.train), data.batch.size or len(data.train)
    passes, rest = divmod(steps, data.batches_per_epoch)
    result.steps, result.epochs = steps, passes
    result.samples = passes * rows + rest * size
    result.gradient_evaluations = gradient_evaluations(trainer)


def log_final(logger: Logger | None, result: Result) -> None:
    """The points of ``test/*``, and the HParams tab: the settings beside the final metrics, under tags of their own."""
    shown = {k: v for k, v in result.hparams.items() if v is not None and not k.startswith(("stopping.", "trainer."))}
    for key in ("trainer.max_epochs", "trainer.precision"):
        shown[key] = result.hparams[key]
    if isinstance(logger, RunLogger):
        tested = {name: value for name, value in result.metrics.items() if name.startswith("test/")}
        logger.log_metrics(tested, result.steps)
        final = {f"hp/{name.replace('/', '_')}": value for name, value in result.metrics.items()}
        logger.log_hyperparams(shown, final, step=result.steps)
