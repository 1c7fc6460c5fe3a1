"""Transfers batches as the Trainer does, for code that runs without it."""

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def has_own_transfer(pl_module: LightningModule, data: LightningDataModule | None) -> bool:
    """Whether the module or the data module overrides a transfer hook, which may change a batch in place."""
    owners = [pl_module] if data is None else [pl_module, data]
    return any(is_overridden(hook, owner) for hook in HOOKS for owner in owners)


def transferred(batch: Any, precision: Precision, pl_module: LightningModule, data: LightningDataModule | None) -> Any:
    """Converts a batch to the Trainer's precision, moves it to the module's device and calls the transfer hooks.

    As in Lightning, a hook that the data module overrides replaces the module's.
    """

    def call(hook: str, *arguments: Any) -> Any:
        owner = data if data is not None and is_overridden(hook, data) else pl_module
        return getattr(owner, hook)(*arguments, 0)  # index of the first and only loader

    batch = call("on_before_batch_transfer", precision.convert_input(batch))
    batch = call("transfer_batch_to_device", batch, pl_module.device)
    return call("on_after_batch_transfer", batch)
