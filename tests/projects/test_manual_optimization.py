"""Tests what is counted and known of a run with manual optimization."""

import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import needs_fast
from gan.model import GAN, cross_entropy
from running import SignalAt, advised, train_project
from torch import ones
from torch.optim import SGD

from descent.errors import UserError
from descent.training.build import build_scheduler

pytestmark = advised


@pytest.fixture
def one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def training_step(self: GAN, batch: Any, batch_idx: int) -> None:
        (real,) = batch
        loss = cross_entropy(self.discriminator(self.sample(len(real))), ones(len(real), 1))
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    monkeypatch.setattr(GAN, "training_step", training_step)


def test_two_backwards_and_steps_per_batch_are_two_gradients(tmp_path: Path) -> None:
    result = train_project("gan", tmp_path / "run")
    assert result.gradient_evaluations == result.steps > 0


@needs_fast
def test_the_note_on_lightnings_loop_names_manual_optimization(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "descent.fast")
    train_project("gan", tmp_path / "run", "trainer.max_epochs=1")
    reasons = [text.rpartition("because ")[2] for text in caplog.messages if "every training step" in text]
    assert reasons == ["the module uses manual optimization"]


@pytest.mark.usefixtures("one_backward")
def test_two_optimizers_that_share_a_backward_count_one_gradient(tmp_path: Path) -> None:
    whole = train_project("gan", tmp_path / "whole")
    assert 2 * whole.gradient_evaluations == whole.steps > 0
    for batch in (3, 0):
        given = [SignalAt(batch, signal.SIGTERM)]
        resumed = train_project("gan", tmp_path / "run", callbacks=given, resume=True)
    assert resumed.gradient_evaluations == whole.gradient_evaluations
    limited = train_project("gan", tmp_path / "limited", "stopping.max_gradient_evaluations=3")
    assert (limited.gradient_evaluations, limited.steps) == (3, 6)


def test_with_plain_backward_each_step_counts_one_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GAN, "manual_backward", lambda self, loss: loss.backward())
    result = train_project("gan", tmp_path / "run", "stopping.max_gradient_evaluations=4")
    assert (result.gradient_evaluations, result.steps) == (4, 4)
    assert result.stopped == "its budget of 4 gradient evaluations is spent"


@pytest.mark.parametrize(
    ("limit", "known"),
    [
        ("trainer.max_steps=3", False),
        ("stopping.max_gradient_evaluations=3", False),
        ("trainer.max_steps=1000", True),
        ("trainer.max_epochs=1", True),
    ],
)
def test_the_length_of_a_run_is_not_known_where_a_limit_counts_steps(
    limit: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure_optimizers(self: GAN) -> Any:
        optimizers = [SGD(part.parameters(), lr=0.1) for part in (self.generator, self.discriminator)]
        spec = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": None}
        given = spec | {"interval": "step", "frequency": 1, "monitor": None}
        return optimizers, [build_scheduler(given, optimizer, self.trainer) for optimizer in optimizers]

    monkeypatch.setattr(GAN, "configure_optimizers", configure_optimizers)
    if known:
        assert train_project("gan", tmp_path / "run", limit).status == "completed"
    else:
        with pytest.raises(UserError, match=r"scheduler\.T_max must be given: the number of steps in the run"):
            train_project("gan", tmp_path / "run", limit)
