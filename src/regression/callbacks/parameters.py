"""Logs the parameters, and reports their final values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import RenderableType

from descent.run.console import cell, table_of
from descent.training.callback import ResultCallback
from descent.training.step_metrics import StepMetrics
from regression.callbacks.getters import data_of, linear_of
from regression.data.rows import numbered
from regression.terms import names_of_powers

MAX_WEIGHTS = 20  # curves, and rows of the table: more would bury the rest


class Parameters(StepMetrics, ResultCallback):
    """Logs ``parameters/*`` in the data's own units, and adds parameters, features and row counts to ``result.json``.

    The value at x = k is the one after step k. A model that is not linear in its parameters logs none.
    """

    def __init__(self) -> None:
        self.path: list[list[float]] = []  # of two parameters, for the picture

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = data_of(trainer).rows.feature_names
        if names == numbered(len(names)):
            names = tuple(name.removeprefix("x_") for name in names)
        self.tags = [f"parameters/weight_{name}" for name in _terms(pl_module, names)[:MAX_WEIGHTS]]
        if trainer.global_step == 0:
            self.path.clear()
        super().on_train_start(trainer, pl_module)

    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        if (model := linear_of(pl_module)) is None:
            return {}
        weight, bias = model.own_units()
        if len(weight) + (bias is not None) == 2:
            self.path.append([*weight, *([] if bias is None else [bias])])
        points = dict(zip(self.tags, weight, strict=False))
        return points if bias is None else points | {"parameters/bias": bias}

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        model, data, rows = linear_of(pl_module), data_of(trainer), data_of(trainer).rows
        parameters, true = None, None
        if model is not None:
            parameters = dict(zip(("weight", "bias"), model.own_units(), strict=True))
            if rows.true_weight is not None:  # of a line: without higher powers
                weights = [w if k == 0 else 0.0 for w in rows.true_weight for k in range(model.degree)]
                true = {"weight": weights, "bias": rows.true_bias}
        return {
            "parameters": parameters,
            "true_parameters": true,
            "terms": _terms(pl_module, rows.feature_names),
            "features": list(rows.feature_names),
            "target": rows.target_name,
            "rows": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        }

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        titles = {"learned": "parameters", "least squares": "optimum", "true": "true_parameters"}
        known = {title: result[key] for title, key in titles.items() if result.get(key) is not None}
        if "learned" in known:
            table = table_of("parameter", *known)
            for i, name in enumerate(result["terms"][:MAX_WEIGHTS]):
                table.add_row(f"weight of {name}", *(cell(values["weight"][i]) for values in known.values()))
            left_out = len(result["terms"]) - MAX_WEIGHTS
            if left_out > 0:
                table.add_row(f"... and {left_out} more")
            if result["parameters"]["bias"] is not None:
                table.add_row("bias", *(cell(values["bias"]) for values in known.values()))
            yield table
        yield "rows: " + ", ".join(f"{name} {rows:,}" for name, rows in result["rows"].items() if rows)

    def state_dict(self) -> dict[str, Any]:
        return {"path": self.path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.path = state_dict["path"]


def _terms(pl_module: LightningModule, names: Sequence[str]) -> list[str]:
    """What each weight is of, in their order."""
    model = linear_of(pl_module)
    return [] if model is None else names_of_powers(names, model.degree)
