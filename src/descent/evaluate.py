"""Metrics of a finished run, on its own test rows or on others."""

import json
from pathlib import Path

import torch

from descent.data.batches import InMemoryBatches
from descent.data.module import EVALUATION_BATCH, RegressionData
from descent.data.table import read_table
from descent.errors import UserError
from descent.files import write_atomically
from descent.load import CheckpointName, load_model
from descent.result import run_result
from descent.resume import load_saved, to_config


def evaluate(run_dir: Path, checkpoint: CheckpointName = "best", data: Path | None = None) -> dict[str, float]:
    """Mean squared error, mean absolute error and R2, in the data's own units; kept in ``evaluation.json``.

    Args:
        run_dir: of a finished run.
        checkpoint: which of its two.
        data: a CSV or Parquet file with the run's columns; ``None``: the run's own test rows.

    Returns:
        ``{"test/loss": .., "test/mae": .., "test/r2": ..}``

    Raises:
        UserError: there is no such run or checkpoint, there are fewer than two rows, or the table cannot be read.
    """
    result = run_result(run_dir)
    model = load_model(run_dir, checkpoint)
    if data is None:
        config = to_config(load_saved(run_dir), run_dir)
        own = RegressionData(config.data, config.batch, config.seed, config.model.bias)
        if len(own.test) == 0:
            raise UserError(f"{run_dir} has no test rows (data.test_fraction=0): --data FILE names others")
        x, y = own.test.x, own.test.y
    else:
        inputs, targets, _ = read_table(str(data), result["target"], result["features"])
        if len(targets) < 2:
            raise UserError(f"--data must be a file with at least 2 rows, got {len(targets)} in {data}")
        x, y = model.units.inputs(inputs), model.units.targets(targets)
    like = model.linear.weight
    metrics = model.test_metrics.to(like.device)
    with torch.no_grad():
        for batch in InMemoryBatches(torch.from_numpy(x).to(like), torch.from_numpy(y).to(like), EVALUATION_BATCH):
            model.update(metrics, batch)
    values: dict[str, float] = {name: value.item() for name, value in model.compute(metrics).items()}
    kept = {"checkpoint": checkpoint, "data": str(data) if data else "test", "rows": len(y), "metrics": values}
    write_atomically(run_dir / "evaluation.json", f"{json.dumps(kept, indent=2)}\n".encode())
    return values
