"""Metrics of a finished run, on its own test rows or on others."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from descent.batches.in_memory import InMemoryBatches
from descent.config.schema import TableData
from descent.errors import UserError, must
from descent.run.files import write_atomically
from descent.run.load import CheckpointName, checkpoint_path, load_model
from descent.run.result import run_result
from descent.run.resume import load_saved, to_config
from regression.data.module import EVALUATION_BATCH, Part, RegressionData
from regression.data.table import read_columns
from regression.model import LinearRegression


def evaluate(run_dir: Path, checkpoint: CheckpointName = "best", data: Path | None = None) -> dict[str, float]:
    """Mean squared error, mean absolute error and R2, in the data's own units; kept in ``evaluation.json``.

    Args:
        run_dir: of a finished run.
        checkpoint: which of its two.
        data: a CSV or Parquet file with the run's columns; ``None``: the run's own test rows.

    Returns:
        ``{"test/loss": .., "test/mae": .., "test/r2": ..}``

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint is damaged or of another run, there are fewer
            than two rows, the table cannot be read, the run's data have changed, or a metric is not finite.
    """
    result = run_result(run_dir)
    model = load_model(run_dir, checkpoint)
    rows = _own_rows(run_dir, result) if data is None else _other_rows(data, result, model)
    like = model.linear.weight
    metrics = model.test_metrics.to(like.device)
    with torch.no_grad():
        x, y = torch.from_numpy(rows.x).to(like), torch.from_numpy(rows.y).to(like)
        for batch in InMemoryBatches(x, y, EVALUATION_BATCH):
            model.update(metrics, batch)
    values: dict[str, float] = {name: value.item() for name, value in model.compute(metrics).items()}
    for name, value in values.items():
        if not math.isfinite(value):
            where = data or "the test rows"
            raise must(f"{name} of {where} with {checkpoint_path(run_dir, checkpoint)}", "a finite number", value)
    kept = {"checkpoint": checkpoint, "data": str(data) if data else "test", "rows": len(rows), "metrics": values}
    write_atomically(run_dir / "evaluation.json", f"{json.dumps(kept, indent=2)}\n".encode())
    return values


def _own_rows(run_dir: Path, result: dict[str, Any]) -> Part:
    config = to_config(load_saved(run_dir), run_dir)
    own = RegressionData(config.data, config.batch, config.seed, config.model.bias)
    same = own.checksum == result.get("checksum") and [*own.rows.feature_names] == result["features"]
    if not same:  # another number of rows would draw training rows for the test
        name = config.data.path if isinstance(config.data, TableData) else f"data={config.data.source}"
        raise UserError(
            f"{name} must have the rows that {run_dir} was trained on: its rows, split or columns have changed"
        )
    if len(own.test) == 0:
        raise UserError(f"{run_dir} has no test rows (data.test_fraction=0): --data FILE names others")
    return own.test


def _other_rows(path: Path, result: dict[str, Any], model: LinearRegression) -> Part:
    table = read_columns(path, "--data", [*result["features"], result["target"]])
    if len(table) < 2:
        raise UserError(f"--data must be a file with at least 2 rows, got {len(table)} in {path}")
    with np.errstate(all="ignore"):  # a metric that is not finite is an error of its own
        return Part(model.units.inputs(table[:, :-1]), model.units.targets(table[:, -1]))
