"""Saves logged metrics and torchmetrics' states in checkpoints, which Lightning does not."""

import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection, MetricTracker

from descent.training.collectives import gathered, own_of, several
from descent.training.sparse_callback import SparseCallback
from descent.training.start_hooks import after_start_hooks

# descent.fast is optional
lightning_results: Any = import_module("descent.fast.lightning_results") if find_spec("descent.fast") else None

log = logging.getLogger(__name__)


def is_logged(trainer: Trainer, name: str) -> bool:
    """Whether ``self.log`` has sent a metric to loggers; without ``descent.fast``, known only at the epoch's end."""
    results = results_of(trainer).items()
    return name in trainer.logged_metrics or any(
        value.meta.logger for key, value in results if key.endswith(f".{name}")
    )


def log_step_metrics(trainer: Trainer) -> None:
    """Writes what ``self.log`` was given in this step, before a checkpoint in the step's last hook."""
    if lightning_results is not None:
        lightning_results.log_step_metrics(trainer)


class LoggedMetrics(SparseCallback):
    """Saves the latest metrics, the sums of an unfinished epoch, and torchmetrics' states in checkpoints.

    So a run resumed within an epoch logs the same epoch means, bit for bit, and one resumed at an epoch's end still
    has its metrics. Without ``descent.fast`` only the latter holds; a note says so.
    """

    def __init__(self) -> None:
        self.is_within = False  # whether an epoch is unfinished
        self.sums: dict[str, dict[str, Tensor]] = {}  # of the epoch's batches before the checkpoint
        self.metrics: dict[str, Tensor] = {}
        self.states: dict[str, Any] = {}
        self.increments: dict[str, int] = {}
        self.of_one_batch: set[str] = set()  # as the checkpoint has it

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("logged", {})  # older versions wrote none
        self.metrics, self.sums, self.states = (saved.get(key, {}) for key in ("metrics", "sums", "states"))
        if "states_of_processes" in saved:
            self.states = own_of(saved["states_of_processes"])
        self.is_within = saved.get("is_within", False)
        self.increments = saved.get("increments", {})
        self.of_one_batch = {*saved.get("of_one_batch", ())}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics.update(self.metrics)
        for name, tracker in _trackers(pl_module):
            while len(tracker) < self.increments.get(name, 0):
                tracker.increment()
        modules = dict(pl_module.named_modules())
        if made_later := sorted(self.states.keys() - modules.keys()):
            log.warning(
                "note: the resumed run may differ, because it starts without %s, which the checkpoint has values of;"
                " make metrics in __init__ or configure_model",
                ", ".join(made_later),
            )
            self.states = {name: saved for name, saved in self.states.items() if name in modules}
        if lightning_results is not None:
            _set_metric_states(pl_module, self.states)
            if self.states:  # many modules reset metrics there, because of Lightning's validation before training
                after_start_hooks(trainer, lambda: _set_metric_states(pl_module, self.states))
        elif self.is_within:
            log.warning(
                "note: the means of epoch %d cover only its remaining steps, because descent.fast is deleted",
                trainer.current_epoch + 1,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.is_within = not trainer.is_last_batch
        self._add_sums(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add_sums(trainer)  # for values logged after this callback's last hook
        if lost := sorted({key.partition(".")[2] for key in self.sums}):
            log.warning(
                "note: epoch %d has no value of %s: the run was resumed within the epoch, and self.log has not logged"
                " one since",
                *(trainer.current_epoch + 1, ", ".join(lost)),
            )
        self.is_within, self.sums = False, {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "train/loss" in self.of_one_batch | of_one_batch(trainer):
            log.warning(
                "note: the final train/loss is of one batch alone, because the module logs it without on_epoch=True;"
                " without its line, it is the mean over the batches of the epoch"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" not in checkpoint:  # only weights
            return
        if self.is_within:
            self._add_sums(trainer)
        sums = {
            key: dict(result.metric_state)
            for key, result in results_of(trainer).items()
            if result.meta.on_epoch and result.meta.fx != "on_train_epoch_end"  # those come at the end, as a whole
        }
        checkpoint["logged"] = {
            "is_within": self.is_within,
            "metrics": dict(trainer.callback_metrics),
            "sums": {**self.sums, **sums} if self.is_within else {},
            "states": _metric_states(pl_module),
            "of_one_batch": sorted(self.of_one_batch | of_one_batch(trainer)),
            "increments": {name: len(tracker) for name, tracker in _trackers(pl_module)},
        }
        if several():
            checkpoint["logged"]["states_of_processes"] = gathered(checkpoint["logged"]["states"])

    def _add_sums(self, trainer: Trainer) -> None:
        results = results_of(trainer)
        for key in [key for key in self.sums if key in results]:
            _add(results[key], self.sums.pop(key))


def results_of(trainer: Trainer) -> Mapping[str, Any]:
    """What ``self.log`` was given in the current epoch, by key; empty without ``descent.fast``."""
    return {} if lightning_results is None else lightning_results.results_of(trainer)


def of_one_batch(trainer: Trainer) -> set[str]:
    """The metrics that steps log without ``on_epoch=True``, or as ``..._step`` with it; none if there is one batch."""
    if trainer.num_training_batches == 1 or lightning_results is None:
        return set()
    metas = [result.meta for result in lightning_results.training_results_of(trainer).values()]
    of_epochs = {meta.name for meta in metas if meta.on_epoch}
    of_both = {f"{meta.name}_step" for meta in metas if meta.on_epoch and meta.on_step}
    return {meta.name for meta in metas if not meta.on_epoch} - of_epochs | of_both


def _add(result: Any, before: Mapping[str, Tensor]) -> None:
    """Merges values from before the checkpoint: the maximum or minimum if ``self.log`` reduces by it, else the sum."""
    for key, value in before.items():
        now = getattr(result, key)
        extreme = result.meta.is_max_reduction or result.meta.is_min_reduction
        reduce = result.meta.reduce_fx if extreme else torch.add
        setattr(result, key, reduce(value.to(now.device), now))


def _trackers(pl_module: LightningModule) -> list[tuple[str, MetricTracker]]:
    """The modules that get one more metric by each ``increment()``."""
    return [(name, module) for name, module in pl_module.named_modules() if isinstance(module, MetricTracker)]


def _metric_states(pl_module: LightningModule) -> dict[str, Any]:
    """States and update counts of the metrics updated since their last reset, by name in the module."""
    modules = dict(pl_module.named_modules())
    if not any(isinstance(module, Metric) and module.update_count for module in modules.values()):
        return {}
    for module in modules.values():
        if isinstance(module, MetricCollection):
            module.items()  # copies the state of a compute group, which only its first metric updates
    metrics = {name: module for name, module in modules.items() if isinstance(module, Metric) and module.update_count}
    return {name: {"state": copied_states(metric), "updates": metric.update_count} for name, metric in metrics.items()}


def _set_metric_states(pl_module: LightningModule, states: Mapping[str, Mapping[str, Any]]) -> None:
    for name, saved in states.items():
        metric = pl_module.get_submodule(name)
        assert isinstance(metric, Metric)
        for key, value in saved["state"].items():
            setattr(metric, key, _copied(value, metric.device))
        lightning_results.set_update_count(metric, saved["updates"])


def copied_states(metric: Metric) -> dict[str, Any]:
    """Copies of a metric's states, tensors and lists of tensors, by name."""
    return {key: _copied(value, metric.device) for key, value in metric.metric_state.items()}


def _copied(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_copied(part, device) for part in value]
    assert isinstance(value, Tensor)
    return value.detach().to(device, copy=True)
