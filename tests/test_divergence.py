"""When a run counts as diverged: held against the losses of a loop by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, save_config
from test_resume import SignalAt
from test_stepping import FULL, SMALL, curve, rows

from descent.checkpoint_io import read_checkpoint
from descent.errors import UserError
from descent.resume import resume


def losses_by_hand(steps: int, lr: float) -> list[float]:
    """The loss before each step of gradient descent on all rows, from 0."""
    inputs, targets, parts = rows(*SMALL)
    a, y = np.c_[inputs[parts.train], np.ones(len(parts.train))], targets[parts.train]
    p, losses = np.zeros(3), []
    for _ in range(steps):
        losses.append(float(np.mean((a @ p - y) ** 2)))
        p = p - lr * 2 * a.T @ (a @ p - y) / len(y)
    return losses


@pytest.mark.parametrize("share", [0.999, 1.001])  # of the loss before the ninth step
@pytest.mark.parametrize("steps", [[], [2, 5]], ids=str)
def test_a_run_diverges_at_the_step_whose_loss_is_too_many_times_the_first_one(
    steps: list[int], share: float, run: Run, tmp_path: Path
) -> None:
    losses = losses_by_hand(10, lr=1.1)
    factor = share * losses[8] / losses[0]  # the first is that of predicting 0, too
    expected = 9 if share < 1 else 10
    options = [*SMALL, *FULL, "optimizer.lr=1.1", "trainer.max_epochs=100", f"stopping.diverged_above={factor}"]
    for number, step in enumerate([*steps, -1]):
        result = run(*options, callbacks=[SignalAt(step)], run_dir=tmp_path / "r", resume=number > 0)
        assert result.status == ("diverged" if step == -1 else "interrupted")
    assert result.reason is not None
    assert result.reason.startswith(f"the training loss before step {expected} is over {factor:g} times the first")
    found = re.search(r"first \((.+?)\), the learning rate is 1.1:", result.reason)
    assert found is not None and float(found[1]) == pytest.approx(losses[expected - 1], rel=1e-2)


NEAR = ("data=line", "batch=full", "trainer=float64", "model.init_weight=2", "model.init_bias=1e-6")  # y = 2 x


def test_a_run_that_begins_near_its_optimum_may_leave_it(run: Run, tmp_path: Path) -> None:
    result = run(*NEAR, "optimizer=adam", "optimizer.lr=0.02", "trainer.max_epochs=30", "trainer.log_every_n_steps=1")
    losses = list(curve(tmp_path / "0", "train/loss").values())
    assert losses[0] == pytest.approx(1e-12, rel=1e-3)
    assert max(losses) > 1e-7  # more than 10,000 times the first, and far less than that of predicting 0
    assert result.status == "completed"


@pytest.mark.parametrize("epochs", [0, 2], ids=lambda epochs: f"after-{epochs}-epochs")
def test_a_diverged_run_leaves_its_best_checkpoint(epochs: int, run: Run, tmp_path: Path) -> None:
    # a rate that is multiplied after each epoch: two epochs of six steps are well, or none
    rate = ["optimizer.lr=0.05", "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=1e6"]
    options = rate if epochs else ["optimizer.lr=1e6"]
    initial = "model.init_weight=0.25", "model.init_bias=0.5"
    result = run(*SMALL, *initial, *options, "trainer.max_epochs=30", run_dir=tmp_path / "r")
    assert result.status == "diverged"
    checkpoint = read_checkpoint(tmp_path / "r/checkpoints/best.ckpt")
    weights = [checkpoint["state_dict"][f"linear.{name}"].flatten().tolist() for name in ("weight", "bias")]
    assert checkpoint["global_step"] == 6 * epochs
    assert result.best is not None and result.best["step"] == 6 * epochs
    if not epochs:
        assert weights == [[0.25, 0.25], [0.5]]
        return
    x, y, parts = rows(*SMALL)
    loss = np.mean((x[parts.val] @ np.array(weights[0]) + weights[1] - y[parts.val]) ** 2)
    assert loss < np.mean(y[parts.val] ** 2)
    assert curve(tmp_path / "r", "val/loss")[12] == pytest.approx(loss, rel=1e-6)


def test_a_diverged_run_is_not_resumed(run: Run, tmp_path: Path) -> None:
    overrides = *SMALL, "optimizer.lr=1e6"
    reason = run(*overrides, run_dir=tmp_path / "r").reason
    save_config(tmp_path / "r", *overrides)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'r'} has diverged, and would again: {reason}")):
        resume(tmp_path / "r")


def test_a_last_step_that_leaves_all_bounds_is_divergence(run: Run) -> None:
    result = run(*SMALL, *FULL, "optimizer.lr=1e9", "trainer.max_epochs=1")
    assert (result.status, result.steps) == ("diverged", 1)
    assert result.reason == "the training loss after the last step is not finite, or far above the first"


def test_clipping_is_advised_where_there_is_none(run: Run) -> None:
    plain, clipped = (
        run(*SMALL, *options, "optimizer.lr=1e9").reason
        for options in ([], ["clip=norm", "clip.gradient_clip_val=1e6"])
    )
    assert plain is not None and "try a lower optimizer.lr, or clip=norm" in plain
    assert clipped is not None and "try a lower optimizer.lr" in clipped and "clip=" not in clipped


@pytest.mark.parametrize(
    ("options", "noted"),
    [(["scheduler=linear_warmup"], True), (["+optimizer.dampening=0.5"], False)],
    ids=["warmup", "dampening"],
)
def test_the_rate_that_is_noted_is_the_largest_of_a_warm_up_and_none_with_dampening(
    options: list[str], noted: bool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run(*SMALL, *FULL, "optimizer=momentum", "optimizer.lr=5", *options, "trainer.max_epochs=2")
    assert ("note: the learning rate 5 is above" in caplog.text) == noted
