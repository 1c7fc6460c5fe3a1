"""Notes where the optimizer, scheduler or batches of a module differ from the config, which the run reports."""

import math
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from descent.batches.exact import parts
from descent.config.hparams import unused_groups
from descent.config.schema import Config
from descent.errors import as_yaml, note_once
from descent.training.build import load_class

RATES = ("lr", "initial_lr", "max_lr")  # schedulers keep the rate of the config in one of them
CYCLED = ("lr", "momentum", "betas")  # set by OneCycleLR and CyclicLR


class IgnoredSettings(Callback):
    """Logs the notes when a run starts. ``hparams.notes_on_unused`` covers what the YAML files do not pass on."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:  # a resumed run had its notes, and modules may have changed a rate since
            return
        unused, config = unused_groups(self.config), self.config
        method = f"{type(pl_module).__name__}.configure_optimizers"
        if trainer.optimizers and config.optimizer and "optimizer" not in unused:
            schedulers = [each.scheduler for each in trainer.lr_scheduler_configs]
            cycled = CYCLED if any(isinstance(each, OneCycleLR | CyclicLR) for each in schedulers) else ()
            spec = {name: value for name, value in config.optimizer.items() if name not in cycled}
            for key, other in _other_arguments(trainer.optimizers, spec):
                note_once(f"{method} returned {other}, the config has optimizer.{key}")
        if config.scheduler and "scheduler" not in unused:
            target = config.scheduler["_target_"]
            kind = load_class(target, LRScheduler, "scheduler")
            made = [each.scheduler for each in trainer.lr_scheduler_configs]
            if not any(_is_or_has(each, kind) for each in made):
                names = ", ".join(type(each).__name__ for each in made) or "no scheduler"
                note_once(f"{method} returned {names}, the config has scheduler._target_={target}")
        self._note_other_size(trainer)

    def _note_other_size(self, trainer: Trainer) -> None:
        size, links = self.config.batch.size, self.config.links.items()
        is_passed_on = any(key.startswith("data.") and source in ("batch", "batch.size") for key, source in links)
        loaders = parts(trainer.train_dataloader)
        if size is None or not is_passed_on or len(loaders) != 1:
            return
        loader = getattr(loaders[0], "loader", loaders[0])
        if isinstance(loader, DataLoader) and loader.batch_size not in (None, size):
            of = "batches, which the processes share," if trainer.world_size > 1 else "batches"
            note_once(f"train_dataloader has {of} of {loader.batch_size} rows, the config has batch.size={size}")


def _other_arguments(optimizers: list[Optimizer], spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The arguments in the config that no optimizer and no group has, each with what they have: ``SGD with lr=0.1``."""
    kind = load_class(spec["_target_"], Optimizer, "optimizer")
    if not any(_is_or_has(optimizer, kind) for optimizer in optimizers):
        yield f"_target_={spec['_target_']}", " and ".join(type(optimizer).__name__ for optimizer in optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for name, value in spec.items():
        names = RATES if name == "lr" else (name,)
        found = [_plain(group[own]) for group in groups for own in names if own in group]
        if value is None or not found or any(_is_close(each, _plain(value)) for each in found):
            continue
        now = [as_yaml(_plain(group[name])) for group in groups if name in group]
        made = " and ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in optimizers))
        yield f"{name}={as_yaml(value)}", f"{made} with {name}={', '.join(dict.fromkeys(now))}"


def _is_or_has(thing: Any, kind: type) -> bool:
    """Whether it is of the class, or wraps something of it, as ``SequentialLR`` or a Lookahead optimizer do."""
    if isinstance(thing, kind):
        return True
    own = vars(thing).values()
    return any(isinstance(part, kind) for value in own for part in (value if isinstance(value, list) else [value]))


def _is_close(first: Any, second: Any) -> bool:
    """Whether both are equal as 32-bit numbers, which a rate given as a tensor is."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_is_close, first, second))
    numbers = isinstance(first, int | float) and isinstance(second, int | float)
    return math.isclose(first, second, rel_tol=1e-6) if numbers else bool(first == second)


def _plain(value: Any) -> Any:
    """Numbers in place of tensors, and lists in place of tuples, as YAML has them."""
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    return value.tolist() if hasattr(value, "tolist") else value
