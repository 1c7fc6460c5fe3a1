"""Attributes of the module that training changes and that no checkpoint has."""

import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

log = logging.getLogger(__name__)

LIBRARIES = {"torch", "lightning", "torchmetrics"}  # whose modules keep what matters in their state


class UnsavedAttributes(Callback):
    """Says once, as a checkpoint is written, which attributes a resumed run begins anew with.

    Numbers, strings, containers by their length, and buffers that are not persistent. Tensors and other objects are
    left alone: most are what a step left behind for a hook.
    """

    def __init__(self) -> None:
        self.before: dict[str, Any] | None = None
        self.is_noted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = None if is_overridden("on_save_checkpoint", pl_module) else dict(_attributes(pl_module))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.before is None or self.is_noted or "optimizer_states" not in checkpoint:
            return
        now = dict(_attributes(pl_module))
        changed = [name for name, value in self.before.items() if name in now and now[name] != value]
        if changed:
            self.is_noted = True
            log.warning(
                "note: a resumed run may differ, because training changes %s of %s, and no checkpoint has it; a buffer,"
                " or on_save_checkpoint and on_load_checkpoint, would keep it",
                *(", ".join(changed), type(pl_module).__name__),
            )


def _attributes(pl_module: LightningModule) -> Iterator[tuple[str, Any]]:
    known = vars(LightningModule())
    for prefix, module in pl_module.named_modules():
        if type(module).__module__.partition(".")[0] in LIBRARIES or _has_extra_state(module):
            continue
        dot = "." if prefix else ""
        for name, value in vars(module).items():
            if name not in known:
                if isinstance(value, bool | int | float | str):
                    yield f"{prefix}{dot}{name}", value
                elif isinstance(value, list | dict | set | deque):
                    yield f"{prefix}{dot}{name}", len(value)
        for name in module._non_persistent_buffers_set:
            if isinstance(buffer := module._buffers.get(name), Tensor):
                yield f"{prefix}{dot}{name}", (id(buffer), buffer._version)


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state
