"""Reports whether the model learned the rows of a ``debug=overfit`` run."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import RenderableType

from descent.training.callback import ResultCallback
from descent.training.sparse_callback import SparseCallback, loss_of
from descent.training.training_loss import LOSS, loss_unit

ENOUGH = 0.01  # of the first loss


class Overfit(SparseCallback, ResultCallback):
    """Says at the end of ``debug=overfit`` how far the training loss fell, and whether that is enough."""

    in_sweeps = True  # and last on the console

    def __init__(self) -> None:
        self.first: float | None = None  # loss, before any step

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return step if self.first is None else math.inf

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = loss_of(trainer, outputs) if self.first is None else None
        if loss is not None:
            self.first = loss.item() * loss_unit(pl_module)

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        last = result["metrics"].get(LOSS)
        if self.first is not None and last is not None:
            fell = f"{LOSS} {self.first:.4g} -> {last:.4g}"
            if last <= self.first - (1 - ENOUGH) * abs(self.first):
                yield f"the rows were learned: {fell}"
            else:
                more = "" if result.get("stopped") else "allow more epochs (stopping.max_epochs), or "
                check = f"{more}check model, dropout, loss, data and learning rate"
                yield f"the rows were not learned: {fell}, not 99% less: {check}"

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = state_dict["first"]
