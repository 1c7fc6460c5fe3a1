"""Tests Lightning's weight averaging with layers created in ``configure_model`` or later."""

from typing import Any

import pytest
import torch
from conftest import Run
from lightning.pytorch import Callback, LightningModule, Trainer
from test_resume import SMALL

from descent.errors import UserError
from descent.training.checkpoint_io import read_checkpoint
from regression.model import LinearRegression

SWA = (
    "callbacks=[regression,swa]",
    "callbacks.swa.swa_epoch_start=2",
    "callbacks.swa.swa_lrs=0.1",
    "trainer.max_epochs=5",
    "model.init_weight=0",
)


class Weights(Callback):
    """Records the weights at the start of each epoch."""

    def __init__(self) -> None:
        self.at_start: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at_start.append(flat(pl_module.linear.state_dict()))


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].detach().flatten().clone() for name in sorted(state)])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_averaged_weights_are_the_mean_over_epochs(optimizer: str, run: Run, tmp_path: Any) -> None:
    weights = Weights()
    run(*SMALL, *SWA, f"optimizer={optimizer}", callbacks=[weights], run_dir=tmp_path / "run")
    state = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    trained = flat({name: state[f"linear.{name}"] for name in ("weight", "bias")})
    expected = torch.stack(weights.at_start[1:]).mean(dim=0)  # from the second epoch on
    assert torch.allclose(trained, expected, rtol=1e-12)
    assert not torch.allclose(trained, weights.at_start[-1], rtol=1e-3)


def test_layers_created_after_the_copy_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    configure = LinearRegression.configure_model
    monkeypatch.setattr(LinearRegression, "configure_model", lambda self: None)
    monkeypatch.setattr(LinearRegression, "setup", lambda self, stage: configure(self))
    needed = "needs the layers of LinearRegression to be made in __init__ or configure_model: it copies the module"
    with pytest.raises(UserError, match=needed):
        run(*SMALL, *SWA)
    monkeypatch.setattr(LinearRegression, "configure_model", lambda self: self.made_in_setup)
    with pytest.raises(UserError, match=f"{needed} before its setup .*made_in_setup"):
        run(*SMALL, *SWA)
