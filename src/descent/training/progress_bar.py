"""Shows one progress bar for the whole run."""

import logging
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from tqdm import tqdm

from descent.training.budget import Budget
from descent.training.converged import Converged
from descent.training.intervals import Intervals
from descent.training.max_steps import run_length
from descent.training.sparse_callback import SparseCallback, callbacks_of, loss_of
from descent.training.training_loss import loss_unit


class NoteOnOwnLine(logging.Handler):
    """Called before the console prints a note: clears the bar, or ends its line if the output is not a terminal."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        super().__init__(logging.WARNING)
        self.bar, self.ended = bar, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if self.bar.disable:  # by TQDM_DISABLE
            return
        if sys.stderr.isatty():
            self.bar.clear()
        elif self.ended != self.bar.last_print_t:  # written since the last note
            self.ended = self.bar.last_print_t
            self.bar.fp.write("\n")


class RunProgressBar(SparseCallback):
    """Counts optimizer steps and shows the loss of the latest batch.

    One bar covers all epochs: on small data a bar per epoch is gone before it can be read. If the output is not a
    terminal, the bar is written at most every ten seconds. The total is an upper limit if a rule may stop training.

    Args:
        intervals: the bar moves at the steps that are logged.
    """

    def __init__(self, intervals: Intervals) -> None:
        self.intervals = intervals

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return self.intervals.next_logged(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar = tqdm(
            total=run_length(trainer),
            initial=trainer.global_step,
            desc="Training, may stop early" if _may_stop_early(trainer) else "Training",
            unit="step",
            mininterval=0.1 if sys.stderr and sys.stderr.isatty() else 10.0,
            dynamic_ncols=True,
        )
        self.handler = NoteOnOwnLine(self.bar)
        logging.root.handlers.insert(0, self.handler)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.intervals.logs(trainer.global_step):
            loss = loss_of(trainer, outputs)
            if loss is not None:
                self.bar.set_postfix(loss=f"{loss.item() * loss_unit(pl_module):.4g}", refresh=False)
            self._move(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.total = trainer.global_step
        self._move(trainer)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self._close()

    def _close(self) -> None:
        logging.root.removeHandler(self.handler)
        self.bar.close()

    def _move(self, trainer: Trainer) -> None:
        self.bar.update(trainer.global_step - self.bar.n)


def _may_stop_early(trainer: Trainer) -> bool:
    rules = [*callbacks_of(trainer, EarlyStopping), *callbacks_of(trainer, Converged)]
    return bool(rules) or any(budget.limits["seconds"] for budget in callbacks_of(trainer, Budget))
