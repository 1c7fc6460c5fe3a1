"""Keeps what a checkpoint restored where hooks at the start of training would set it again."""

import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, allclose

from descent.batches.data_attributes import NONE, attributes
from descent.batches.fingerprint import fingerprint, is_library

log = logging.getLogger(__name__)

HOOKS = ("on_fit_start", "on_train_start")
EITHER = " or ".join(HOOKS)


def after_start_hooks(trainer: Trainer, function: Callable[[], None]) -> None:
    """Calls ``function`` after ``on_train_start`` of all callbacks and the module, which may undo what it restores."""
    strategy: Any = trainer.strategy  # Lightning calls its hook last
    own = strategy.on_train_start

    def once() -> None:
        strategy.__dict__.pop("on_train_start", None)
        own()
        function()

    strategy.on_train_start = once


class StartHooks(Callback):
    """Undoes, in a resumed run, what ``on_fit_start`` and ``on_train_start`` change of weights and learning rates.

    Lightning calls both after it has restored the weights; a run without interruption calls them once, before its
    first step. A note says so. Another names callbacks and modules whose hooks change what they got from the
    checkpoint by a method of their own.
    """

    def __init__(self) -> None:
        self.resumed = False
        self.states: dict[str, Any] = {}  # of the callbacks
        self.groups: list[dict[str, Any]] = []  # of the optimizers' parameters
        self.weights: dict[str, Tensor] = {}
        self.attributes: dict[str, Any] = {}  # of a module with on_load_checkpoint

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.resumed, saved = True, checkpoint.get("callbacks", {})
        keys = [callback.state_key for callback in _with_start_hooks(trainer, pl_module) if callback is not pl_module]
        self.states = {key: deepcopy(saved[key]) for key in keys if key in saved}
        self.groups = [
            group for state in checkpoint.get("optimizer_states", []) for group in state.get("param_groups", ())
        ]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.resumed and any(True for _ in _with_start_hooks(trainer, pl_module)):
            self.weights = {name: value.detach().clone() for name, value in _tensors(pl_module).items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.resumed:
            if is_overridden("on_load_checkpoint", pl_module):
                self.attributes = _attributes(pl_module)
            after_start_hooks(trainer, lambda: self._restore(trainer, pl_module))

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        owners = [*_with_start_hooks(trainer, pl_module)]
        if changed := self._restore_weights(pl_module) + (self._restore_groups(trainer) if owners else []):
            names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            log.warning("note: %s sets %s again; the resumed run keeps the checkpoint's values", EITHER, names)
        for owner in owners:
            if owner is pl_module:
                now = _attributes(pl_module) if self.attributes else {}
                what = [name for name, value in self.attributes.items() if value not in (NONE, now.get(name, value))]
            else:
                saved = self.states.get(owner.state_key)
                what = ["its saved state"] if saved and not _same(owner.state_dict(), saved) else []
            if what:
                log.warning(
                    "note: the resumed run may differ, because %s of %s sets %s again",
                    *(EITHER, type(owner).__name__, ", ".join(what)),
                )
        self.resumed, self.states, self.groups, self.weights, self.attributes = False, {}, [], {}, {}

    def _restore_weights(self, pl_module: LightningModule) -> list[str]:
        now = _tensors(pl_module)
        kept = {name: value for name, value in self.weights.items() if name in now and now[name].shape == value.shape}
        changed = [name for name, value in kept.items() if not _same(now[name], value)]
        with torch.no_grad():
            for name in changed:
                now[name].copy_(kept[name])
        return changed

    def _restore_groups(self, trainer: Trainer) -> list[str]:
        """Restores the learning rates and other hyperparameters of the optimizers."""
        groups = [(optimizer, group) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if len(groups) != len(self.groups):  # a callback has added groups
            return []
        changed = []
        for (optimizer, group), saved in zip(groups, self.groups, strict=True):
            for key in saved.keys() & group.keys() - {"params"}:
                if not _same(group[key], saved[key]):
                    group[key] = saved[key]
                    changed.append(f"{key} of {type(optimizer).__name__}")
        return sorted({*changed})


def _with_start_hooks(trainer: Trainer, pl_module: LightningModule) -> Iterator[Any]:
    """The module and the callbacks with one of the hooks in a class of the project's own."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    for owner in (pl_module, *callbacks):
        own = (kind for kind in type(owner).__mro__ if not is_library(kind))
        if any(hook in vars(kind) for kind in own for hook in HOOKS):
            yield owner


def _attributes(pl_module: LightningModule) -> dict[str, Any]:
    saved = {id(part) for part in (*pl_module.modules(), *pl_module.parameters(), *pl_module.buffers())}
    return attributes(pl_module, vars(LightningModule()), saved=saved)


def _tensors(pl_module: LightningModule) -> dict[str, Tensor]:
    return {name: value for name, value in pl_module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        a, b = _dense(a), _dense(b)
        return a.shape == b.shape and allclose(a.to(b), b, 0, 0, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(fingerprint(a) == fingerprint(b))


def _dense(tensor: Tensor) -> Tensor:
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return tensor if tensor.layout == torch.strided else tensor.to_dense()
