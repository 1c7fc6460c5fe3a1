"""Predicts at chosen inputs before and after training."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import RenderableType

from descent.config.types import Rows
from descent.errors import invalid
from descent.run.console import cell, table_of
from descent.training.callback import ResultCallback
from regression.callbacks.getters import data_of, model_of
from regression.data.rows import LARGEST


class Predictions(ResultCallback):
    """Adds ``predictions`` to ``result.json``, in the data's own units.

    Args:
        inputs: rows of feature values.
    """

    in_sweeps = True

    def __init__(self, inputs: Rows) -> None:
        self.inputs = inputs
        self.before: list[float] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        features = len(data_of(trainer).rows.feature_names)
        for row in self.inputs:
            if len(row) != features:
                raise invalid("predict_at", f"rows of {features} numbers, one for each feature", row)
            if max(map(abs, row)) > LARGEST:
                raise invalid("predict_at", f"rows of numbers up to {LARGEST:g}", row)
        if self.before is None:
            self.before = self._predict(pl_module)

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        rows = zip(self.inputs, self.before or [], self._predict(pl_module), strict=True)
        return {"predictions": [{"input": row, "before": before, "after": after} for row, before, after in rows]}

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        if result["predictions"]:
            table = table_of("prediction at", "before training", "after")
            for entry in result["predictions"]:
                at = ", ".join(f"{value:g}" for value in entry["input"])
                table.add_row(at, cell(entry["before"]), cell(entry["after"]))
            yield table

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["before"]

    def _predict(self, pl_module: LightningModule) -> list[float]:
        if not self.inputs:
            return []
        inputs = torch.tensor(self.inputs, dtype=torch.float64)
        with torch.no_grad():
            found: list[float] = model_of(pl_module).predict_step(inputs).tolist()
        return found
