"""Tests the presets on a CUDA GPU, and that training synchronises only at logged steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from lightning.pytorch import LightningModule, Trainer
from test_resume import SignalAt, assert_resumes_exactly

from descent.batches.in_memory import InMemoryBatches
from descent.training.sparse_callback import SparseCallback

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]
QUIET = ("trainer.enable_progress_bar=false", "figures=false")


class NoWaiting(SparseCallback):
    """Makes synchronisation an error from the second step to the last but one of the first epoch."""

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return min((number for number in (2, 24) if number >= step), default=float("inf"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.global_step == 2 else "default")


@pytest.mark.parametrize("fast", ["true", "false"])
@pytest.mark.parametrize("clip", ["none", "norm"])
def test_steps_between_logged_steps_do_not_synchronise(fast: str, clip: str, run: Run) -> None:
    try:
        result = run("trainer=gpu", f"trainer.fast={fast}", f"clip={clip}", *QUIET, callbacks=[NoWaiting()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.status == "completed"


class Batches(SparseCallback):
    """Records the device and address of the training batches after each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = trainer.train_dataloader
        assert isinstance(batches, InMemoryBatches)
        self.seen.append((batches.tensors[0].device.type, batches.tensors[0].data_ptr()))


def test_in_memory_data_move_to_the_gpu_once(run: Run) -> None:
    batches = Batches()
    run("trainer=gpu", "trainer.max_epochs=3", *QUIET, callbacks=[batches])
    assert len(batches.seen) == 3
    assert {device for device, _ in batches.seen} == {"cuda"}
    assert len({address for _, address in batches.seen}) == 1


@pytest.mark.parametrize(("preset", "tolerance"), [("gpu", 1e-4), ("mixed", 2e-2), ("bf16", 5e-2)])
def test_a_run_on_the_gpu_has_the_metrics_of_the_cpu(preset: str, tolerance: float, run: Run) -> None:
    expected = run("trainer.accelerator=cpu", *QUIET)
    result = run(f"trainer={preset}", *QUIET)
    assert result.metrics == pytest.approx(expected.metrics, rel=tolerance)


@pytest.mark.parametrize("preset", ["gpu", "mixed"])
def test_an_interrupted_run_on_the_gpu_resumes_bit_for_bit(preset: str, run: Run, tmp_path: Path) -> None:
    assert_resumes_exactly(run, tmp_path, [SignalAt(13)], f"trainer={preset}", "optimizer=adam")
