"""Gradient and update statistics."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from descent.training.budget import gradient_evaluations
from descent.training.step_metrics import StepMetrics, flat

MOST_KEPT = 1_000_000  # parameters


class Telemetry(StepMetrics):
    """Writes, of the steps that have a point, in the units of training and at L-BFGS's last evaluation:

    - ``grad/norm``: the Euclidean norm of the gradient, before clipping;
    - ``update/relative``: the norm of the change of weights and bias over their own norm before;
    - ``grad/evaluations``: gradients computed so far; L-BFGS computes several a step, others one a batch;

    and only with clipping:

    - ``grad/norm_clipped``: the norm of the gradient after it;
    - ``grad/angle``: between the gradients before and after, in degrees: 0 for clipping by norm, not by value;
    - ``grad/clipped``: the fraction of such steps so far whose gradient was clipped.

    The angle and the update need copies of gradient and parameters. Models of more than ``MOST_KEPT`` parameters have
    none: their norms are computed where the parameters are, and a gradient counts as clipped where its norm changed.
    Of several optimizers it is the one that stepped last.
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
            **self._clipping(trainer, self.raw, norm, parameters),
            "grad/evaluations": gradient_evaluations(trainer),
            **({"update/relative": update / size} if size else {}),
        }

    def _clipping(self, trainer: Trainer, raw: Tensor, norm: float, parameters: list[Tensor]) -> dict[str, float]:
        if trainer.gradient_clip_val is None:  # some optimizers use the gradient's memory for something else
            return {}
        clipped = _gradient(parameters)
        norm_clipped = clipped.norm().item()
        cosine = (raw @ clipped).item() / (norm * norm_clipped) if norm_clipped else 1.0
        return {
            "grad/norm_clipped": norm_clipped,
            "grad/angle": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
            "grad/clipped": self._share(not torch.equal(raw, clipped)),
        }

    def _points_of_norms(self, trainer: Trainer, parameters: list[Tensor]) -> dict[str, float]:
        points: dict[str, float] = {"grad/norm": self.norm.item()}
        if trainer.gradient_clip_val is not None:
            clipped = _norm(parameters).item()
            points |= {"grad/norm_clipped": clipped, "grad/clipped": self._share(clipped != points["grad/norm"])}
        return points | {"grad/evaluations": gradient_evaluations(trainer)}

    def _share(self, is_clipped: bool) -> float:
        """How many of the steps so far were clipped, with this one."""
        self.seen += 1
        self.clipped += is_clipped
        return self.clipped / self.seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "clipped": self.clipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.clipped = state_dict["seen"], state_dict["clipped"]


def _of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _norm(parameters: list[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _gradient(parameters: list[Tensor]) -> Tensor:
    return flat(p.grad for p in parameters if p.grad is not None)
