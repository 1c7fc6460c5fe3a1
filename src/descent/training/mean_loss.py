"""Logs a note when several processes train differently from one, because of the loss or batch normalisation."""

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from descent.training.collectives import largest
from descent.training.training_loss import evaluated_loss

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # relative to the loss; allows for single and half precision


def note_other_losses(pl_module: LightningModule, batch: Any, rows: int) -> None:
    """Logs what makes the gradient of several processes differ from that of one.

    All processes must call it, because ``training_step`` may communicate.

    Args:
        batch: this process's part of the first training batch.
        rows: the number of rows in it.
    """
    name = type(pl_module).__name__
    if any(isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm) for module in pl_module.modules()):
        log.warning(
            "note: batch normalisation in %s uses the statistics of each process's rows, so several processes train"
            " differently from one; on GPUs, trainer.sync_batchnorm=true uses those of the whole batch",
            name,
        )
    has_parts = -largest(-rows)[0] > 1  # on every process
    found = _whole_and_parts(pl_module, batch, rows) if pl_module.automatic_optimization and has_parts else None
    if found is not None and abs(found[0] - found[1]) > TOLERANCE * max(map(abs, found)):
        log.warning(
            "note: several processes train %s differently from one, because its loss is not the mean over the rows"
            " of a batch: it is %g, and the mean of its parts, weighted by rows, is %g",
            *(name, *found),
        )


def _whole_and_parts(pl_module: LightningModule, batch: Any, rows: int) -> tuple[float, float] | None:
    """The loss of a batch, and the row-weighted mean of the losses of its first row and the rest; ``None``: random."""

    def loss(part: slice, seed: int = 0) -> float:
        def cut(tensor: Tensor) -> Tensor:
            return tensor[part] if tensor.ndim and len(tensor) == rows else tensor

        with isolate_rng(), torch.no_grad():
            torch.manual_seed(seed)
            return evaluated_loss(pl_module, apply_to_collection(batch, Tensor, cut)).item()

    # all of them first, since the processes may find different values
    whole, again, first, rest = loss(slice(None)), loss(slice(None), seed=1), loss(slice(1)), loss(slice(1, None))
    return (whole, (first + (rows - 1) * rest) / rows) if whole == again else None
