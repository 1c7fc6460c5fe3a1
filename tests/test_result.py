"""Compares every key of a result with a loop in NumPy, and tests how results are written and read."""

import json
import math
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, config_of, load, split
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from tensorboard.plugins.hparams import plugin_data_pb2
from test_resume import SMALL, SignalAt, Trace
from test_train import events

from descent.config.identity import config_digest
from descent.errors import UserError, as_yaml
from descent.files import locked
from descent.run.result import Result, git_state, is_finished, read_result, run_result
from descent.run.saved_config import saved_config
from descent.run.train import train
from regression.model import LinearRegression

INPUTS, TARGETS = [[1], [2], [3], [5]], [2, 4, 7, 9]
OWN = (
    *("data=line", f"data.inputs={INPUTS}", f"data.targets={TARGETS}", "trainer=float64", "batch=full", "seed=5"),
    *("optimizer.lr=0.01", "model.init_weight=0.5", "model.init_bias=0", "stopping.max_samples=8"),
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=false", "figures=false", "predict_at=[[5],[-1]]"),
)
HPARAMS = {
    "seed": 5,
    **{
        "data": "line",
        "data._target_": "regression.data.sources.ListedData",
        "data.inputs": INPUTS,
        "data.targets": TARGETS,
        "data.seed": 0,
    },
    **{"data.val_fraction": 0.0, "data.test_fraction": 0.0, "data.standardize": False, "data.max_rows": None},
    **{"model": "linear", "model._target_": "regression.model.LinearRegression", "model.bias": True},
    "model.loss": "mse",
    **{"model.init_weight": 0.5, "model.init_bias": 0},
    **{"optimizer": "sgd", "optimizer._target_": "torch.optim.SGD", "optimizer.lr": 0.01, "scheduler": "none"},
    **{"batch": "full", "batch.size": None, "batch.shuffle": False},
    **{"clip": "none", "clip.gradient_clip_val": None, "clip.gradient_clip_algorithm": None},
    **{
        "stopping": "none",
        "stopping.max_epochs": 20,
        "stopping.monitor": "val/loss",
        "stopping.mode": "min",
        "stopping.patience": None,
        "stopping.min_delta": 0.0,
    },
    **{"stopping.gradient_norm": None, "stopping.loss_change": None},
    **{"stopping.max_samples": 8, "stopping.max_gradient_evaluations": None, "stopping.max_seconds": None},
    **{"stopping.diverged_above": 10000.0, "trainer": "float64", "trainer.accelerator": "cpu"},
    **{"trainer.precision": "64-true", "trainer.max_epochs": 3, "trainer.max_steps": None},
    **{"trainer.log_every_n_steps": 50, "trainer.check_val_every_n_epoch": None, "trainer.deterministic": False},
    **{"trainer.fast_dev_run": False, "trainer.profiler": None, "trainer.enable_progress_bar": False},
    **{"trainer.num_threads": None},
    **{"trainer.fast": True, "logger.tensorboard.save_dir": None, "callbacks": "regression", "logger": "tensorboard"},
    "callbacks.divergence._target_": "regression.callbacks.stable_rate.StableRate",
    "callbacks.parameters._target_": "regression.callbacks.parameters.Parameters",
    "callbacks.optimum._target_": "regression.callbacks.to_optimum.ToOptimum",
    "callbacks.predictions._target_": "regression.callbacks.predictions.Predictions",
    "callbacks.figures._target_": "regression.callbacks.figures.Figures",
    "logger.tensorboard._target_": "descent.training.logger.RunLogger",
}


def test_the_result_of_a_run_equals_a_loop_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["my scripts/train.py", "a=1"])
    result = train(config_of(*OWN), tmp_path / "r")
    written = json.loads((tmp_path / "r/result.json").read_text())
    assert written == read_result(tmp_path / "r") == json.loads(json.dumps(result.as_dict()))

    x, y, w, b = np.array(INPUTS, float)[:, 0], np.array(TARGETS, float), 0.5, 0.0
    for _ in range(2):
        error = w * x + b - y
        w, b = w - 0.01 * 2 * (error * x).mean(), b - 0.01 * 2 * error.mean()
    loss = ((w * x + b - y) ** 2).mean()
    a = np.stack([x, np.ones(4)], axis=1)
    least = np.linalg.lstsq(a, y, rcond=None)[0]
    lowest = ((a @ least - y) ** 2).mean()
    hessian = 2 * a.T @ a / 4
    small, large = np.linalg.eigvalsh(hessian)
    numbers = {
        "metrics": {
            **{"train/loss": loss, "optimum/excess_loss": loss - lowest},
            "optimum/distance": math.dist((w, b), least),
        },
        "optimum": {
            **{"loss": lowest, "bias": least[1], "condition_number": large / small, "max_stable_lr": 2 / large},
            **{"best_lr": 2 / (large + small), "contraction": (large - small) / (large + small), "unique": 1},
            "lower_by": 0.0,
        },
        "best": {"step": 2, "value": loss},
    }
    assert written["optimum"].pop("weight") == [pytest.approx(least[0])]
    assert np.array(written["optimum"].pop("hessian")) == pytest.approx(hessian)
    assert written["best"].pop("metric") == "train/loss"
    for name, expected in numbers.items():
        assert written.pop(name) == pytest.approx(expected), name
    assert written.pop("parameters") == {"weight": [pytest.approx(w)], "bias": pytest.approx(b)}
    before, after = [2.5, -0.5], [5 * w + b, -w + b]
    assert written.pop("predictions") == [
        {"input": row, "before": pytest.approx(was), "after": pytest.approx(now)}
        for row, was, now in zip([[5], [-1]], before, after, strict=True)
    ]
    assert written.pop("seconds") > 0 and written.pop("checksum") > 0
    packages = ("torch", "lightning", "torchmetrics", "hydra-core", "tensorboard")
    assert written == {
        **{"status": "completed", "seed": 5, "command": "python 'my scripts/train.py' a=1", "reason": None},
        **{"stopped": "its budget of 8 samples is spent", "true_parameters": None, "signal": None},
        **{"monitor": {"metric": "train/loss", "mode": "min"}, "quantities": {"loss": "mse"}},
        **{"features": ["x_1"], "terms": ["x_1"], "target": "y", "rows": {"train": 4, "val": 0, "test": 0}},
        **{"steps": 2, "epochs": 2, "samples": 8, "gradient_evaluations": 2},
        **{"config_digest": config_digest(config_of(*OWN)), "hparams": HPARAMS},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "code": {"regression": written["code"]["regression"]},
        "git": written["git"],
    }


def table_of(path: Path) -> tuple[str, ...]:
    """Returns the overrides of a run on a table of 20 rows, ten of them for training."""
    rows = [(k % 7, (k * k) % 5, 3 * (k % 7) - (k * k) % 5 + k % 3) for k in range(20)]
    path.write_text("width,depth,price\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    parts = "data.val_fraction=0.2", "data.test_fraction=0.3", "trainer=float64"
    return ("data=table", f"data.path={path}", "data.target=price", *parts)


def measured(overrides: tuple[str, ...], weight: list[float], bias: float | None) -> dict[str, float]:
    """Returns the metrics of all three splits by scikit-learn."""
    data = config_of(*overrides).data
    source = load(data)
    parts = split(data, len(source.targets))
    found = {}
    for name, rows in (("train", parts.train), ("val", parts.val), ("test", parts.test)):
        y, predicted = source.targets[rows], source.inputs[rows] @ np.array(weight) + (bias or 0.0)
        found |= {f"{name}/loss": mean_squared_error(y, predicted), f"{name}/mae": mean_absolute_error(y, predicted)}
        found[f"{name}/r2"] = r2_score(y, predicted)
    return found


def test_test_metrics_use_the_best_weights_and_the_others_the_last(run: Run, tmp_path: Path) -> None:
    overrides = table_of(tmp_path / "rows.csv")
    steps = "batch.size=3", "optimizer.lr=0.03", "trainer.max_epochs=9", "trainer.check_val_every_n_epoch=1"
    result = run(*overrides, *steps, run_dir=tmp_path / "r")
    assert (result.features, result.target) == (["width", "depth"], "price")
    assert result.rows == {"train": 10, "val": 4, "test": 6}
    assert result.parameters is not None and result.best is not None
    last = measured(overrides, **result.parameters)
    assert result.best["step"] < result.steps == 36  # the best weights must differ from the last
    weight, bias = LinearRegression.load_from_checkpoint(tmp_path / "r/checkpoints/best.ckpt").own_units()
    best = measured(overrides, weight, bias)
    assert result.best == {"step": result.best["step"], "metric": "val/loss", "value": pytest.approx(best["val/loss"])}
    metrics = {name: value for name, value in result.metrics.items() if not name.startswith("optimum/")}
    names = ["train/loss", "val/loss", "val/mae", "val/r2"]
    expected = {name: last[name] for name in names} | {k: v for k, v in best.items() if k.startswith("test/")}
    assert metrics == pytest.approx(expected)
    assert list(result.metrics)[:4] == names and list(result.metrics)[-3:] == ["test/loss", "test/mae", "test/r2"]
    assert {"optimum/excess_loss", "optimum/distance"} == set(result.metrics) - set(metrics)

    found = events(tmp_path / "r")
    points = {tag: [(p.step, p.value) for p in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    final = {f"hp/{name.replace('/', '_')}": value for name, value in result.metrics.items()}
    final |= {name: value for name, value in metrics.items() if name.startswith("test/")}
    assert {tag: p for tag, p in points.items() if tag.startswith(("hp", "test/"))} == {
        tag: [(36, pytest.approx(value))] for tag, value in final.items()
    }
    plugin = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert set(settings) == {
        *("seed", "data", "data._target_", "data.val_fraction", "data.test_fraction", "data.standardize", "data.seed"),
        *(
            "data.path",
            "data.missing",
            "data.streaming",
            "data.chunk_rows",
            "data.target",
            "model",
            "model._target_",
            "model.bias",
            "model.loss",
            "optimizer",
            "optimizer._target_",
            "optimizer.lr",
        ),
        *("scheduler", "batch", "batch.size", "batch.shuffle", "clip", "stopping", "trainer"),
        *("trainer.max_epochs", "trainer.precision"),
    }
    assert settings["trainer.max_epochs"].number_value == 9
    assert settings["trainer.precision"].string_value == "64-true"


def test_an_interrupted_run_has_metrics_of_its_last_weights_and_no_test_metrics(run: Run, tmp_path: Path) -> None:
    overrides = table_of(tmp_path / "rows.csv")
    at = SignalAt(6)
    result = run(*overrides, "batch.size=3", "figures=true", callbacks=[at], run_dir=tmp_path / "r")
    assert (result.status, result.reason) == ("interrupted", "interrupted by SIGTERM")
    assert (result.signal, result.exit_code, read_result(tmp_path / "r")["signal"]) == (15, 143, 15)
    assert result.steps in (6, 7)  # batches of 3, 3, 3 and 1 rows
    assert (result.epochs, result.samples, result.stopped) == (1, 10 + 3 * (result.steps - 4), None)
    assert result.parameters is not None
    expected = measured(overrides, **result.parameters)
    for name in ("train/loss", "val/loss", "val/mae", "val/r2"):
        assert result.metrics[name] == pytest.approx(expected[name]), name
    assert not [name for name in result.metrics if name.startswith("test/")]
    assert not [tag for tag in events(tmp_path / "r").Tags()["scalars"] if tag.startswith(("hp", "test"))]
    assert not (tmp_path / "r/figures").exists()


def test_a_diverged_run_logs_hparams_with_its_metrics_and_no_test_metrics(run: Run, tmp_path: Path) -> None:
    result = run(*SMALL, "optimizer.lr=100", "figures=true", run_dir=tmp_path / "r")
    assert (result.status, result.exit_code) == ("diverged", 3)
    tags = {tag for tag in events(tmp_path / "r").Tags()["scalars"] if tag.startswith(("hp", "test"))}
    assert tags == {f"hp/{name.replace('/', '_')}" for name in result.metrics} >= {"hp/train_loss", "hp/val_loss"}
    assert not any(tag.startswith("test") or "test" in tag for tag in tags)
    assert not (tmp_path / "r/figures").exists()


@pytest.mark.parametrize(
    "rule",
    [
        ["stopping=patience", "stopping.patience=9", "trainer.max_epochs=4"],
        ["stopping.loss_change=1e-9", "trainer.max_epochs=4"],
        ["stopping.max_samples=161"],
    ],
    ids=",".join,
)
def test_a_stopping_rule_is_named_only_if_it_stopped_the_run(rule: list[str], run: Run) -> None:
    result = run(*SMALL, *rule)
    assert (result.epochs, result.stopped) == (4, None)


def test_without_noise_the_true_parameters_equal_least_squares(run: Run) -> None:
    for bias in ("true", "false"):
        overrides = "data.num_samples=50", "data.noise_std=0", "trainer=float64", "trainer.max_epochs=1"
        result = run(*overrides, f"model.bias={bias}")
        assert result.true_parameters is not None and result.optimum is not None and result.parameters is not None
        assert set(result.true_parameters) == {"weight", "bias"}
        if bias == "true":
            for name in ("weight", "bias"):
                assert result.optimum[name] == pytest.approx(result.true_parameters[name])
        else:
            assert result.optimum["bias"] is result.parameters["bias"] is None
        assert "hessian" not in result.optimum
    one = run("data.num_samples=50", "data.num_features=1", "model.bias=false", "trainer.max_epochs=1")
    assert one.optimum is not None and one.optimum["bias"] is None and "hessian" not in one.optimum


def test_without_validation_the_config_in_the_result_is_unchanged(run: Run) -> None:
    config = config_of("data=line", "scheduler=plateau", "trainer.max_epochs=1", "trainer.enable_progress_bar=false")
    result = run("data=line", "scheduler=plateau", "trainer.max_epochs=1", "figures=true")
    assert result.hparams["scheduler.monitor"] == config.scheduler["monitor"] == "val/loss"
    assert result.config_digest == config_digest(config)


def test_large_target_values_are_not_divergence(run: Run, tmp_path: Path) -> None:
    rows = "".join(f"{k},{1e6 * (k % 7)}\n" for k in range(40))
    (tmp_path / "rows.csv").write_text(f"x,y\n{rows}")
    table = ("data=table", f"data.path={tmp_path}/rows.csv", "data.target=y", "data.standardize=true")
    result = run(*table, "trainer.max_epochs=2")
    assert (result.status, result.reason) == ("completed", None)
    assert 1e12 < result.metrics["train/loss"] < 1e13


def test_in_double_precision_the_initial_weights_are_double(run: Run) -> None:
    start = "model.init_weight=0.1", "model.init_bias=0"
    result = run("data=line", "trainer=float64", *start, "predict_at=[[1]]", "trainer.max_epochs=1")
    assert result.predictions[0]["before"] == 0.1


def test_constant_targets_have_finite_metrics(run: Run) -> None:
    result = run("data=line", "data.targets=[3,3,3,3]", "data.val_fraction=0.5", "trainer.max_epochs=1")
    assert result.parameters is not None
    assert math.isfinite(result.metrics["val/loss"]) and math.isfinite(result.metrics["val/mae"])


def test_training_prints_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(*SMALL, "data.num_features=1")
    assert capsys.readouterr() == ("", "")


def test_only_a_non_unique_optimum_is_noted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    note = (
        "note: the least-squares solution is not unique: the reported one is the nearest to 0 in the units of training,"
        " and optimum/distance is the distance to the nearest of all solutions"
    )
    run("data=two_features", "batch=full", "trainer=float64", "optimizer.lr=0.01", "trainer.max_epochs=1")
    assert [record.getMessage() for record in caplog.records if record.name.startswith(("descent", "regression"))] == [
        note
    ]
    caplog.clear()
    run(*SMALL, "trainer.max_epochs=1")
    assert not [record for record in caplog.records if record.name.startswith(("descent", "regression"))]


def test_a_run_in_a_used_directory_starts_again_unless_it_resumes(run: Run, tmp_path: Path) -> None:
    steps = []
    for resume in (True, False, True):
        trace = Trace()
        run(*SMALL, callbacks=[trace], run_dir=tmp_path / "r", resume=resume)
        steps.append(len(trace.steps))
    assert steps == [20, 20, 0]


@pytest.mark.parametrize(
    ("status", "signal", "code"),
    [("completed", None, 0), ("failed", None, 1), ("diverged", None, 3), ("interrupted", 2, 130)],
)
def test_the_exit_code_says_how_a_run_ended(status: Any, signal: int | None, code: int) -> None:
    assert Result(status, seed=0, command="", signal=signal).exit_code == code


def test_nonfinite_numbers_are_written_as_null_and_text_is_not_escaped(tmp_path: Path) -> None:
    result = Result("diverged", 0, "c", metrics={"a": math.nan, "b": -math.inf, "c": 0.5}, entries={"target": "Größe"})
    result.entries["predictions"] = [{"input": [1.0], "before": math.inf, "after": 2}]
    result.write(tmp_path)
    text = (tmp_path / "result.json").read_bytes().decode()
    assert text.startswith('{\n  "status": "diverged",\n') and text.endswith("\n}\n") and '"Größe"' in text
    found = json.loads(text)
    assert found["metrics"] == {"a": None, "b": None, "c": 0.5}
    assert found["predictions"] == [{"input": [1.0], "before": None, "after": 2}]


@pytest.mark.parametrize(
    ("files", "kept"),
    [([], False), (["result.json"], False), (["last.ckpt"], False), (["result.json", "last.ckpt"], True)],
    ids=str,
)
def test_a_failure_keeps_the_result_of_a_run_that_can_be_resumed(files: list[str], kept: bool, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in files:
        (tmp_path / ("checkpoints" if name == "last.ckpt" else "") / name).write_text("before")
    Result("failed", None, "").write_unless_trained(tmp_path)
    text = (tmp_path / "result.json").read_text()
    assert text == "before" if kept else json.loads(text)["status"] == "failed"


@pytest.mark.parametrize(
    ("status", "finished"), [("completed", True), ("diverged", True), ("interrupted", False), ("failed", False)]
)
def test_a_run_is_finished_when_it_is_completed_or_diverged(status: Any, finished: bool, tmp_path: Path) -> None:
    assert not is_finished(tmp_path)
    Result(status, 0, "").write(tmp_path)
    assert is_finished(tmp_path) == finished
    (tmp_path / "result.json").write_text("{")
    assert not is_finished(tmp_path)
    (tmp_path / "result.json").unlink()
    (tmp_path / "result.json").mkdir()
    assert not is_finished(tmp_path)


KINDS: dict[str, tuple[list[Any], list[Any]]] = {  # valid values, invalid values
    **dict.fromkeys(("metrics", "hparams"), ([{}, {"a": 1}], [None, [], 1, "a", True])),
    **dict.fromkeys(("steps", "epochs", "samples", "gradient_evaluations"), ([0, 7], [None, 1.5, "1", [], False])),
    **dict.fromkeys(("reason", "stopped"), ([None, "a"], [1, [], {}, True])),
    "best": ([None, {}], [1, [], "a", False]),
    "status": (["completed", "diverged", "interrupted", "failed"], ["done", "", None, 1]),
    "seconds": ([0, 1.5], [None, "1", True]),
    **dict.fromkeys(("seed", "checksum"), ([None, 3], [1.5, "1", True, []])),
}

WORDS = {
    **dict.fromkeys(("metrics", "hparams", "best"), "a group of keys"),
    **dict.fromkeys(("steps", "epochs", "samples", "gradient_evaluations", "seed", "checksum"), "a valid integer"),
    **dict.fromkeys(("reason", "stopped"), "a valid string"),
    **{"status": "one of completed, diverged, interrupted, failed", "seconds": "a valid number"},
}


@pytest.mark.parametrize("key", KINDS)
def test_reading_a_result_checks_the_type_of_each_value(key: str, tmp_path: Path) -> None:
    Result("completed", 0, "").write(tmp_path)
    path = tmp_path / "result.json"
    whole = json.loads(path.read_text())
    right, wrong = KINDS[key]
    for value in right:
        path.write_text(json.dumps(whole | {key: value}))
        assert read_result(tmp_path)[key] == value
    for value in wrong:
        path.write_text(json.dumps(whole | {key: value}))
        with pytest.raises(UserError) as raised:
            read_result(tmp_path)
        assert (
            str(raised.value) == f"{path} must be the result of a run; {key} must be {WORDS[key]}, got {as_yaml(value)}"
        )
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
    with pytest.raises(UserError) as raised:
        read_result(tmp_path)
    assert str(raised.value) == f"{path} must be the result of a run; {key} is missing"


def test_the_error_of_an_invalid_result_shows_its_first_40_characters(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps("x" * 50))
    with pytest.raises(UserError) as raised:
        read_result(tmp_path)
    assert str(raised.value) == f"{path} must be the result of a run, a JSON object, got '{'x' * 39}"
    with pytest.raises(FileNotFoundError):
        read_result(tmp_path / "none")


def test_a_run_that_never_trained_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run_result(tmp_path)
    assert str(raised.value) == f"RUN_DIR must be the directory of a run that has ended, got {tmp_path}"
    assert not [*tmp_path.iterdir()]
    Result("failed", 0, "", "it has no rows").write(tmp_path)
    with pytest.raises(UserError) as raised:
        run_result(tmp_path)
    assert str(raised.value) == f"{tmp_path} must have trained; it has not: it has no rows"
    Result("failed", 0, "", "it stopped", metrics={"train/loss": 1.0}).write(tmp_path)
    assert run_result(tmp_path)["reason"] == "it stopped"
    Result("interrupted", 0, "", entries={"features": ["x"]}).write(tmp_path)
    assert run_result(tmp_path)["status"] == "interrupted"


def test_a_run_without_a_result_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run_dir = tmp_path / "a run"
    last = run_dir / "checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    said = f"RUN_DIR must be the directory of a run that has ended, got {run_dir}"
    with pytest.raises(UserError) as raised:
        run_result(run_dir)
    assert str(raised.value) == f"{said}: python scripts/resume.py '{run_dir}' finishes it"
    with locked(run_dir, "the run"), pytest.raises(UserError) as raised:
        run_result(run_dir)
    assert str(raised.value) == f"{said}: it is still training"
    for read in (run_result, saved_config):
        with pytest.raises(UserError) as raised:
            read(last)
        assert str(raised.value) == f"RUN_DIR must be the directory of a run, not a file in it, got {last}"


def test_an_unknown_attribute_of_a_result_is_refused_with_the_known_entries() -> None:
    with pytest.raises(AttributeError) as raised:
        _ = Result("completed", 0, "", entries={"optimum": 1, "mine": 2}).optimun
    assert str(raised.value) == "this result has no optimun: it has optimum, mine"
    with pytest.raises(AttributeError, match=r"^this result has no mine: it has no callback entries$"):
        _ = Result("completed", 0, "").mine
    first, second = (Result("completed", 0, "", callbacks=[object()]) for _ in range(2))
    assert first == second and "callbacks" not in repr(first) and "callbacks" not in first.as_dict()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_state_is_the_commit_and_whether_it_is_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "descent"
    package.mkdir()
    (package / "__init__.py").touch()
    for key in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr("descent.run.result.__file__", str(package / "result.py"))

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def state() -> Any:
        git_state.cache_clear()
        return git_state()

    try:
        assert state() is None  # no repository
        git("init")
        assert state() is None  # no commit
        git("add", ".")
        git("commit", "-m", "x")
        assert state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
        (tmp_path / ".git/HEAD").write_bytes("ref: refs/heads/größe".encode("latin-1"))
        git("commit", "-q", "--allow-empty", "-m", "y")
        assert state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
        (package / "new.py").touch()
        assert state() == {"commit": git("rev-parse", "HEAD"), "dirty": True}
        monkeypatch.setenv("PATH", str(tmp_path))
        assert state() is None  # no git
    finally:
        git_state.cache_clear()
