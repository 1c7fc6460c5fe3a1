"""Finds out why training steps need Lightning's own loop, if they do."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import DoublePrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from descent.batches.in_memory import InMemoryBatches
from descent.batches.streamed import StreamedBatches
from descent.training.sparse_callback import SparseCallback, callbacks_of

SPARSE_HOOKS = {"on_before_optimizer_step", "on_train_batch_end"}  # a SparseCallback gets these at the steps it needs
STEP_HOOKS = SPARSE_HOOKS | {"on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"}
TRANSFER_HOOKS = {"transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"}
MODULE_HOOKS = (STEP_HOOKS | TRANSFER_HOOKS) | {
    *("backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
    *("configure_gradient_clipping", "clip_gradients"),
}
EPOCH_HOOKS = {"on_train_epoch_start", "on_train_epoch_end"}
OWN_BATCHES = InMemoryBatches, StreamedBatches
OTHER_BATCHES = "the batches come from"


def unsupported(trainer: Trainer) -> str | None:
    """Why every step must go through Lightning's own loop; ``None`` if it need not."""
    if trainer.world_size > 1:
        return "several processes train the model"
    if not trainer.lightning_module.automatic_optimization:
        return "the module uses manual optimization"
    return _in_hooks(trainer) or _in_settings(trainer) or _in_batches(trainer)


def _in_hooks(trainer: Trainer) -> str | None:
    module, datamodule = trainer.lightning_module, getattr(trainer, "datamodule", None)
    for hook in _overridden(module, LightningModule, MODULE_HOOKS):
        return f"{type(module).__name__} overrides {hook}"
    for hook in _overridden(datamodule, LightningDataModule, TRANSFER_HOOKS) if datamodule else []:
        return f"{type(datamodule).__name__} overrides {hook}"
    for callback in callbacks_of(trainer, Callback):
        hooks = STEP_HOOKS - SPARSE_HOOKS if isinstance(callback, SparseCallback) else STEP_HOOKS
        for hook in _overridden(callback, Callback, hooks):
            return f"the callback {type(callback).__name__} listens to every step ({hook})"
    return None


def _in_settings(trainer: Trainer) -> str | None:
    module, fit_loop = trainer.lightning_module, trainer.fit_loop
    if not is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2):
        return "training_step does not take (batch, batch_idx)"
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return "training_step takes a dataloader_iter"
    if not isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]  # set in its connector
        return "the profiler listens to every step"
    if type(trainer.precision_plugin) not in (Precision, DoublePrecision):
        return f"precision {trainer.precision_plugin.precision} scales or casts in every step"
    if type(trainer.strategy) is not SingleDeviceStrategy:
        return "the strategy is not SingleDeviceStrategy"
    if trainer.accumulate_grad_batches != 1:
        return "gradients are accumulated"
    if fit_loop._skip_backward:
        return "a callback skips backward passes"
    if trainer.max_steps != -1:
        return "Trainer has max_steps instead of the callback MaxSteps"
    if fit_loop.min_steps or (fit_loop.min_epochs or 0) > 1:
        return "Trainer has min_steps or min_epochs"
    if any(s.reduce_on_plateau and s.interval == "step" for s in trainer.lr_scheduler_configs):
        return "a scheduler monitors a metric at every step"
    return None


def _in_batches(trainer: Trainer) -> str | None:
    batches: Any = trainer.train_dataloader
    if type(batches) not in OWN_BATCHES:
        given = getattr(batches, "loader", batches)  # the project's own loader, if it is wrapped
        return f"{OTHER_BATCHES} {type(given).__name__}, not InMemoryBatches or StreamedBatches"
    if trainer.num_training_batches != len(batches):
        return "training uses only part of each epoch's batches"
    if trainer.val_check_batch != len(batches) or getattr(trainer, "_val_check_time_interval", None):
        return "validation runs within an epoch"
    if getattr(trainer, "reload_dataloaders_every_n_epochs", 0):
        return "the batches are reloaded"
    for rows in batches.tensors:
        if rows.device != trainer.strategy.root_device:
            return "the batches are not on the training device"
        if trainer.precision_plugin.convert_input(rows) is not rows:
            return "the batches are not in the training precision"
    return None


def has_epoch_hooks(trainer: Trainer) -> bool:
    """Whether something listens to the start or the end of every epoch."""
    others = (callback for callback in callbacks_of(trainer, Callback) if not isinstance(callback, SparseCallback))
    heard = any(overrides_epoch_hooks(callback) for callback in others)
    plateau = any(scheduler.reduce_on_plateau for scheduler in trainer.lr_scheduler_configs)
    return heard or plateau or bool(list(_overridden(trainer.lightning_module, LightningModule, EPOCH_HOOKS)))


def overrides_epoch_hooks(callback: Callback) -> bool:
    return bool(list(_overridden(callback, Callback, EPOCH_HOOKS)))


def _overridden(thing: Any, base: type, hooks: Iterable[str]) -> Iterable[str]:
    """Those of ``hooks`` that differ from ``base``'s, by the class or on the instance."""
    for hook in sorted(hooks):
        if getattr(getattr(thing, hook), "__func__", None) is not getattr(base, hook):
            yield hook
