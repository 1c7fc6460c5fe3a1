"""Compares steps, schedules and batch orders with loops by hand."""

import math
from collections.abc import Sequence
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Listener, Run, config_of, load, split
from sklearn.metrics import mean_squared_error
from test_resume import Trace
from test_train import events
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from descent.batches.in_memory import InMemoryBatches
from descent.errors import UserError
from regression.data.split import Split

SMALL = ("trainer=float64", "data.num_samples=60", "data.num_features=2", "data.noise_std=0.5", "batch.size=8")
PER_EPOCH = 6  # 48 training rows
FULL = ("batch=full", "batch.size=null", "model.init_weight=0", "model.init_bias=0")


def curve(run_dir: Path, tag: str) -> dict[int, float]:
    return {point.step: point.value for point in events(run_dir).Scalars(tag)}


def rows(*overrides: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Split]:
    """Returns all inputs, all targets and the split."""
    config = config_of(*overrides)
    found = load(config.data)
    return found.inputs, found.targets, split(config.data, len(found.targets))


@pytest.mark.parametrize("max_steps", [13, 18, 126, 131])  # after epoch 20 not every epoch is validated
@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
def test_the_last_validation_uses_the_weights_after_max_steps(
    max_steps: int, callbacks: Sequence[Any], run: Run, tmp_path: Path
) -> None:
    result = run(*SMALL, "trainer.max_epochs=100", f"trainer.max_steps={max_steps}", callbacks=callbacks)
    assert result.steps == max_steps
    validated = curve(tmp_path / "0", "val/loss")
    ends = [step for step in range(PER_EPOCH, max_steps, PER_EPOCH) if step <= 20 * PER_EPOCH]
    assert list(validated) == [*ends, max_steps]
    x, y, parts = rows(*SMALL)
    assert result.parameters is not None
    predicted = x[parts.val] @ result.parameters["weight"] + result.parameters["bias"]
    loss = mean_squared_error(y[parts.val], predicted)
    assert validated[max_steps] == pytest.approx(loss, rel=1e-6)
    assert result.metrics["val/loss"] == pytest.approx(loss, rel=1e-12)
    assert list(curve(tmp_path / "0", "parameters/bias").items())[-1] == (
        max_steps,
        pytest.approx(result.parameters["bias"], rel=1e-6),
    )


@pytest.mark.parametrize("log_every", [1, 50])  # with 50, many steps run in one call
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scheduler=cosine"], lambda k: 0.02 * (1 + math.cos(math.pi * (k // 3) / 20))),
        (["scheduler=cosine", "scheduler.interval=epoch"], lambda k: 0.02 * (1 + math.cos(math.pi * (k // 18) / 3))),
        (["scheduler=exponential"], lambda k: 0.04 * 0.9 ** (k // 18)),
        (["scheduler=exponential", "scheduler.interval=step"], lambda k: 0.04 * 0.9 ** (k // 3)),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_a_schedule_with_frequency_3_follows_its_closed_form(  # type: ignore[no-untyped-def]
    overrides, expected, log_every: int, run: Run, tmp_path: Path
) -> None:
    options = "optimizer.lr=0.04", "trainer.max_epochs=10", "scheduler.frequency=3"
    run(*SMALL, *options, *overrides, f"trainer.log_every_n_steps={log_every}")
    rates = curve(tmp_path / "0", "lr")
    assert rates == pytest.approx({step: expected(step) for step in rates}, rel=1e-5, abs=1e-9)
    assert list(rates)[-1] == 10 * PER_EPOCH


def test_cosine_with_frequency_4_ends_at_zero_with_6_steps_per_epoch(run: Run, tmp_path: Path) -> None:
    run(*SMALL, "trainer.max_epochs=10", "scheduler=cosine", "scheduler.frequency=4")
    assert curve(tmp_path / "0", "lr")[10 * PER_EPOCH] == pytest.approx(0.0, abs=1e-9)


def test_a_frequency_above_the_steps_of_an_epoch_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match=f"scheduler.frequency must be at most {PER_EPOCH}, the steps of an epoch"):
        run(*SMALL, "scheduler=cosine", f"scheduler.frequency={PER_EPOCH + 1}")


def plateau(values: Sequence[float], rate: float, patience: int) -> list[float]:
    """Returns the learning rate after each epoch, halved when ``values`` stay flat for over ``patience`` epochs."""
    best, bad, rates = -math.inf, 0, []
    for value in values:
        if value > (best * (1 + 1e-4) if best > 0 else best * (1 - 1e-4)):
            best, bad = value, 0
        else:
            bad += 1
        if bad > patience:
            rate, bad = rate / 2, 0
        rates.append(rate)
    return rates


R2 = ("data.num_samples=100", "trainer.max_epochs=40", "trainer.log_every_n_steps=1", "trainer=float64")


def test_plateau_on_r2_waits_for_it_to_rise(run: Run, tmp_path: Path) -> None:
    options = "scheduler=plateau", "monitor={metric: val/r2, mode: max}", "scheduler.patience=1"
    run(*R2, "optimizer.lr=0.05", "batch=mini", *options)
    found = list(curve(tmp_path / "0", "val/r2").values())
    assert found[:8] == sorted(found[:8])  # with mode=min the rate would have dropped by now
    rates = curve(tmp_path / "0", "lr")
    expected = plateau(found, 0.05, 1)
    assert expected[7] == 0.05 and expected[-2] < 0.05
    assert [rates[3 * epoch + 1] for epoch in range(1, 40)] == pytest.approx(expected[:-1], rel=1e-5)


def test_plateau_on_the_training_loss_counts_epochs_without_validation(run: Run, tmp_path: Path) -> None:
    overrides = [*SMALL, "optimizer.lr=0.1", "trainer.max_epochs=30", "trainer.log_every_n_steps=1"]
    overrides += ["scheduler=plateau", "scheduler.monitor=train/loss", "scheduler.patience=1"]
    overrides += ["trainer.check_val_every_n_epoch=4"]
    run(*overrides)
    weights = [curve(tmp_path / "0", f"parameters/{name}") for name in ("weight_1", "weight_2", "bias")]
    inputs, targets, parts = rows(*overrides)
    a = np.c_[inputs[parts.train], np.ones(len(parts.train))]
    ends = range(PER_EPOCH, 30 * PER_EPOCH, PER_EPOCH)
    losses = [np.mean((a @ [curve[step] for curve in weights] - targets[parts.train]) ** 2) for step in ends]
    expected = plateau([-loss for loss in losses], 0.1, 1)
    rates = curve(tmp_path / "0", "lr")
    assert len(set(expected)) > 3
    assert [rates[step + 1] for step in ends] == pytest.approx(expected, rel=1e-5)


def test_patience_on_r2_stops_when_it_no_longer_rises(run: Run, tmp_path: Path) -> None:
    patience = "stopping=patience", "monitor.metric=val/r2", "monitor.mode=max", "stopping.patience=3"
    result = run(*R2, "optimizer.lr=0.05", "trainer.max_epochs=1000", *patience)
    found = list(curve(tmp_path / "0", "val/r2").values())
    assert result.stopped == "val/r2 has not improved for 3 validations"
    assert found.index(max(found)) == len(found) - 1 - 3 > 8
    assert result.epochs == len(found) < 1000


def test_an_improvement_below_min_delta_does_not_count(run: Run) -> None:
    patience = "stopping=patience", "stopping.patience=3"
    assert run(*R2, "trainer.max_epochs=9", *patience, "stopping.min_delta=0").epochs == 9
    assert run(*R2, "trainer.max_epochs=9", *patience, "stopping.min_delta=1000").epochs == 1 + 3


@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_lbfgs_clips_the_gradient_of_every_evaluation(
    algorithm: str, callbacks: Sequence[Any], run: Run, tmp_path: Path
) -> None:
    plain = [*SMALL, *FULL, "optimizer=lbfgs", "optimizer.lr=0.2"]
    plain += ["+optimizer.max_iter=4", "trainer.max_epochs=2"]
    result = run(*plain, f"clip={algorithm}", "clip.gradient_clip_val=0.8", callbacks=callbacks)
    inputs, targets, parts = rows(*SMALL)
    x, y = torch.from_numpy(inputs[parts.train]), torch.from_numpy(targets[parts.train])
    weight, bias = torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, lr=0.2, max_iter=4, line_search_fn="strong_wolfe")
    evaluations = clipped = 0

    def closure() -> torch.Tensor:
        nonlocal evaluations, clipped
        evaluations += 1
        optimizer.zero_grad()
        loss = mse_loss(x @ weight + bias, y)
        loss.backward()  # type: ignore[no-untyped-call]
        clipped += any(abs(p.grad).max() > 0.8 for p in parameters if p.grad is not None)
        (clip_grad_norm_ if algorithm == "norm" else clip_grad_value_)(parameters, 0.8)
        return loss

    for _ in range(2):
        optimizer.step(closure)  # type: ignore[arg-type]
    assert result.parameters is not None
    assert result.parameters["weight"] == pytest.approx(weight.tolist(), rel=1e-6)
    assert result.parameters["bias"] == pytest.approx(bias.item(), rel=1e-6)
    assert result.gradient_evaluations == evaluations
    assert clipped > 1  # not only the first of a step
    unclipped = run(*plain)
    assert unclipped.parameters is not None
    assert unclipped.parameters["weight"] != pytest.approx(weight.tolist(), rel=0.01)


def epoch_order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    batches = InMemoryBatches(torch.arange(rows).unsqueeze(1), torch.arange(rows), size=7, shuffle=True, seed=seed)
    batches.set_epoch(epoch)
    taken = list(batches)
    assert all(torch.equal(x[:, 0], y) for x, y in taken)
    return tuple(int(row) for _, y in taken for row in y)


def split_order(rows: int, data: dict[str, Any]) -> tuple[int, ...]:
    """Recovers a split's permutation from growing validation sets; its first two rows are sorted."""
    chosen = [set(split({**data, "val_fraction": k / rows}, rows).val.tolist()) for k in range(2, rows)]
    later = [more - fewer for fewer, more in pairwise(chosen)]
    last = set(range(rows)) - chosen[-1]
    return (*sorted(chosen[0]), *(row for (row,) in [*later, last]))


def test_orders_differ_between_seeds_and_epochs_and_from_the_split() -> None:
    orders = {key: epoch_order(40, *key) for key in product(range(10), range(10))}
    assert all(sorted(order) == list(range(40)) for order in orders.values())
    assert len(set(orders.values())) == 100
    data = {**config_of().data, "test_fraction": 0.0}
    splits = {split_order(40, {**data, "seed": seed}) for seed in range(10)}
    assert len(splits) == 10
    assert not splits & {(*sorted(order[:2]), *order[2:]) for order in orders.values()}


def test_each_epoch_has_every_row_once_in_its_own_order(run: Run) -> None:
    orders = []
    for seed in (0, 1):
        trace = Trace()
        run(*SMALL, f"seed={seed}", "trainer.max_epochs=25", callbacks=[trace])  # the last epochs run without hooks
        targets = [trace.steps[step][0] for step in range(1, 25 * PER_EPOCH + 1)]
        epochs = [targets[start : start + PER_EPOCH] for start in range(0, len(targets), PER_EPOCH)]
        orders += [tuple(chain.from_iterable(epoch)) for epoch in epochs]
    _, y, parts = rows(*SMALL)
    assert all(sorted(order) == pytest.approx(sorted(y[parts.train])) for order in orders)
    assert len(set(orders)) == 50
