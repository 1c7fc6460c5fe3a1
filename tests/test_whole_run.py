"""Compares every point of every curve of a run with one loop in NumPy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Listener, Run
from lightning.pytorch import Callback
from test_stepping import rows
from test_train import events

LR, EPOCHS, LOG_EVERY, SIZE = 0.1, 23, 4, 20
OPTIONS = (
    *("trainer=float64", "data.num_samples=60", "data.num_features=2", "data.noise_std=0.5", "batch.shuffle=false"),
    *(f"optimizer.lr={LR}", f"trainer.max_epochs={EPOCHS}", f"trainer.log_every_n_steps={LOG_EVERY}"),
    *(f"batch.size={SIZE}", "model.init_weight=0.5", "model.init_bias=0"),
)
Numbers = np.ndarray[Any, Any]


@dataclass
class ByHand:
    """Trains on 48 rows in batches of 20, 20 and 8; ``points`` holds values by tag and step.

    Standardised training inputs and targets have mean 0 and deviation 1, or without bias root mean square 1. All
    logged values but gradients and updates are in the data's own units.
    """

    bias: bool
    standardize: bool
    clip: str
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    best: tuple[float, int] = (np.inf, 0)

    def __post_init__(self) -> None:
        self.x, self.y, self.parts = rows(*OPTIONS)
        x, y = self.x[self.parts.train], self.y[self.parts.train]
        self.mean, self.scale, self.y_mean, self.y_scale = np.zeros(2), np.ones(2), 0.0, 1.0
        if self.standardize:
            if self.bias:
                self.mean, self.y_mean = x.mean(0), y.mean()
            self.scale, self.y_scale = (
                np.sqrt(np.mean((x - self.mean) ** 2, 0)),
                np.sqrt(np.mean((y - self.y_mean) ** 2)),
            )
        self.a = (x - self.mean) / self.scale
        if self.bias:
            self.a = np.c_[self.a, np.ones(len(x))]
        self.b = (y - self.y_mean) / self.y_scale
        self.optimum = np.linalg.lstsq(self.a, self.b, rcond=None)[0]

    def own(self, p: Numbers) -> Numbers:
        """Returns weights and bias in the data's own units."""
        weight = p[:2] * self.y_scale / self.scale
        bias = p[2] * self.y_scale + self.y_mean - weight @ self.mean if self.bias else 0.0
        return np.array([*weight, bias])

    def loss(self, p: Numbers, part: str) -> dict[str, float]:
        x, y = (table[getattr(self.parts, part)] for table in (self.x, self.y))
        *weight, bias = self.own(p)
        errors = x @ weight + bias - y
        r2 = 1 - np.sum(errors**2) / np.sum((y - y.mean()) ** 2)
        return {"loss": np.mean(errors**2), "mae": np.mean(np.abs(errors)), "r2": r2}

    def write(self, step: int, **values: float) -> None:
        for tag, value in values.items():
            self.points.setdefault(tag.replace("__", "/"), {})[step] = value

    def write_weights(self, step: int, p: Numbers) -> None:
        first, second, bias = self.own(p)
        self.write(step, parameters__weight_1=first, parameters__weight_2=second, lr=LR)
        if self.bias:
            self.write(step, parameters__bias=bias)
        excess = self.loss(p, "train")["loss"] - self.loss(self.optimum, "train")["loss"]
        self.write(step, optimum__excess_loss=excess)
        self.write(step, optimum__distance=np.linalg.norm(self.own(p) - self.own(self.optimum)))

    def train(self) -> None:
        p = np.array([0.5, 0.5, 0.0][: 2 + self.bias])
        self.write_weights(0, p)
        step = seen = clipped_before = 0
        for epoch in range(1, EPOCHS + 1):
            for start in (0, 20, 40):
                step += 1
                a, b = self.a[start : start + SIZE], self.b[start : start + SIZE]
                loss = np.mean((a @ p - b) ** 2) * self.y_scale**2
                gradient = 2 * a.T @ (a @ p - b) / len(b)
                norm = np.linalg.norm(gradient)
                clipped = {
                    "none": gradient,
                    "norm": gradient * min(1.0, 0.2 / (norm + 1e-6)),
                    "value": gradient.clip(-0.2, 0.2),
                }[self.clip]
                before, p = p, p - LR * clipped
                if step % LOG_EVERY == 0 or (epoch <= 20 and start == 40):
                    seen, clipped_before = seen + 1, clipped_before + (not np.array_equal(gradient, clipped))
                    self.write_weights(step, p)
                    norm_clipped = np.linalg.norm(clipped)
                    self.write(step, train__loss=loss, grad__norm=norm)
                    if self.clip != "none":
                        self.write(step, grad__norm_clipped=norm_clipped, grad__clipped=clipped_before / seen)
                    if self.clip == "value":
                        cosine = min(1.0, gradient @ clipped / norm / norm_clipped)
                        self.write(step, grad__angle=np.degrees(np.arccos(cosine)))
                    self.write(step, update__relative=LR * norm_clipped / np.linalg.norm(before))
            if epoch <= 20 or epoch == EPOCHS:  # with 3 steps an epoch the next due validation is after epoch 54
                self.write(step, **{f"val__{name}": value for name, value in self.loss(p, "val").items()})
                if self.loss(p, "val")["loss"] < self.best[0]:
                    self.best, best = (self.loss(p, "val")["loss"], step), p
        self.write_weights(step, p)  # the run ends between two points
        self.write(step, **{f"test__{name}": value for name, value in self.loss(best, "test").items()})
        final = {"train__loss": self.loss(p, "train")["loss"]}
        tags = [tag for tag in self.points if tag.startswith(("val/", "test/", "optimum/"))]
        final |= {tag.replace("/", "_"): self.points[tag][step] for tag in tags}
        self.write(step, **{f"hp__{tag.replace('__', '_')}": value for tag, value in final.items()})


@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
@pytest.mark.parametrize(
    ("bias", "standardize", "clip"), [(True, False, "norm"), (True, True, "value"), (False, True, "none")]
)
def test_every_point_of_every_curve_equals_a_loop_by_hand(
    bias: bool, standardize: bool, clip: str, callbacks: list[Callback], run: Run, tmp_path: Path
) -> None:
    expected = ByHand(bias, standardize, clip)
    expected.train()
    options = [f"clip={clip}", *([] if clip == "none" else ["clip.gradient_clip_val=0.2"])]
    options += [f"data.standardize={standardize}", *([] if bias else ["model.bias=false", "model.init_bias=null"])]
    result = run(*OPTIONS, *options, callbacks=callbacks)
    written = events(tmp_path / "0")
    found = {tag: {p.step: p.value for p in written.Scalars(tag)} for tag in written.Tags()["scalars"]}
    seconds = found.pop("train/seconds")
    for split in ("train", "val"):  # TensorBoard's first two cards
        assert found.pop(f"Loss/{split}") == found[f"{split}/loss"]
    assert list(seconds) == list(found["lr"])
    assert found.keys() == expected.points.keys()
    for tag, points in expected.points.items():
        # rounding a cosine of 1 by 1e-16 gives an angle of 1e-6 degrees
        assert found[tag] == pytest.approx(points, rel=1e-5, abs=1e-5 if tag == "grad/angle" else 1e-12), tag
    assert result.best is not None
    assert (result.best["metric"], result.best["step"]) == ("val/loss", expected.best[1])
    assert result.best["value"] == pytest.approx(expected.best[0], rel=1e-9)
