"""The model learns, and a run that was interrupted ends as if it had not been."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from descent.run.cli import load_config
from descent.run.train import train

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # workers
CONFIG = load_config(Path(__file__).parents[1] / "conf", ["trainer.enable_progress_bar=false", "optimizer=adam"])


class InterruptAt40(Callback):
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 40:
            signal.raise_signal(signal.SIGINT)


def test_it_learns_and_goes_on_bit_for_bit_after_an_interruption(tmp_path: Path) -> None:
    whole = train(CONFIG, tmp_path / "whole")
    assert whole.status == "completed" and whole.metrics["val/loss"] < 0.1  # that of 0 is 0.5
    assert train(CONFIG, tmp_path / "cut", callbacks=[InterruptAt40()]).status == "interrupted"
    assert train(CONFIG, tmp_path / "cut", resume=True).steps == whole.steps == 500
    first, second = (torch.load(tmp_path / run / "checkpoints/last.ckpt")["state_dict"] for run in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
