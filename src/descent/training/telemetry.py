"""Logs gradient and update statistics."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from descent.training.budget import gradient_evaluations
from descent.training.step_metrics import StepMetrics, flat

MOST_KEPT = 1_000_000  # parameters


class Telemetry(StepMetrics):
    """Logs statistics of a step in the units of training; with L-BFGS, of the last evaluation in it.

    - ``grad/norm``: the Euclidean norm of the gradient, before clipping;
    - ``update/relative``: the norm of the step's change of the parameters divided by their norm before it;
    - ``grad/evaluations``: gradients computed so far, unless they are as many as the steps.

    With clipping also:

    - ``grad/norm_clipped``: the norm of the gradient after clipping;
    - ``grad/clipped``: the fraction of the logged steps so far whose gradient was clipped;
    - ``grad/angle``: the angle between the gradient before and after clipping, in degrees. It is not
      logged where the Trainer clips by norm, which keeps the direction.

    The angle and the update need copies of the gradient and the parameters. Models of more than ``MOST_KEPT``
    parameters go without them; their gradient counts as clipped where its norm changed. With several optimizers, the
    statistics are those of the optimizer that stepped last.
    """

    def __init__(self) -> None:
        self.seen = self.clipped = 0  # steps with a point, where there is clipping
        self.raw: Tensor | None = None  # the gradient before clipping
        self.before: Tensor | None = None  # the parameters before the step
        self.norm = torch.tensor(0.0)  # of the gradient before clipping, of a large model
        self.step: int | None = None  # the last one before which gradient and parameters were looked at

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.intervals.logs(trainer.global_step + 1):
            parameters = _of(optimizer)
            self.optimizer = optimizer
            again = self.step == trainer.global_step  # L-BFGS comes here several times a step
            self.step = trainer.global_step
            if sum(parameter.numel() for parameter in parameters) > MOST_KEPT:
                self.raw, self.before, self.norm = None, None, _norm(parameters)
                return
            self.raw = _gradient(parameters)
            if not again:
                self.before = flat(parameters)

    @torch.no_grad()
    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        if self.step is None or self.step + 1 != trainer.global_step:
            return {}
        parameters = _of(self.optimizer)
        if self.raw is None or self.before is None:
            return self._points_of_norms(trainer, parameters)
        norm, size = self.raw.norm().item(), self.before.norm().item()
        update = (flat(parameters) - self.before).norm().item()
        return {
            "grad/norm": norm,
            **self._clipping(trainer, pl_module, self.raw, norm, parameters),
            **_evaluations(trainer),
            **({"update/relative": update / size} if size else {}),
        }

    def _clipping(
        self, trainer: Trainer, pl_module: LightningModule, raw: Tensor, norm: float, parameters: list[Tensor]
    ) -> dict[str, float]:
        if trainer.gradient_clip_val is None:  # some optimizers use the gradient's memory for something else
            return {}
        clipped = _gradient(parameters)
        norm_clipped = clipped.norm().item()
        points = {
            "grad/norm_clipped": norm_clipped,
            "grad/clipped": self._share(not torch.equal(raw, clipped)),
        }
        by_value = trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
        if not (by_value or is_overridden("configure_gradient_clipping", pl_module)):
            return points  # the angle is zero, apart from rounding
        cosine = (raw @ clipped).item() / (norm * norm_clipped) if norm_clipped else 1.0
        return points | {"grad/angle": math.degrees(math.acos(max(-1.0, min(1.0, cosine))))}

    def _points_of_norms(self, trainer: Trainer, parameters: list[Tensor]) -> dict[str, float]:
        points: dict[str, float] = {"grad/norm": self.norm.item()}
        if trainer.gradient_clip_val is not None:
            clipped = _norm(parameters).item()
            points |= {"grad/norm_clipped": clipped, "grad/clipped": self._share(clipped != points["grad/norm"])}
        return points | _evaluations(trainer)

    def _share(self, is_clipped: bool) -> float:
        """The fraction of clipped steps, this one included."""
        self.seen += 1
        self.clipped += is_clipped
        return self.clipped / self.seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "clipped": self.clipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.clipped = state_dict["seen"], state_dict["clipped"]


def _evaluations(trainer: Trainer) -> dict[str, float]:
    evaluations = gradient_evaluations(trainer)
    return {} if evaluations == trainer.global_step else {"grad/evaluations": evaluations}


def _of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _norm(parameters: list[Tensor]) -> Tensor:
    gradients = (p.grad for p in parameters if p.grad is not None)
    return torch.nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])


def _gradient(parameters: list[Tensor]) -> Tensor:
    return flat(p.grad for p in parameters if p.grad is not None)
