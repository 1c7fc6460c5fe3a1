"""What was learned: curves of the weights, their final values, and the data they are of."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import RenderableType

from descent.run.console import cell, table_of
from descent.training.callback import ResultCallback
from descent.training.step_metrics import StepMetrics
from regression.callbacks.of import data_of, model_of
from regression.data.rows import numbered

MAX_WEIGHTS = 20  # curves, and rows of the table; a table of a thousand columns would bury the rest


class Parameters(StepMetrics, ResultCallback):
    """Writes ``parameters/*`` in the data's own units, and adds what is known of model and data to ``result.json``.

    At x = k stand the weights after step k.
    """

    def __init__(self) -> None:
        self.path: list[list[float]] = []  # of two parameters, for the picture

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = data_of(trainer).rows.feature_names
        if names == numbered(len(names)):
            names = tuple(name.removeprefix("x_") for name in names)
        self.tags = [f"parameters/weight_{name}" for name in names[:MAX_WEIGHTS]]
        if trainer.global_step == 0:
            self.path.clear()
        super().on_train_start(trainer, pl_module)

    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        weight, bias = model_of(pl_module).own_units()
        if len(weight) + (bias is not None) == 2:
            self.path.append([*weight, *([] if bias is None else [bias])])
        points = dict(zip(self.tags, weight, strict=False))
        return points if bias is None else points | {"parameters/bias": bias}

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        data, rows = data_of(trainer), data_of(trainer).rows
        weight, bias = model_of(pl_module).own_units()
        true = None if rows.true_weight is None else {"weight": list(rows.true_weight), "bias": rows.true_bias}
        return {
            "parameters": {"weight": weight, "bias": bias},
            "true_parameters": true,
            "features": list(rows.feature_names),
            "target": rows.target_name,
            "rows": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        }

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        titles = {"learned": "parameters", "least squares": "optimum", "true": "true_parameters"}
        known = {title: result[key] for title, key in titles.items() if result.get(key) is not None}
        table = table_of("parameter", *known)
        for i, name in enumerate(result["features"][:MAX_WEIGHTS]):
            table.add_row(f"weight of {name}", *(cell(values["weight"][i]) for values in known.values()))
        left_out = len(result["features"]) - MAX_WEIGHTS
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
