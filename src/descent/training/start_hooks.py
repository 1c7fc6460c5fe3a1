"""Keeps what a checkpoint restored where hooks at the start of training would set it again."""

import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, allclose

from descent.batches.fingerprint import fingerprint, is_of_library

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
    """Undoes, in a resumed run, what ``on_fit_start`` and ``on_train_start`` change of the module's weights.

    Lightning calls both after it has restored the weights; a run without interruption calls them once, before its
    first step. A note says so, and names callbacks whose hooks change the state that they got from the checkpoint.
    """

    def __init__(self) -> None:
        self.resumed = False
        self.states: dict[str, Any] = {}  # of the callbacks
        self.weights: dict[str, Tensor] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.resumed, saved = True, checkpoint.get("callbacks", {})
        keys = [callback.state_key for callback in _with_start_hooks(trainer, pl_module) if callback is not pl_module]
        self.states = {key: deepcopy(saved[key]) for key in keys if key in saved}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.resumed and any(True for _ in _with_start_hooks(trainer, pl_module)):
            self.weights = {name: value.detach().clone() for name, value in _tensors(pl_module).items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.resumed:
            after_start_hooks(trainer, lambda: self._restore(trainer, pl_module))

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = _tensors(pl_module)
        kept = {name: value for name, value in self.weights.items() if name in now and now[name].shape == value.shape}
        changed = [name for name, value in kept.items() if not _same(now[name], value)]
        with torch.no_grad():
            for name in changed:
                now[name].copy_(kept[name])
        if changed:
            names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            log.warning("note: %s sets %s again; the resumed run keeps the checkpoint's values", EITHER, names)
        for callback in _with_start_hooks(trainer, pl_module):
            if callback is pl_module or callback.state_key not in self.states:
                continue
            if not _same(callback.state_dict(), self.states[callback.state_key]):
                log.warning(
                    "note: the resumed run may differ, because %s of %s sets again what the checkpoint has of it",
                    *(EITHER, type(callback).__name__),
                )
        self.resumed, self.states, self.weights = False, {}, {}


def _with_start_hooks(trainer: Trainer, pl_module: LightningModule) -> Iterator[Any]:
    """The project's own module and callbacks that have one of the hooks."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    for owner, kind in ((pl_module, LightningModule), *((callback, Callback) for callback in callbacks)):
        if not is_of_library(owner) and any(is_overridden(hook, owner, kind) for hook in HOOKS):
            yield owner


def _tensors(pl_module: LightningModule) -> dict[str, Tensor]:
    return {name: value for name, value in pl_module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and allclose(a.to(b), b, 0, 0, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(fingerprint(a) == fingerprint(b))
