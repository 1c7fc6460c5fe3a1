"""Checks that an interrupted and resumed run ends with the same weights as an uninterrupted one."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from descent.run.cli import load_config
from descent.run.train import train

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # workers
CONF, SHORT = Path(__file__).parents[1] / "conf", ["trainer.enable_progress_bar=false", "trainer.max_epochs=4"]


class InterruptAtBatch2(Callback):
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == 2:  # of all epochs, from 0
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = train(load_config(CONF, SHORT, tmp_path / "whole"), tmp_path / "whole")
    assert whole.status == "completed"
    config = load_config(CONF, SHORT, tmp_path / "cut")
    assert train(config, tmp_path / "cut", callbacks=[InterruptAtBatch2()]).status == "interrupted"
    assert train(config, tmp_path / "cut", resume=True).steps == whole.steps
    first, second = (torch.load(tmp_path / run / "checkpoints/last.ckpt")["state_dict"] for run in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
