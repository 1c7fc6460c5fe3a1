"""Tests Lightning's weight averaging with layers created in ``configure_model`` or later."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run, config_of, save_config
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, EMAWeightAveraging
from test_resume import SMALL, SignalAt, assert_resumes_exactly

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.run.train import train
from descent.training.checkpoint_io import read_checkpoint
from descent.training.weight_averaging import LayersBeforeAveraging
from regression.model import LinearRegression

SWA = (
    "callbacks=[regression,swa]",
    "callbacks.swa.swa_epoch_start=2",
    "callbacks.swa.swa_lrs=0.1",
    "trainer.max_epochs=5",
    "model.init_weight=0",
)


QUIET = ("trainer.enable_progress_bar=false", "figures=false")
EMA = ("callbacks=[regression,ema]", "callbacks.ema.decay=0.7")


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


def test_callbacks_of_the_module_give_the_result_of_those_in_the_config(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: 3}"
    options = *SMALL, "trainer.max_epochs=300", "model.init_weight=0"
    in_config = run(*options, *EMA, f"+callbacks.stop={stop}", run_dir=tmp_path / "config")
    made = [EMAWeightAveraging(decay=0.7), EarlyStopping("val/loss", patience=3)]
    monkeypatch.setattr(LinearRegression, "configure_callbacks", lambda self: made)
    in_module = run(*options, run_dir=tmp_path / "module")
    assert in_module.stopped == in_config.stopped == "val/loss has not improved for 3 validations"
    assert (in_module.steps, in_module.best) == (in_config.steps, in_config.best)
    assert in_module.metrics == in_config.metrics and "test/loss" in in_module.metrics
    monkeypatch.setattr(LinearRegression, "configure_callbacks", lambda self: BatchSizeFinder())
    with pytest.raises(UserError, match=r"LinearRegression.configure_callbacks\[0\] must not be BatchSizeFinder: it"):
        run(*options, run_dir=tmp_path / "refused")


class Average(Callback):
    """Averages the weights after each step by hand, and records each validation's loss at the average."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.average = {name: weight.detach().clone() for name, weight in pl_module.linear.state_dict().items()}
        self.first, self.averages = True, dict[int, dict[str, torch.Tensor]]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, weight in pl_module.linear.state_dict().items():
            # torch's AveragedModel starts with a copy of the weights after the first step
            self.average[name] = weight.clone() if self.first else 0.7 * self.average[name] + 0.3 * weight
        self.first, self.averages[trainer.global_step] = False, dict(self.average)


def test_an_exponential_average_is_validated_saved_and_tested(run: Run, tmp_path: Path) -> None:
    by_hand = Average()
    options = *SMALL, *EMA, "model.init_weight=0"
    result = run(*options, callbacks=[by_hand], run_dir=tmp_path / "run")
    assert result.best is not None and result.best["step"] < result.steps
    for file, step in (("last", result.steps), ("best", result.best["step"])):
        saved = read_checkpoint(tmp_path / f"run/checkpoints/{file}.ckpt")["state_dict"]
        for name, expected in by_hand.averages[step].items():
            assert torch.allclose(saved[f"linear.{name}"], expected, rtol=1e-12)
    save_config(tmp_path / "run", *QUIET, *options)
    found = evaluate(tmp_path / "run", "best")
    assert found["test/loss"] == pytest.approx(result.metrics["test/loss"], rel=1e-12)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("+callbacks.ema.update_starting_at_epoch=1", "+callbacks.ema.update_every_n_steps=3"),
        ("+callbacks.ema.update_starting_at_step=12", "model=mlp", "data.standardize=true"),
    ],
)
def test_an_exponential_average_resumes_bit_for_bit(more: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    steps = [SignalAt(4), SignalAt(5), SignalAt(13), SignalAt(99)]
    assert_resumes_exactly(run, tmp_path, steps, *SMALL, *EMA, *more)


def test_where_an_exponential_average_cannot_be_right_it_is_refused(run: Run, tmp_path: Path) -> None:
    without = "data.val_fraction=0"
    with pytest.raises(UserError, match=r"monitor\.metric must be a metric of validation with EMAWeightAveraging"):
        run(*SMALL, *EMA, without)
    run(*SMALL, *EMA, run_dir=tmp_path / "r")
    with pytest.raises(UserError, match="max_epochs must stay 4: EMAWeightAveraging replaces the weights at the end"):
        train(config_of(*QUIET, *SMALL, *EMA, "trainer.max_epochs=6"), tmp_path / "r", resume=True, longer=True)
    with pytest.raises(UserError, match=r"EMAWeightAveraging needs a single device \(trainer\.devices=1\)"):
        setup = SimpleNamespace(world_size=2, callbacks=[EMAWeightAveraging()])
        LayersBeforeAveraging().setup(setup, SimpleNamespace(), "fit")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [SWA, EMA])
def test_layers_created_after_the_copy_are_refused(
    options: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = LinearRegression.configure_model
    monkeypatch.setattr(LinearRegression, "configure_model", lambda self: None)
    monkeypatch.setattr(LinearRegression, "setup", lambda self, stage: configure(self))
    needed = "needs the layers of LinearRegression to be made in __init__ or configure_model: it copies the module"
    with pytest.raises(UserError, match=needed):
        run(*SMALL, *options)
    monkeypatch.setattr(LinearRegression, "configure_model", lambda self: self.made_in_setup)
    with pytest.raises(UserError, match=f"{needed} before its setup .*made_in_setup"):
        run(*SMALL, *options)
