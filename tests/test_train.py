"""Tests a single run: seeds, precision, metrics, checkpoints and logs."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, config_of, load, split
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from descent.run.result import read_result
from regression.model import LinearRegression


class Dtypes(Callback):
    """Records the dtype of every tensor in a training step."""

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        tensors = [*batch, outputs["loss"], *pl_module.parameters(), *pl_module.buffers()]
        tensors += [
            v for s in trainer.optimizers[0].state.values() for v in s.values() if torch.is_tensor(v) and v.ndim
        ]
        self.seen |= {tensor.dtype for tensor in tensors}


def events(run_dir: Path) -> EventAccumulator:
    """The points that TensorBoard reads; a directory whose files have not changed is read once."""
    return _read(run_dir, *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in run_dir.glob("events*")))


@lru_cache(maxsize=4)
def _read(run_dir: Path, *files: object) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def test_same_seed_gives_identical_weights(run: Run) -> None:
    assert run("seed=3").parameters == run("seed=3").parameters


def test_seed_zero_is_a_valid_seed(run: Run) -> None:
    torch.manual_seed(99)
    first = run("seed=0")
    torch.manual_seed(7)
    assert run("seed=0").parameters == first.parameters
    assert run("seed=1").parameters != first.parameters


def test_the_data_depend_on_data_seed_and_not_on_seed(run: Run) -> None:
    base, other_seed, other_data = run(), run("seed=1"), run("data.seed=1")
    assert other_seed.optimum == base.optimum
    assert other_data.optimum != base.optimum


def test_double_precision_is_double_throughout(run: Run) -> None:
    dtypes = Dtypes()
    run("trainer=float64", "optimizer=adam", "model.init_weight=0.1", callbacks=[dtypes])
    assert dtypes.seen == {torch.float64}


def test_the_default_dtype_of_one_run_does_not_leak_into_the_next(run: Run) -> None:
    run("trainer=float64")
    dtypes = Dtypes()
    run(callbacks=[dtypes])
    assert dtypes.seen == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_metrics_equal_scikit_learns_in_the_datas_own_units(run: Run, tmp_path: Path) -> None:
    result = run("data=diabetes", "optimizer=adam", "trainer=float64", "trainer.max_epochs=40")
    assert result.parameters is not None
    source = load(config_of("data=diabetes").data)
    parts = split(config_of("data=diabetes").data, 442)
    weight, bias = torch.tensor(result.parameters["weight"]).double().numpy(), result.parameters["bias"]
    for name, rows in (("train", parts.train), ("val", parts.val)):
        y, predicted = source.targets[rows], source.inputs[rows] @ weight + bias
        assert result.metrics[f"{name}/loss"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-5)
        if name == "val":
            assert result.metrics["val/mae"] == pytest.approx(mean_absolute_error(y, predicted), rel=1e-5)
            assert result.metrics["val/r2"] == pytest.approx(r2_score(y, predicted), rel=1e-5)
    best = LinearRegression.load_from_checkpoint(tmp_path / "0/checkpoints/best.ckpt", weights_only=True)
    with torch.no_grad():
        predicted = best.predict_step(torch.from_numpy(source.inputs[parts.test]).float()).numpy()
    y = source.targets[parts.test]
    assert result.metrics["test/loss"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-4)
    assert result.metrics["test/mae"] == pytest.approx(mean_absolute_error(y, predicted), rel=1e-4)


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_load_without_arguments_and_with_weights_only(name: str, run: Run, tmp_path: Path) -> None:
    result = run("data=diabetes", "optimizer=adam", "scheduler=plateau", "clip=norm", "stopping=converged")
    model = LinearRegression.load_from_checkpoint(tmp_path / f"0/checkpoints/{name}.ckpt", weights_only=True)
    if name == "last":
        weight, bias = model.own_units()
        assert {"weight": weight, "bias": bias} == result.parameters


def test_the_best_checkpoint_has_the_lowest_validation_loss(run: Run, tmp_path: Path) -> None:
    run("optimizer.lr=0.1", "batch=single", "data.num_samples=60", "trainer.max_epochs=10")
    losses = [point.value for point in events(tmp_path / "0").Scalars("val/loss")]
    lowest = losses.index(min(losses))
    assert lowest != len(losses) - 1  # the best weights must differ from the last
    checkpoint = torch.load(tmp_path / "0/checkpoints/best.ckpt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (lowest, (lowest + 1) * 48)


def test_standardizing_changes_neither_the_units_nor_the_optimum(run: Run) -> None:
    plain, scaled = (run("data=diabetes", f"data.standardize={flag}", "trainer.max_epochs=1") for flag in (False, True))
    assert plain.optimum is not None and scaled.optimum is not None
    for name in ("loss", "weight", "bias"):
        assert scaled.optimum[name] == pytest.approx(plain.optimum[name], rel=1e-8)


def test_without_validation_the_training_loss_is_monitored(run: Run, tmp_path: Path) -> None:
    result = run("data.val_fraction=0", "data.test_fraction=0", "scheduler=plateau", "stopping=patience")
    assert set(result.metrics) == {"train/loss", "optimum/excess_loss", "optimum/distance"}
    assert result.stopped is not None and "train/loss has not improved" in result.stopped
    assert not [tag for tag in events(tmp_path / "0").Tags()["scalars"] if tag.startswith(("val", "test"))]


def test_lbfgs_counts_every_gradient_evaluation(run: Run) -> None:
    class Count(Callback):
        backward = 0

        def on_before_backward(self, *args: Any) -> None:
            self.backward += 1

    count = Count()
    result = run("optimizer=lbfgs", "batch=full", "trainer.max_epochs=3", callbacks=[count])
    assert result.steps == 3
    assert result.gradient_evaluations == count.backward > 3


@pytest.mark.parametrize(("batch", "size"), [("full", 800), ("single", 1), ("mini", 32)])
def test_steps_epochs_and_samples_are_counted(batch: str, size: int, run: Run) -> None:
    result = run(f"batch={batch}", "trainer.max_epochs=2")
    assert (result.steps, result.epochs, result.samples) == (2 * 800 // size, 2, 1600)
    partly = run("batch=mini", "trainer.max_steps=30")
    assert (partly.steps, partly.epochs, partly.samples) == (30, 1, 800 + 5 * 32)


@pytest.mark.parametrize("batch", ["full", "single", "mini"])
def test_tensorboard_has_a_training_point_for_every_epoch(batch: str, run: Run, tmp_path: Path) -> None:
    result = run(f"batch={batch}", "trainer.max_epochs=3", "data.num_samples=200")
    steps = [point.step for point in events(tmp_path / "0").Scalars("train/loss")]
    per_epoch = result.steps // 3
    for epoch in range(3):
        assert any(epoch * per_epoch < step <= (epoch + 1) * per_epoch for step in steps)


def test_tensorboard_has_the_tags_and_the_optimizer_step_as_its_axis(run: Run, tmp_path: Path) -> None:
    result = run("trainer.max_epochs=2", "scheduler=step", "scheduler.step_size=1")
    found = events(tmp_path / "0")
    weights = {f"parameters/weight_{i}" for i in range(1, 6)}
    metrics = {f"{split}/{name}" for split in ("val", "test") for name in ("loss", "mae", "r2")}
    why = {"train/seconds", "grad/norm", "update/relative"}
    first = {"Loss/train", "Loss/val"}
    expected = {"train/loss", "lr", "parameters/bias", "optimum/excess_loss", "optimum/distance", *weights, *metrics}
    assert {tag for tag in found.Tags()["scalars"] if not tag.startswith("hp/")} == expected | why | first
    for copy, tag in (("Loss/train", "train/loss"), ("Loss/val", "val/loss")):
        shown, measured = ([(point.step, point.value) for point in found.Scalars(name)] for name in (copy, tag))
        assert shown == measured
    assert [point.step for point in found.Scalars("val/loss")] == [25, 50]
    assert [point.step for point in found.Scalars("lr")] == [0, 25, 50]
    assert [point.value for point in found.Scalars("lr")] == pytest.approx([0.05, 0.025, 0.0125])
    assert result.parameters is not None
    assert found.Scalars("parameters/bias")[-1].value == pytest.approx(result.parameters["bias"])
    assert len(list((tmp_path / "0").glob("events.out.tfevents*"))) == 1


def test_hparams_hold_the_final_metrics_of_the_run(run: Run, tmp_path: Path) -> None:
    result = run("optimizer=adam", "trainer.max_epochs=2")
    found = events(tmp_path / "0")
    start = plugin_data_pb2.HParamsPluginData.FromString(
        found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    assert start["optimizer"].string_value == "adam"
    assert start["optimizer.lr"].number_value == 0.02
    assert start["batch.size"].number_value == 32
    for name, value in result.metrics.items():
        assert found.Scalars(f"hp/{name.replace('/', '_')}")[-1].value == pytest.approx(value)
    assert "hp_metric" not in found.Tags()["scalars"]


def test_result_json_equals_the_result(run: Run, tmp_path: Path) -> None:
    result = run("optimizer=adam", "predict_at=[[1,2,3,4,5]]", "trainer.max_epochs=2", "seed=5")
    written = read_result(tmp_path / "0")
    assert written == json.loads(json.dumps(result.as_dict()))
    assert written["status"] == "completed" and written["reason"] is None
    assert written["seed"] == 5
    assert written["hparams"]["optimizer"] == "adam" and written["hparams"]["optimizer.lr"] == 0.02
    assert written["rows"] == {"train": 800, "val": 100, "test": 100}
    weight, bias = written["parameters"]["weight"], written["parameters"]["bias"]
    after = sum(w * x for w, x in zip(weight, [1, 2, 3, 4, 5], strict=True)) + bias
    assert written["predictions"][0]["after"] == pytest.approx(after, rel=1e-5)
    assert written["predictions"][0]["before"] != written["predictions"][0]["after"]
    assert set(written["versions"]) >= {"torch", "lightning", "python"}
    assert {"loss", "weight", "bias", "condition_number", "max_stable_lr"} <= set(written["optimum"])


def test_a_diverging_run_ends_early_with_advice(run: Run, tmp_path: Path) -> None:
    result = run("optimizer.lr=100", "batch=full", "trainer.max_epochs=1000")
    assert result.status == "diverged"
    assert result.steps < 20
    assert result.reason is not None
    assert "at learning rate 100" in result.reason and "clip=norm" in result.reason
    assert read_result(tmp_path / "0")["status"] == "diverged"


def test_a_batch_larger_than_the_training_set_is_the_whole_set_with_a_note(run: Run, caplog: Any) -> None:
    result = run("data=line", "trainer.max_epochs=5")
    assert result.steps == 5
    assert "batch.size=32 is more than the 4 training rows" in caplog.text


def test_a_callback_that_monitors_the_validation_loss_gets_each_epoch(run: Run) -> None:
    options = "batch=full", "optimizer.lr=0.3", "trainer.max_epochs=200"
    stopped = [
        run(*options, *every, callbacks=[EarlyStopping("val/loss", patience=4)])
        for every in ([], ["trainer.check_val_every_n_epoch=1"])
    ]
    assert stopped[0].steps == stopped[1].steps < 200
