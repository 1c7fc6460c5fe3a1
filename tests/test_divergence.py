"""Compares the step at which a run diverges with the losses of a plain loop."""

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Listener, Run, needs_fast, save_config
from test_resume import SignalAt
from test_stepping import FULL, SMALL, curve, rows

from descent.errors import UserError
from descent.run.resume import resume
from descent.training.checkpoint_io import read_checkpoint
from descent.training.divergence import Divergence, DivergenceError
from descent.training.intervals import Intervals
from descent.training.sparse_callback import SparseCallback, callbacks_of


def losses_by_hand(steps: int, lr: float) -> list[float]:
    """Returns the loss before each step of gradient descent on all rows, from 0."""
    inputs, targets, parts = rows(*SMALL)
    a, y = np.c_[inputs[parts.train], np.ones(len(parts.train))], targets[parts.train]
    p, losses = np.zeros(3), []
    for _ in range(steps):
        losses.append(float(np.mean((a @ p - y) ** 2)))
        p = p - lr * 2 * a.T @ (a @ p - y) / len(y)
    return losses


@pytest.mark.parametrize("share", [0.999, 1.001])  # times the loss before the ninth step
@pytest.mark.parametrize("steps", [[], [2, 5]], ids=str)
def test_a_run_diverges_when_its_loss_exceeds_the_factor_times_the_first(
    steps: list[int], share: float, run: Run, tmp_path: Path
) -> None:
    losses = losses_by_hand(10, lr=1.1)
    factor = share * losses[8] / losses[0]  # the first is also the loss of predicting 0
    expected = 9 if share < 1 else 10
    options = [*SMALL, *FULL, "optimizer.lr=1.1", "trainer.max_epochs=100", f"stopping.diverged_above={factor}"]
    for number, step in enumerate([*steps, -1]):
        result = run(*options, callbacks=[SignalAt(step)], run_dir=tmp_path / "r", resume=number > 0)
        assert result.status == ("diverged" if step == -1 else "interrupted")
    assert result.reason is not None
    assert result.reason.startswith(f"the training loss before step {expected} is over {factor:g} times the first")
    found = re.search(r"first \((.+?)\) at learning rate 1.1:", result.reason)
    assert found is not None and float(found[1]) == pytest.approx(losses[expected - 1], rel=1e-2)


NEAR = ("data=line", "batch=full", "trainer=float64", "model.init_weight=2", "model.init_bias=1e-6")  # y = 2 x


def test_a_run_that_starts_near_its_optimum_may_leave_it(run: Run, tmp_path: Path) -> None:
    result = run(*NEAR, "optimizer=adam", "optimizer.lr=0.02", "trainer.max_epochs=30", "trainer.log_every_n_steps=1")
    losses = list(curve(tmp_path / "0", "train/loss").values())
    assert losses[0] == pytest.approx(1e-12, rel=1e-3)
    assert max(losses) > 1e-7  # over 10,000 times the first, but far below the loss of predicting 0
    assert result.status == "completed"


@pytest.mark.parametrize("epochs", [0, 2], ids=lambda epochs: f"after-{epochs}-epochs")
def test_a_diverged_run_keeps_its_best_checkpoint(epochs: int, run: Run, tmp_path: Path) -> None:
    # the scheduler multiplies the rate by 1e6 after two epochs of six steps, or the rate is too large at once
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
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'r'} has diverged, and would diverge again: {reason}")):
        resume(tmp_path / "r")


def test_a_loss_that_explodes_in_the_last_step_is_divergence(run: Run) -> None:
    result = run(*SMALL, *FULL, "optimizer.lr=1e9", "trainer.max_epochs=1")
    assert (result.status, result.steps) == ("diverged", 1)
    assert result.reason == "the loss or a weight after the last step is not finite, or the loss is far above the first"


def test_the_reason_suggests_clipping_unless_the_run_clips(run: Run) -> None:
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
def test_the_rate_note_uses_the_largest_warmup_rate_and_is_absent_with_dampening(
    options: list[str], noted: bool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run(*SMALL, *FULL, "optimizer=momentum", "optimizer.lr=5", *options, "trainer.max_epochs=2")
    assert ("note: the learning rate is 5; above" in caplog.text) == noted


LINE = "data=line", "trainer=float64", "model.init_weight=0", "model.init_bias=0"  # y = 2 x at 1, 2, 3, 4
SHARPEST = (17 + 269**0.5) / 2  # the larger root of (15 - h) (2 - h) - 5^2, of the Hessian [[15, 5], [5, 2]]


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(("descent", "regression"))]


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (["optimizer=sgd"], 2 / SHARPEST),
        (["optimizer=sgd", "+optimizer.weight_decay=3"], 2 / (SHARPEST + 3)),
        (["optimizer=momentum"], 3.8 / SHARPEST),
        (["optimizer=nesterov"], 3.8 / 2.8 / SHARPEST),
        (["optimizer=nesterov", "scheduler=linear_warmup"], 3.8 / 2.8 / SHARPEST),
        (["optimizer=adam"], None),
        (["optimizer=sgd", "+optimizer.maximize=true"], None),
        (["optimizer=sgd", "clip=norm"], None),
        (["optimizer=sgd", "clip=value"], None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_a_rate_above_the_stable_one_is_noted_once(
    options: list[str], most: float | None, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = [*LINE, *options, "batch=full", "trainer.max_epochs=3"]
    run(*small, f"optimizer.lr={(most or 1) * 0.999}")
    assert notes(caplog) == []
    rate = (most or 1) * 1.001
    run(*small, f"optimizer.lr={rate}", callbacks=[SignalAt(1)], run_dir=tmp_path / "r")
    noted = "note: the learning rate is {:g}; above {:.4g} this optimizer diverges on full batches,"
    expected = [noted.format(rate, most) + " unless a scheduler lowers the rate soon enough"] if most else []
    assert notes(caplog) == expected
    run(*small, f"optimizer.lr={rate}", run_dir=tmp_path / "r", resume=True)
    assert notes(caplog) == expected


def losses_on_the_line(rate: float, momentum: float, size: int) -> list[float]:
    """Returns the batch loss before each of 20 steps, from 0, with the rows in order."""
    a, y = np.c_[[1.0, 2, 3, 4], np.ones(4)], np.array([2.0, 4, 6, 8])
    p, velocity, losses = np.zeros(2), np.zeros(2), []
    for step in range(20):
        batch = np.arange(step * size, step * size + size) % 4
        losses.append(float(np.mean((a[batch] @ p - y[batch]) ** 2)))
        velocity = momentum * velocity + 2 * a[batch].T @ (a[batch] @ p - y[batch]) / size
        p = p - rate * velocity
    return losses


STABLE = " (full batches are stable below 0.1198)"
SMALLER = " (full batches are stable below 0.2275; smaller batches need a lower rate)"


@pytest.mark.parametrize(
    ("options", "rate", "momentum", "size", "factor", "advice"),
    [
        (["batch=full"], 0.2, 0.0, 4, 10000, f"try a lower optimizer.lr, or clip=norm{STABLE}"),
        (["batch=full", "clip=value", "clip.gradient_clip_val=1e9"], 0.5, 0.0, 4, 100.5, "try a lower optimizer.lr"),
        (["batch=single"], 0.2, 0.9, 1, 1000, f"try a lower optimizer.lr, or clip=norm{SMALLER}"),
    ],
    ids=["full", "clipped", "single"],
)
@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
def test_the_reason_names_the_step_the_factor_and_what_might_help(  # type: ignore[no-untyped-def]
    options, rate: float, momentum: float, size: int, factor: float, advice: str, callbacks, run: Run
) -> None:
    losses = losses_on_the_line(rate, momentum, size)
    first = 30.0  # the loss of all rows at 0: the mean of 4, 16, 36 and 64
    (step, *_) = (step for step, loss in enumerate(losses, 1) if loss > factor * first)
    rest = f"optimizer.lr={rate}", f"stopping.diverged_above={factor}", "batch.shuffle=false", "trainer.max_epochs=99"
    optimizer = "optimizer=momentum" if momentum else "optimizer=sgd"
    result = run(*LINE, optimizer, *options, *rest, callbacks=callbacks)
    how = f"is over {factor:g} times the first ({losses[step - 1]:.3g}) at learning rate {rate}: "
    assert result.reason == f"the training loss before step {step} {how}{advice}"


def test_a_loss_beyond_single_precision_is_not_finite(run: Run) -> None:
    result = run(*LINE, "trainer=default", "batch=full", "optimizer=adam", "optimizer.lr=1e29", "trainer.max_epochs=9")
    reason = "the training loss before step 2 is not finite (inf) at learning rate 1e+29: "
    assert result.reason == reason + "try a lower optimizer.lr, or clip=norm"


def test_a_loss_that_is_never_finite_is_not_blamed_on_the_rate() -> None:
    divergence, loss = Divergence(10.0), torch.tensor(math.nan)
    with pytest.raises(
        DivergenceError, match=r"\(nan\) .*: look for nan and inf in the data and in the initial weights$"
    ):
        divergence.on_step(TRAINER, 1, (), loss)


class OnAccelerator(SimpleNamespace):
    """A loss on another device, which is read only when needed."""

    device = SimpleNamespace(type="cuda")

    def detach(self) -> "OnAccelerator":
        return self

    def item(self) -> float:
        return float(self.value)


TRAINER: Any = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5}])], gradient_clip_val=None)


def stepping(*losses: float, first: float | None = None) -> Divergence:
    """Returns the callback after steps on an accelerator that logs every fifth step."""
    divergence = Divergence(10.0)
    divergence.first, divergence.intervals = first, Intervals(5, None)
    for step, loss in enumerate(losses, 1):
        assert divergence.on_step(TRAINER, step, (), OnAccelerator(value=loss)) is False  # type: ignore[arg-type]
        assert divergence.on_step(TRAINER, step, (), None) is False
    return divergence


def test_on_an_accelerator_losses_are_checked_at_logged_steps_and_checkpoints() -> None:
    stepping().check(TRAINER)  # nothing to check
    divergence = stepping(1.0, math.nan, 1.0, math.nan)
    with pytest.raises(
        DivergenceError,
        match=r"^the training loss before step 4 is not finite \(nan\) .*, or look for nan in the data$",
    ):
        divergence.check(TRAINER)
    with pytest.raises(DivergenceError, match=r"^the training loss before step 5 is not finite \(inf\)"):
        stepping(1.0, math.nan, 1.0, 1.0, math.inf)


def test_without_a_loss_of_all_rows_the_first_checked_loss_sets_the_limit() -> None:
    divergence = stepping(math.nan, 9.0, 9.0, 9.0, -2.0, 9.0)
    assert (divergence.first, divergence.limit, divergence.state_dict()) == (2.0, 20.0, {"first": 2.0})
    stepping(20.0, first=2.0).check(TRAINER)
    with pytest.raises(DivergenceError, match=r"before step 1 is over 10 times the first \(20\.1\) .* rate 0\.5"):
        stepping(20.1, first=2.0).check(TRAINER)
    assert stepping(first=0.0).limit == stepping(first=1e308).limit == stepping().limit == sys.float_info.max


class LossAt(SparseCallback):
    """Makes the loss of step 4 nan and unchecked, as on an accelerator."""

    def on_step(self, trainer: Any, step: int, *_: Any) -> bool:
        if step == 4:
            (divergence,) = callbacks_of(trainer, Divergence)
            divergence.latest = 4, torch.tensor(math.nan)
        return False


@needs_fast  # only fast steps call on_step
def test_diverged_weights_are_not_checkpointed(run: Run, tmp_path: Path) -> None:
    result = run(*SMALL, "checkpoint.every_steps=4", callbacks=[LossAt()], run_dir=tmp_path / "r")
    assert result.status == "diverged"
    assert str(result.reason).startswith("the training loss before step 4 is not finite (nan)")
    assert not (tmp_path / "r/checkpoints/last.ckpt").exists()
