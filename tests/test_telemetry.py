"""Compares logged gradient statistics and the distance to the optimum with loops by hand."""

from pathlib import Path

import pytest
import torch
from conftest import Run, config_of, load, split
from lightning.pytorch import LightningModule, Trainer
from test_resume import SignalAt
from test_train import events

from descent.training import telemetry
from descent.training.sparse_callback import SparseCallback, callbacks_of
from descent.training.telemetry import Telemetry

FULL = (
    *("trainer=float64", "batch=full", "data.num_samples=60", "data.num_features=2", "trainer.max_epochs=30"),
    *("model.init_weight=0", "model.init_bias=0", "trainer.log_every_n_steps=1"),
)


def curve(run_dir: Path, tag: str) -> dict[int, float]:
    return {point.step: point.value for point in events(run_dir).Scalars(tag)}


def by_hand(*overrides: str, lr: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the parameters before each step of gradient descent, and their gradients."""
    config = config_of(*FULL, *overrides)
    rows, parts = load(config.data), split(config.data, 60)
    x, y = torch.from_numpy(rows.inputs[parts.train]), torch.from_numpy(rows.targets[parts.train])
    a = torch.cat([x, torch.ones(len(y), 1)], 1)
    p, trace = torch.zeros(3, dtype=torch.float64), []
    clip = config.clip
    for _ in range(30):
        gradient = 2 * a.T @ (a @ p - y) / len(y)
        trace.append((p, gradient))
        if clip.gradient_clip_algorithm == "norm":
            gradient = gradient * min(1.0, clip.gradient_clip_val / (gradient.norm().item() + 1e-6))
        elif clip.gradient_clip_algorithm == "value":
            gradient = gradient.clamp(-clip.gradient_clip_val, clip.gradient_clip_val)
        p = p - lr * gradient
    return trace


CLIPPING = "grad/norm_clipped", "grad/angle", "grad/clipped"
TAGS = ("grad/norm", *CLIPPING, "update/relative")


def tags(run_dir: Path) -> set[str]:
    return {tag for tag in events(run_dir).Tags()["scalars"] if tag.startswith(("grad/", "update/"))}


@pytest.mark.parametrize("clip", ["none", "norm", "value"])
def test_gradient_statistics_before_and_after_clipping_equal_a_loop_by_hand(
    clip: str, run: Run, tmp_path: Path
) -> None:
    options = [f"clip={clip}", *([] if clip == "none" else ["clip.gradient_clip_val=0.5"])]
    for step in (13, -1):  # interrupted and resumed
        run(*FULL, *options, "optimizer.lr=0.1", callbacks=[SignalAt(step)], run_dir=tmp_path / "0", resume=step < 0)
    trace = by_hand(*options, lr=0.1)
    left_out = {"none": {*CLIPPING}, "norm": {"grad/angle"}, "value": set()}  # clipping by norm keeps the direction
    assert tags(tmp_path / "0") == {*TAGS} - left_out[clip]
    curves = {tag: curve(tmp_path / "0", tag) for tag in tags(tmp_path / "0")}
    clipped_steps = 0
    for step, (p, gradient) in enumerate(trace, 1):
        clipped = {
            "none": gradient,
            "norm": gradient * min(1.0, 0.5 / (gradient.norm().item() + 1e-6)),
            "value": gradient.clamp(-0.5, 0.5),
        }[clip]
        clipped_steps += not torch.equal(clipped, gradient)
        cosine = torch.nn.functional.cosine_similarity(gradient, clipped, dim=0).clamp(-1, 1)
        expected = {
            "grad/norm": gradient.norm().item(),
            "grad/norm_clipped": clipped.norm().item(),
            "grad/angle": torch.rad2deg(torch.acos(cosine)).item(),
            "grad/clipped": clipped_steps / step,
        }
        if step > 1:
            expected["update/relative"] = (0.1 * clipped).norm().item() / p.norm().item()
        for tag in expected.keys() & curves if step in (1, 2, 15, 30) else ():
            # rounding a cosine of 1 by 1e-16 gives an angle of 1e-6 degrees
            near = 1e-5 if tag == "grad/angle" else 0
            assert curves[tag][step] == pytest.approx(expected[tag], rel=1e-5, abs=near), tag


class Kept(SparseCallback):
    """Counts the numbers that telemetry holds when training ends."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (own,) = callbacks_of(trainer, Telemetry)
        self.numbers = sum(value.numel() for value in vars(own).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("clip", ["none", "norm", "value"])
def test_for_a_large_model_telemetry_copies_no_parameters_and_has_the_same_norms(
    clip: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*FULL, f"clip={clip}", *([] if clip == "none" else ["clip.gradient_clip_val=0.5"])]
    kept = [Kept(), Kept()]
    for callback, most in zip(kept, (3, 2), strict=True):  # the model has 3 parameters
        monkeypatch.setattr(telemetry, "MOST_KEPT", most)
        run(*options, "optimizer.lr=0.1", callbacks=[callback])
    assert [callback.numbers for callback in kept] == [2 * 3 + 1, 1]  # gradient, parameters and a norm
    assert tags(tmp_path / "1") == tags(tmp_path / "0") - {"grad/angle", "update/relative"}
    for tag in tags(tmp_path / "1"):
        assert curve(tmp_path / "1", tag) == pytest.approx(curve(tmp_path / "0", tag), rel=1e-6), tag


def test_lbfgs_evaluates_more_gradients_than_it_takes_steps(run: Run, tmp_path: Path) -> None:
    result = run(*FULL, "model.init_weight=1", "optimizer=lbfgs", "trainer.max_epochs=5")
    assert curve(tmp_path / "0", "grad/evaluations")[5] == result.gradient_evaluations > 5
    tags = ("parameters/weight_1", "parameters/weight_2", "parameters/bias")
    path = torch.tensor([list(curve(tmp_path / "0", tag).values()) for tag in tags])
    relative = curve(tmp_path / "0", "update/relative")[1]  # of the whole step, not of its last evaluation
    assert relative == pytest.approx(((path[:, 1] - path[:, 0]).norm() / path[:, 0].norm()).item(), rel=1e-3)


@pytest.mark.parametrize("options", [[], ["data.standardize=true"], ["model.bias=false", "model.init_bias=null"]])
def test_excess_loss_and_distance_are_in_the_datas_own_units(options: list[str], run: Run, tmp_path: Path) -> None:
    result = run(*FULL, *options, "optimizer.lr=0.1")
    assert result.parameters is not None
    assert result.optimum is not None
    excess, distance = curve(tmp_path / "0", "optimum/excess_loss"), curve(tmp_path / "0", "optimum/distance")
    assert excess[30] == pytest.approx(result.metrics["train/loss"] - result.optimum["loss"], rel=1e-4)
    difference = torch.tensor([*result.parameters["weight"], result.parameters["bias"] or 0.0]) - torch.tensor(
        [*result.optimum["weight"], result.optimum["bias"] or 0.0]
    )
    assert distance[30] == pytest.approx(difference.norm().item(), rel=1e-3)
    assert excess[30] < excess[10] < excess[0]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_a_rate_above_the_stable_one_is_noted_before_training(
    optimizer: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run(*FULL, f"optimizer={optimizer}", "optimizer.lr=0.01")
    run(*FULL, f"optimizer={optimizer}", "optimizer.lr=3.5", "clip=norm")
    assert "this optimizer diverges" not in caplog.text
    run(*FULL, f"optimizer={optimizer}", "optimizer.lr=3.5")
    assert "note: the learning rate is 3.5; above" in caplog.text


def test_statistics_of_steps_from_zero_and_with_zero_gradients(run: Run, tmp_path: Path) -> None:
    line = "data=line", "batch=full", "trainer=float64", "trainer.max_epochs=2", "clip=value", "model.init_bias=0"
    run(*line, "model.init_weight=0")  # y = 2 x at 1, 2, 3, 4
    assert list(curve(tmp_path / "0", "update/relative")) == [2]
    run(*line, "model.init_weight=2")
    found = {tag: curve(tmp_path / "1", tag) for tag in TAGS}
    assert found == {tag: {1: 0.0, 2: 0.0} for tag in TAGS}
