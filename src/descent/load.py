"""A trained model from its checkpoint."""

from pathlib import Path
from typing import Literal

import torch

from descent.checkpoint_io import read_checkpoint
from descent.model import LinearRegression

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
