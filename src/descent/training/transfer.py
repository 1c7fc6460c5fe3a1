"""Batches as the Trainer hands them to a step, for steps that are taken without it."""

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden


def transferred(batch: Any, precision: Precision, pl_module: LightningModule, data: LightningDataModule | None) -> Any:
    """In the precision of the Trainer, on the module's device, and through the hooks of the transfer.

    As in Lightning the hooks are those of the data module where it has its own, else the module's.
    """

    def call(hook: str, *arguments: Any) -> Any:
        owner = data if data is not None and is_overridden(hook, data) else pl_module
        return getattr(owner, hook)(*arguments, 0)  # of the first and only loader

    batch = call("on_before_batch_transfer", precision.convert_input(batch))
    batch = call("transfer_batch_to_device", batch, pl_module.device)
    return call("on_after_batch_transfer", batch)
