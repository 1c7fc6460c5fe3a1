"""Finds attributes that training changes but no checkpoint contains."""

import logging
from collections.abc import Container, Iterator
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from descent.batches.data_attributes import attributes, attributes_of_data, data_objects
from descent.batches.exact import parts
from descent.batches.fingerprint import is_of_library

log = logging.getLogger(__name__)

# attributes of Lightning's own classes
OF_MODULE, OF_DATA, OF_CALLBACK = {*vars(LightningModule())}, {*vars(LightningDataModule())}, {*vars(Callback())}
OF_METRIC = {*vars(MeanMetric())}
Owned = tuple[Any, str, dict[str, Any]]  # the object, what would save its attributes, and these by name


class UnsavedAttributes(Callback):
    """Logs a note on attributes that a resumed run loses, once each, at the first checkpoint after they change.

    It checks the attributes of the module, the callbacks, the data module and its datasets and samplers, if their
    class is the project's and saves no state in checkpoints: numbers, strings, tensors, arrays, generators, modules,
    metrics, optimizers, and containers and objects of these. In the module's metrics of torchmetrics, it checks those
    that ``add_state`` did not make. It cannot know whether they matter. ``MapStyleLoader`` checks the copies in
    DataLoader workers.
    """

    def __init__(self) -> None:
        self.before = dict[int, tuple[Any, dict[str, Any]]]()  # keeps the object, so that its id is not reused
        self.noted = set[tuple[int, str]]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = {id(owner): (owner, found) for owner, _, found in _owned(trainer, pl_module)}
        if trainer.num_training_batches == 1:
            return  # with one batch per epoch, runs resume only at the start of an epoch
        for hooks in (pl_module, *_callbacks(trainer)):
            kind = LightningModule if isinstance(hooks, LightningModule) else Callback
            if is_overridden("on_train_epoch_start", hooks, kind):
                log.warning(
                    "note: a run resumed within an epoch may differ, because on_train_epoch_start of %s is not called"
                    " again; use on_train_batch_start, or save what it changes in the checkpoint",
                    type(hooks).__name__,
                )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" not in checkpoint:
            return
        for owner, cure, now in _owned(trainer, pl_module):
            if id(owner) not in self.before:  # made after the start
                continue
            _, before = self.before[id(owner)]
            new = now.keys() - before.keys() if _is_complete_at_start(owner) else set[str]()
            new = {name for name in new if "." not in name}  # in layers, these are mostly caches
            changed = [name for name, value in now.items() if name in new or before.get(name, value) != value]
            if changed := [name for name in changed if (id(owner), name) not in self.noted]:
                self.noted |= {(id(owner), name) for name in changed}
                log.warning(
                    "note: a resumed run may differ, because training changes %s of %s, which no checkpoint contains;"
                    " save it with %s",
                    *(", ".join(changed), type(owner).__name__, cure),
                )


def _is_complete_at_start(owner: Any) -> bool:
    """Whether later attributes come from training; a module's ``on_train_start`` is called after all callbacks'."""
    if isinstance(owner, LightningModule):
        return not is_overridden("on_train_start", owner)
    return isinstance(owner, Callback)


def _owned(trainer: Trainer, pl_module: LightningModule) -> Iterator[Owned]:
    schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    schedulers += [part for whole in schedulers for part in getattr(whole, "_schedulers", ())]  # SequentialLR's
    tensors = *pl_module.parameters(), *pl_module.buffers()
    saved = {id(thing) for thing in (*pl_module.modules(), *tensors, *trainer.optimizers, *schedulers)}
    if not is_overridden("on_save_checkpoint", pl_module):
        cure = "a buffer, or on_save_checkpoint and on_load_checkpoint"
        yield pl_module, cure, dict(_of_module(pl_module, saved))
    for callback in _callbacks(trainer):
        saves = ("state_dict", "on_save_checkpoint")
        if not any(is_overridden(hook, callback, Callback) for hook in saves):
            yield callback, "its state_dict and load_state_dict", attributes(callback, OF_CALLBACK, saved=saved)
    data = trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
    if data is None or is_overridden("state_dict", data, LightningDataModule):
        return
    cure = "state_dict and load_state_dict of the data module"
    if not is_of_library(data):
        yield data, cure, attributes(data, OF_DATA, depth=0, saved=saved)
    loaders = [getattr(part, "loader", part) for part in parts(trainer.train_dataloader)]
    for found in data_objects(*loaders):
        if not hasattr(found, "set_epoch"):  # a resumed run calls it again
            yield found, cure, attributes_of_data(found, saved)


def _callbacks(trainer: Trainer) -> Iterator[Callback]:
    own: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    yield from (callback for callback in own if not is_of_library(callback))


def _of_module(pl_module: LightningModule, saved: Container[int]) -> Iterator[tuple[str, Any]]:
    for prefix, module in pl_module.named_modules():
        is_metric = isinstance(module, Metric)  # those of torchmetrics have such attributes, too: MinMaxMetric.max_val
        if (is_of_library(module) and not is_metric) or (type(module).get_extra_state is not nn.Module.get_extra_state):
            continue
        dot = "." if prefix else ""
        known = OF_METRIC.union(module.metric_state) if is_metric else OF_MODULE
        yield from ((f"{prefix}{dot}{name}", found) for name, found in attributes(module, known, saved=saved).items())
        for name in module._non_persistent_buffers_set:
            if isinstance(buffer := module._buffers.get(name), Tensor):
                # an inference tensor has no version
                yield f"{prefix}{dot}{name}", (id(buffer), None if buffer.is_inference() else buffer._version)
