"""Why a run goes as it does: gradients before and after clipping, and the size of the updates."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from descent.training.budget import gradient_evaluations
from descent.training.points import Points, flat
from descent.training.spacing import Spacing
from regression.model import LinearRegression


class Telemetry(Points):
    """Writes, of the steps that have a point, in the units of training and at L-BFGS's last evaluation:

    - ``grad/norm`` and ``grad/norm_clipped``: the Euclidean norm of the gradient before and after clipping;
    - ``grad/angle``: between the two, in degrees: 0 for clipping by norm, not for clipping by value;
    - ``grad/clipped``: the fraction of such steps so far whose gradient was clipped;
    - ``update/relative``: the norm of the change of weights and bias over their own norm before;
    - ``grad/evaluations``: gradients computed so far; L-BFGS computes several a step, others one.
    """

    def __init__(self, spacing: Spacing) -> None:
        super().__init__(spacing)
        self.seen = self.clipped = 0  # steps with a point
        self.step = -1  # the last one before which the parameters were looked at

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.spacing.logs(trainer.global_step + 1):
            parameters = list(pl_module.parameters())
            self.raw = _gradient(parameters)
            if self.step != trainer.global_step:  # L-BFGS comes here several times a step
                self.step, self.before = trainer.global_step, flat(parameters)

    @torch.no_grad()
    def points(self, trainer: Trainer, model: LinearRegression, loss: float | None) -> dict[str, float]:
        if loss is None:
            return {}
        parameters = list(model.parameters())
        raw = self.raw
        # without clipping it is the same; some optimizers use the gradient's memory for something else
        clipped = raw if trainer.gradient_clip_val is None else _gradient(parameters)
        norm, norm_clipped = raw.norm().item(), clipped.norm().item()
        self.seen += 1
        self.clipped += not torch.equal(raw, clipped)
        cosine = (raw @ clipped).item() / (norm * norm_clipped) if norm_clipped else 1.0
        size = self.before.norm().item()
        update = (flat(parameters) - self.before).norm().item()
        return {
            "grad/norm": norm,
            "grad/norm_clipped": norm_clipped,
            "grad/angle": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
            "grad/clipped": self.clipped / self.seen,
            "grad/evaluations": gradient_evaluations(trainer),
            **({"update/relative": update / size} if size else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "clipped": self.clipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.clipped = state_dict["seen"], state_dict["clipped"]


def _gradient(parameters: list[torch.nn.Parameter]) -> Tensor:
    return flat(p.grad for p in parameters if p.grad is not None)
