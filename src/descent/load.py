"""A trained model from its checkpoint."""

from pathlib import Path
from typing import Any, Literal

import torch

from descent.checkpoint_io import read_checkpoint
from descent.errors import UserError
from descent.model import LinearRegression
from descent.result import read_result

CheckpointName = Literal["best", "last"]


def load_model(run_dir: Path, checkpoint: CheckpointName = "best") -> LinearRegression:
    """The model of a run, on the CPU and in the precision it was trained in.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it holds more than plain values and tensors.
    """
    loaded = read_checkpoint(run_dir / "checkpoints" / f"{checkpoint}.ckpt")
    precision = loaded["state_dict"]["linear.weight"].dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)  # so that means and scales are not rounded to less
    try:
        model = LinearRegression(**loaded["hyper_parameters"])
    finally:
        torch.set_default_dtype(before)
    model.load_state_dict(loaded["state_dict"])
    return model.eval()


def run_result(run_dir: Path) -> dict[str, Any]:
    """The result of a run that has begun to train.

    Raises:
        UserError: the directory is not one of a run, or the run failed before it knew its data.
    """
    if not (run_dir / "result.json").is_file():
        raise UserError(f"RUN_DIR must be the directory of a run that has ended, got {run_dir}")
    result = read_result(run_dir)
    if not result["features"]:
        raise UserError(f"{run_dir} must have trained; it has not: {result['reason']}")
    return result
