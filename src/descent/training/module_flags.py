"""Saves ``requires_grad`` and training flags in checkpoints, which Lightning does not."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from descent.training.start_hooks import after_start_hooks


class ModuleFlags(Callback):
    """Saves in checkpoints which parameters are frozen and which modules are in evaluation mode.

    A run resumed within an epoch needs them: hooks at the epoch's start, which may set them, are not called again.
    """

    def __init__(self) -> None:
        self.flags: dict[str, dict[str, bool]] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.flags = checkpoint.get("flags", {})  # older versions wrote none

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.flags:
            self._set(pl_module)
            after_start_hooks(trainer, lambda: self._set(pl_module))

    def _set(self, pl_module: LightningModule) -> None:
        parameters, modules = dict(pl_module.named_parameters()), dict(pl_module.named_modules())
        # what a step makes later, such as a metric, is in the checkpoint but not yet in the module
        for name in self.flags.get("requires_grad", {}).keys() & parameters.keys():
            parameters[name].requires_grad_(self.flags["requires_grad"][name])
        for name in self.flags.get("training", {}).keys() & modules.keys():
            modules[name].training = self.flags["training"][name]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" in checkpoint:  # otherwise it has only weights
            checkpoint["flags"] = {
                "requires_grad": {name: weight.requires_grad for name, weight in pl_module.named_parameters()},
                "training": {name: module.training for name, module in pl_module.named_modules()},
            }
