"""Tests optimizers with separate weights for training and evaluation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from test_resume import SignalAt, assert_resumes_exactly
from test_stepping import SMALL, curve, rows

from descent.training.checkpoint_io import read_checkpoint


class Doubled(torch.optim.SGD):
    """Its training weights are twice its evaluation weights."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["train_mode"] = False

    def train(self) -> None:
        self._switch(True, 2.0)

    def eval(self) -> None:
        self._switch(False, 0.5)

    @torch.no_grad()
    def _switch(self, to: bool, factor: float) -> None:
        for group in self.param_groups:
            if group["train_mode"] != to:
                group["train_mode"] = to
                for parameter in group["params"]:
                    parameter.mul_(factor)

    def step(self, closure: Any = None) -> Any:
        assert self.param_groups[0]["train_mode"]
        return super().step(closure)


MINE = (
    *("optimizer._target_=test_optimizer_modes.Doubled", "batch=full", "batch.size=null"),
    "packages=[torch,lightning,descent,regression,test_optimizer_modes]",
)


def test_validation_and_result_use_the_evaluation_weights(run: Run, tmp_path: Path) -> None:
    options = [*SMALL, *MINE, "optimizer.lr=0.1", "trainer.max_epochs=3", "model.init_weight=1", "model.init_bias=0"]
    result = run(*options)
    x, y, parts = rows(*options)
    a = torch.from_numpy(x[parts.train])
    a = torch.cat([a, torch.ones(len(a), 1, dtype=torch.float64)], 1)
    weights = torch.tensor([2.0, 2.0, 0.0], dtype=torch.float64)  # twice the initial weights
    losses = []
    for _ in range(3):
        weights = weights - 0.1 * 2 * a.T @ (a @ weights - torch.from_numpy(y[parts.train])) / len(a)
        predicted = torch.from_numpy(x[parts.val]) @ weights[:2] / 2 + weights[2] / 2
        losses.append(float((predicted - torch.from_numpy(y[parts.val])).square().mean()))
    assert list(curve(tmp_path / "0", "val/loss").values()) == pytest.approx(losses, rel=1e-6)
    assert [*result.parameters["weight"], result.parameters["bias"]] == pytest.approx((weights / 2).tolist())
    assert result.metrics["val/loss"] == pytest.approx(losses[-1])


@pytest.mark.parametrize("step", [2, 6, 7])  # 6 steps an epoch
def test_a_run_with_two_weight_modes_resumes_exactly(step: int, run: Run, tmp_path: Path) -> None:
    options = [*SMALL, *MINE, "batch=mini", "batch.size=8", "trainer.max_epochs=3"]
    assert_resumes_exactly(run, tmp_path, [SignalAt(step, where="on_before_backward")], *options)


def test_an_interrupted_result_has_evaluation_weights_and_its_checkpoint_training_weights(
    run: Run, tmp_path: Path
) -> None:
    options = [*SMALL, *MINE, "batch=mini", "batch.size=8", "trainer.max_epochs=3"]
    result = run(*options, callbacks=[SignalAt(8, where="on_before_backward")], run_dir=tmp_path / "r")
    weights = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]
    assert result.status == "interrupted" and result.parameters is not None
    assert result.parameters["weight"] == pytest.approx((weights["linear.weight"][0] / 2).tolist())
    assert result.parameters["bias"] == pytest.approx(weights["linear.bias"].item() / 2)
