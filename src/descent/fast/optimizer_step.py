"""Runs one optimizer step as Lightning's automatic optimization does, without hooks."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from descent.batches.rows import Batch
from descent.training.sparse_callback import SparseCallback

NOTHING: AbstractContextManager[None] = nullcontext()


class OptimizerStep:
    """``training_step``, ``zero_grad``, ``backward``, clipping, ``step``, in Lightning's order.

    Attributes:
        output: what the last ``training_step`` returned.
        loss: the loss in ``output``, with its graph; ``None`` if it has none.
        evaluations: how often ``training_step`` was called since ``EpochLoop`` reset this counter.
    """

    output: Any = None
    loss: Tensor | None = None
    evaluations = 0

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.module, self.optimizer = trainer, trainer.lightning_module, trainer.optimizers[0]
        self.precision, self.training_step = trainer.precision_plugin, self.module.training_step
        self.casts = type(self.precision) is not Precision
        self.clip_val = trainer.gradient_clip_val
        self.clip_algorithm = trainer.gradient_clip_algorithm or GradClipAlgorithmType.NORM
        kind = type(self.optimizer)
        # an optimizer from outside torch may call the closure several times, as L-BFGS does
        self.needs_closure = isinstance(self.optimizer, LBFGS) or not kind.__module__.startswith("torch.optim.")
        self.zeroes_plainly = kind.zero_grad is Optimizer.zero_grad

    def __call__(self, batch: Batch, batch_idx: int, hooks: Sequence[SparseCallback]) -> None:
        """Runs a step on ``batch`` and calls ``on_before_optimizer_step`` of ``hooks``."""
        self.batch, self.batch_idx, self.hooks = batch, batch_idx, hooks
        if self.needs_closure:
            self.optimizer.step(self._closure)
        else:
            self._closure()
            self.optimizer.step()

    def _closure(self) -> Any:
        self.evaluations += 1
        with self.precision.train_step_context() if self.casts else NOTHING:
            self.output = self.training_step(self.batch, self.batch_idx)
        self.loss = self.output["loss"] if isinstance(self.output, Mapping) else self.output
        self._zero_grad()
        if self.loss is not None:
            self.loss.backward()
        for callback in self.hooks:
            callback.on_before_optimizer_step(self.trainer, self.module, self.optimizer)
        if self.clip_val is not None:
            self.precision.clip_gradients(self.optimizer, self.clip_val, self.clip_algorithm)
        return self.loss

    def _zero_grad(self) -> None:
        if not self.zeroes_plainly:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:  # zero_grad without its record for the profiler
            for parameter in group["params"]:
                parameter.grad = None
