"""Compares the tutorials' experiments after every step with loops in plain Python."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Run, config_of, load
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.batches.rows import Batch
from descent.training.sparse_callback import SparseCallback

TOLERANCE = 1e-12  # absolute where a number is below 1, relative above

HOURS = [([1.0], 2.0), ([2.0], 4.0), ([3.0], 6.0)]
LINE = [([1.0], 2.0), ([2.0], 4.0), ([3.0], 6.0), ([4.0], 8.0)]
TWO_FEATURES = [([1.0, 2.0], 3.0), ([3.0, 4.0], 7.0)]
DECAY = [0.95**epoch for epoch in range(100)]  # the learning rate of each epoch of ``exploding``

Rows = list[tuple[list[float], float]]  # inputs and target
Path = list[list[float]]  # parameters before the first step and after each: [w_1, .., w_d], and b with a bias


class Trace(SparseCallback):
    """Records the parameters, and the learning rate that the next step uses, at the start and after every step."""

    def __init__(self) -> None:
        self.path: Path = []
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record(trainer, pl_module)

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor) -> bool:
        self._record(trainer, trainer.lightning_module)
        return False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._record(trainer, pl_module)

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        linear: Any = pl_module.linear
        bias = [] if linear.bias is None else [linear.bias.item()]
        self.path.append([*linear.weight[0].tolist(), *bias])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


# Each optimizer's change of a parameter in a step, with torch's default settings.

State = defaultdict[str, float]  # of one parameter; every entry starts at 0
Update = Callable[[float, float, State], float]


def sgd(gradient: float, rate: float, state: State) -> float:
    return -rate * gradient


def adagrad(gradient: float, rate: float, state: State) -> float:
    state["sum"] += gradient**2
    return -rate * gradient / (math.sqrt(state["sum"]) + 1e-10)


def adadelta(gradient: float, rate: float, state: State) -> float:
    state["gradients"] = 0.9 * state["gradients"] + 0.1 * gradient**2
    step = math.sqrt(state["steps"] + 1e-6) / math.sqrt(state["gradients"] + 1e-6) * gradient
    state["steps"] = 0.9 * state["steps"] + 0.1 * step**2
    return -rate * step


def rmsprop(gradient: float, rate: float, state: State) -> float:
    state["mean"] = 0.99 * state["mean"] + 0.01 * gradient**2
    return -rate * gradient / (math.sqrt(state["mean"]) + 1e-8)


def adam(gradient: float, rate: float, state: State) -> float:
    state["t"] += 1
    state["m"] = 0.9 * state["m"] + 0.1 * gradient
    state["v"] = 0.999 * state["v"] + 0.001 * gradient**2
    m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.999 ** state["t"])
    return -rate * m / (math.sqrt(v) + 1e-8)


def clip_none(gradient: list[float]) -> list[float]:
    return gradient


def clip_norm(gradient: list[float]) -> list[float]:
    norm = math.sqrt(sum(g**2 for g in gradient))
    return [g * min(1.0, 1.0 / (norm + 1e-6)) for g in gradient]


def clip_value(gradient: list[float]) -> list[float]:
    return [max(-1.0, min(1.0, g)) for g in gradient]


CLIPS = {"none": clip_none, "norm": clip_norm, "value": clip_value}


def mse_gradient(rows: Rows, parameters: list[float]) -> list[float]:
    """Returns ``mean(2 x (w x + b - y))`` for each parameter; b is the weight of a constant input of 1."""
    gradient = [0.0] * len(parameters)
    for inputs, target in rows:
        x = [*inputs, 1.0][: len(parameters)]
        error = sum(p * x_j for p, x_j in zip(parameters, x, strict=True)) - target
        gradient = [g + 2 * x_j * error / len(rows) for g, x_j in zip(gradient, x, strict=True)]
    return gradient


def descend(
    rows: Rows,
    start: list[float],
    update: Update,
    rates: list[float],
    clip: str = "none",
    size: int | None = None,
    along: Path | None = None,
) -> Path:
    """Returns the path of gradient descent: one rate per epoch, ``size`` rows a step (``None``: all), in order.

    With ``along``, each step starts from that path, not from the previous step.
    """
    size = size or len(rows)
    path, states = [start], [State(float) for _ in start]
    for rate in rates:
        for first in range(0, len(rows), size):
            parameters = along[len(path) - 1] if along else path[-1]
            gradient = CLIPS[clip](mse_gradient(rows[first : first + size], parameters))
            changes = [update(g, rate, state) for g, state in zip(gradient, states, strict=True)]
            path.append([p + change for p, change in zip(parameters, changes, strict=True)])
    return path


def assert_same_path(trained: Path, by_hand: Path) -> None:
    assert len(trained) == len(by_hand)
    for step, (ours, theirs) in enumerate(zip(trained, by_hand, strict=True)):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE), f"after step {step}"


@pytest.mark.parametrize(
    ("experiment", "rows", "epochs", "start", "weight", "x", "before"),
    [
        pytest.param("study_hours", HOURS, 100, 1.0, 1.9999444396553017, 4.0, 4.0, id="study_hours"),
        pytest.param("line_numpy", LINE, 20, 0.0, 1.9224809378309713, 5.0, 0.0, id="line_numpy"),
    ],
)
def test_one_weight_matches_the_hand_written_loop_and_the_known_result(
    experiment: str, rows: Rows, epochs: int, start: float, weight: float, x: float, before: float, run: Run
) -> None:
    trace = Trace()
    result = run(f"experiment={experiment}", callbacks=[trace])
    assert_same_path(trace.path, descend(rows, [start], sgd, [0.01] * epochs))
    assert result.parameters == {"weight": [pytest.approx(weight, rel=0, abs=TOLERANCE)], "bias": None}
    after = pytest.approx(x * weight, rel=TOLERANCE)
    assert result.predictions == [{"input": [x], "before": before, "after": after}]


def test_stochastic_descent_takes_one_row_per_step_in_order(run: Run) -> None:
    trace = Trace()
    run("experiment=study_hours_stochastic", callbacks=[trace])
    assert_same_path(trace.path, descend(HOURS, [1.0], sgd, [0.01] * 100, size=1))


@pytest.mark.parametrize(
    ("experiment", "optimizer"),
    [("line_linear", update) for update in (sgd, adagrad, adadelta, adam)]
    + [("two_features", update) for update in (sgd, adam)],
)
def test_optimizer_matches_the_hand_written_loop_after_every_step(experiment: str, optimizer: Update, run: Run) -> None:
    rows = {"line_linear": LINE, "two_features": TWO_FEATURES}[experiment]
    trace = Trace()
    run(f"experiment={experiment}", f"optimizer={optimizer.__name__}", callbacks=[trace])
    start = trace.path[0]  # torch's random initialisation
    assert_same_path(trace.path, descend(rows, start, optimizer, [0.01] * 1000))
    assert trace.rates == [0.01] * 1001


def test_rmsprop_matches_each_hand_written_step(run: Run) -> None:
    trace = Trace()
    run("experiment=two_features", "optimizer=rmsprop", callbacks=[trace])
    start, rates = trace.path[0], [0.01] * 1000
    # From about step 570 its steps are too long for the curvature and amplify rounding differences, also within
    # torch. So the paths are compared for 500 steps, and all steps one by one from the trained parameters.
    assert_same_path(trace.path[:501], descend(TWO_FEATURES, start, rmsprop, rates[:500]))
    assert_same_path(trace.path, descend(TWO_FEATURES, start, rmsprop, rates, along=trace.path))


def test_ten_features_matches_the_hand_written_loop_after_every_step(run: Run) -> None:
    data = load(config_of("experiment=ten_features").data)
    rows = list(zip(data.inputs.tolist(), data.targets.tolist(), strict=True))
    trace = Trace()
    run("experiment=ten_features", callbacks=[trace])
    start = trace.path[0]
    assert len(start) == 10 + 1
    assert_same_path(trace.path, descend(rows, start, sgd, [0.1] * 100))


@pytest.mark.parametrize("clip", ["norm", "value"])
def test_clipped_descent_matches_the_hand_written_loop_and_converges(clip: str, run: Run) -> None:
    trace = Trace()
    result = run("experiment=exploding", f"clip={clip}", callbacks=[trace])
    assert_same_path(trace.path, descend(LINE, [0.0], sgd, DECAY, clip=clip))
    assert trace.rates[:-1] == pytest.approx(DECAY, rel=TOLERANCE)
    assert (result.status, result.parameters) == ("completed", {"weight": [pytest.approx(2, abs=1e-6)], "bias": None})


def test_unclipped_descent_diverges_like_the_hand_written_loop(run: Run) -> None:
    trace = Trace()
    result = run("experiment=exploding", "clip=none", callbacks=[trace])
    assert result.status == "diverged"
    assert "optimizer.lr" in (result.reason or "")
    assert result.parameters is not None
    # the run ends within its last step, before the trace records it
    assert_same_path([*trace.path, result.parameters["weight"]], descend(LINE, [0.0], sgd, DECAY[: result.steps]))


@pytest.mark.parametrize("clip", ["norm", "value"])
def test_clipping_several_parameters_matches_the_hand_written_loop(clip: str, run: Run) -> None:
    trace = Trace()
    run("experiment=two_features", f"clip={clip}", "trainer.max_epochs=100", callbacks=[trace])
    assert_same_path(trace.path, descend(TWO_FEATURES, trace.path[0], sgd, [0.01] * 100, clip=clip))
