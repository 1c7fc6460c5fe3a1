"""Whether shares of a batch, weighted by their rows, have the loss of the whole: where it is the mean over the rows."""

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from descent.training.training_loss import evaluated_loss

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of the loss; single precision and half


def note_other_losses(pl_module: LightningModule, batch: Any, rows: int) -> None:
    """Says what has the gradient of several processes be another than one process's.

    Args:
        batch: the first of training that this process has.
        rows: how many it has.
    """
    name = type(pl_module).__name__
    if any(isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm) for module in pl_module.modules()):
        log.warning(
            "note: batch normalisation in %s takes the means of each process's rows, so that a run of several is not"
            " that of one; trainer.sync_batchnorm=true takes those of the whole batch, on GPUs",
            name,
        )
    found = _whole_and_parts(pl_module, batch, rows) if pl_module.automatic_optimization and rows > 1 else None
    if found is not None and abs(found[0] - found[1]) > TOLERANCE * max(map(abs, found)):
        log.warning(
            "note: several processes train %s otherwise than one would, because its loss is not the mean over the rows"
            " of a batch: it is %g, and the mean of its parts by their rows %g",
            *(name, *found),
        )


def _whole_and_parts(pl_module: LightningModule, batch: Any, rows: int) -> tuple[float, float] | None:
    """The loss of a batch, and the mean of those of its first row and of the rest; ``None``: they are drawn."""

    def loss(part: slice, seed: int = 0) -> float:
        def cut(tensor: Tensor) -> Tensor:
            return tensor[part] if tensor.ndim and len(tensor) == rows else tensor

        with isolate_rng(), torch.no_grad():
            torch.manual_seed(seed)
            return evaluated_loss(pl_module, apply_to_collection(batch, Tensor, cut)).item()

    whole = loss(slice(None))
    if whole != loss(slice(None), seed=1):
        return None
    return whole, (loss(slice(1)) + (rows - 1) * loss(slice(1, None))) / rows
