"""What keeps training steps from being taken without Lightning's hooks."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import DoublePrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy

from descent.callbacks.watcher import Watcher
from descent.data.batches import InMemoryBatches

WATCHED_HOOKS = {"on_before_optimizer_step", "on_train_batch_end"}  # of a Watcher, where it wants them
STEP_HOOKS = WATCHED_HOOKS | {"on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"}
TRANSFER_HOOKS = {"transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"}
MODULE_HOOKS = (STEP_HOOKS | TRANSFER_HOOKS) | {
    *("backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
    *("configure_gradient_clipping", "clip_gradients"),
}
EPOCH_HOOKS = {"on_train_epoch_start", "on_train_epoch_end"}


def obstacle(trainer: Trainer) -> str | None:
    """Why each step must go through Lightning's own loop; ``None``: nothing is against taking it without."""
    return _in_hooks(trainer) or _in_settings(trainer) or _in_batches(trainer)


def _in_hooks(trainer: Trainer) -> str | None:
    module, datamodule = trainer.lightning_module, getattr(trainer, "datamodule", None)
    for hook in _overridden(module, LightningModule, MODULE_HOOKS):
        return f"{type(module).__name__} overrides {hook}"
    for hook in _overridden(datamodule, LightningDataModule, TRANSFER_HOOKS) if datamodule else []:
        return f"{type(datamodule).__name__} overrides {hook}"
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    for callback in callbacks:
        hooks = STEP_HOOKS - WATCHED_HOOKS if isinstance(callback, Watcher) else STEP_HOOKS
        for hook in _overridden(callback, Callback, hooks):
            return f"the callback {type(callback).__name__} listens to each ({hook})"
    return None


def _in_settings(trainer: Trainer) -> str | None:
    if not trainer.lightning_module.automatic_optimization:
        return "the module optimizes by hand (automatic_optimization)"
    if not isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]  # set in its connector
        return "the profiler listens to each"
    if type(trainer.precision_plugin) not in (Precision, DoublePrecision):
        return f"precision {trainer.precision_plugin.precision} scales or casts in each"
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return "it trains on several devices"
    if trainer.accumulate_grad_batches != 1 or trainer.val_check_interval != 1.0:
        return "it accumulates gradients or validates within an epoch"
    if trainer.max_steps != -1:
        return "Trainer has a max_steps of its own, and not the callback MaxSteps"
    return None


def _in_batches(trainer: Trainer) -> str | None:
    batches = trainer.train_dataloader
    if not isinstance(batches, InMemoryBatches):
        return f"the batches come from a {type(batches).__name__}, not from InMemoryBatches"
    if trainer.num_training_batches != len(batches):
        return "it trains on a part of each epoch's batches"
    if batches.x.device != trainer.strategy.root_device:
        return "the batches are not on the device of training"
    if trainer.precision_plugin.convert_input(batches.x) is not batches.x:
        return "the batches are not in the precision of training"
    return None


def hears_of_epochs(trainer: Trainer) -> bool:
    """Whether something happens at the end of each epoch, or at its start."""
    module = trainer.lightning_module
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    heard = [hook for c in callbacks if not isinstance(c, Watcher) for hook in _overridden(c, Callback, EPOCH_HOOKS)]
    plateau = any(scheduler.reduce_on_plateau for scheduler in trainer.lr_scheduler_configs)
    return bool(heard or plateau or list(_overridden(module, LightningModule, EPOCH_HOOKS)))


def _overridden(thing: Any, base: type, hooks: Iterable[str]) -> Iterable[str]:
    """Which of ``hooks`` are not those of ``base``, be it by the class or on the object alone."""
    for hook in sorted(hooks):
        if getattr(getattr(thing, hook), "__func__", None) is not getattr(base, hook):
            yield hook
