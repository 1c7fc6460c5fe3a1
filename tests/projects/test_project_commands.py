"""Tests the commands on any project: train, a resumed sweep, a tuned study, evaluate, compare."""

import csv
import json
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import needs_compare, needs_fast, needs_sweep, posix
from running import HERE, NAMES, QUICK, advised, command, train_project
from test_train import events

from descent.run.result import read_result

pytestmark = [advised, posix]
# a class, the metrics it must show, a key to tune, and a key with values that are each tuned
PROJECTS: dict[str, Any] = {
    "digits": (
        "model.Digits",
        ("train/acc", "train/loss", "train/recall", "val/acc", "val/loss"),
        "optimizer.lr",
        "optimizer=sgd,adam",
    ),
    "gan": ("model.GAN", ("train/d_loss", "train/g_loss", "val/distance"), "model.lr", "model.width=8,16"),
    "lengths": (
        "model.Reader",
        ("train/error", "train/error_epoch", "train/error_step", "train/loss", "val/mae"),
        "model.lr",
        "model.width=4,8",
    ),
    "stream": ("model.Net", ("train/loss", "val/l1"), "optimizer.lr", "model.width=4,8"),
}
MODES = {
    "digits": ("val/acc", "max"),
    "gan": ("val/distance", "min"),
    "lengths": ("val/mae", "min"),
    "stream": ("val/l1", "min"),
}
SHORT = ("trainer.max_epochs=1", "trainer.log_every_n_steps=2", "trainer.enable_progress_bar=false", "figures=false")
IN_PROCESS = {"digits": ("data.num_workers=0",)}


def train(tmp_path: Path, name: str, *arguments: str, before: Callable[[], Any] = lambda: None, code: int = 0) -> str:
    flags = [argument for argument in arguments if argument.startswith("-")]  # argparse needs them in one place
    overrides = [*SHORT, *IN_PROCESS.get(name, ()), *(argument for argument in arguments if argument not in flags)]
    given = ["--config-dir", str(HERE / "conf"), *flags, f"experiment={name}", *overrides]
    found, output = command(tmp_path, "train.py", *given, before=before)
    assert found == code, output
    return output


def runs(sweep_dir: Path) -> list[tuple[int, dict[str, Any]]]:
    """The results of a sweep, each with its seed."""
    results = [read_result(path.parent) for path in sweep_dir.glob("*/result.json")]
    return [(result["seed"], result) for result in results]


@pytest.mark.parametrize("name", NAMES)
def test_train_and_evaluate_show_what_was_logged_under_its_names(name: str, tmp_path: Path) -> None:
    output = train(tmp_path, name, "name=one")
    (run_dir,) = (tmp_path / "logs/runs").iterdir()
    result = read_result(run_dir)
    tests = [metric for metric in result["metrics"] if metric.startswith("test/")]
    assert sorted(set(result["metrics"]) - set(tests)) == sorted(PROJECTS[name][1]) and len(tests) == 1
    metric, mode = MODES[name]
    assert result["monitor"] == {"metric": metric, "mode": mode}
    assert result["best"] == {"step": result["steps"], "metric": metric, "value": result["metrics"][metric]}
    for shown in result["metrics"]:
        assert shown.partition("/")[2] in output
    tags = set(events(run_dir).Tags()["scalars"])
    # TensorBoard has metrics that are logged on step and on epoch only with these endings
    assert {tag for tag in result["metrics"] if tag != "train/error"} <= tags
    assert {"lr", "grad/norm"} <= tags
    code, output = command(tmp_path, "evaluate.py", str(run_dir))
    assert code == 0, output
    assert output.splitlines()[0].split() == [tests[0], f"{result['metrics'][tests[0]]:.6g}"]
    kept = json.loads((run_dir / "evaluation.json").read_text())["metrics"]
    assert kept == {tests[0]: result["metrics"][tests[0]]}  # to the last bit


@needs_fast  # keeps an epoch's sums
@needs_sweep
@pytest.mark.parametrize("name", QUICK)
def test_an_interrupted_sweep_continues(name: str, tmp_path: Path) -> None:
    package, _, kind = PROJECTS[name][0].partition(".")
    module = getattr(import_module(f"{name}.{package}"), kind)
    step, calls = module.training_step, []

    def interrupt() -> None:
        def training_step(self: Any, *args: Any) -> Any:
            calls.append(1)
            if len(calls) == 11:  # in the second run
                signal.raise_signal(signal.SIGINT)
            return step(self, *args)

        module.training_step = training_step

    arguments = ["-m", "name=s", "seed=0,1"]
    train(tmp_path, name, *arguments, before=interrupt, code=130)
    assert {seed: run["status"] for seed, run in runs(tmp_path / "logs/sweeps/s")} == {0: "completed", 1: "interrupted"}
    output = train(tmp_path, name, *arguments)
    assert output.count("already finished") == 1
    expected = train_project(name, tmp_path / "alone", *SHORT, *IN_PROCESS.get(name, ()), "seed=1")
    assert dict(runs(tmp_path / "logs/sweeps/s"))[1]["metrics"] == expected.metrics


@needs_sweep
@needs_compare
@pytest.mark.parametrize("name", QUICK)
def test_a_tuned_study_repeats_the_best_of_each_and_ranks_by_the_monitor(name: str, tmp_path: Path) -> None:
    from descent.compare.ranking import compare

    _, _, rate, each = PROJECTS[name]
    key = each.partition("=")[0]
    tuned = (f"hydra.sweeper.for_each={key}", "hydra.sweeper.then={seed: '5,6'}")
    train(tmp_path, name, "-m", "name=t", each, f"{rate}=0.0001,0.03", "seed=0", *tuned)
    found = [run for _, run in runs(tmp_path / "logs/sweeps/t")]
    assert len(found) == 4 + 2 * 2
    metric, mode = MODES[name]
    for value in each.partition("=")[2].split(","):
        mine = [run for run in found if str(run["hparams"][key]) == value]
        first = [run for run in mine if run["seed"] == 0]
        best = (max if mode == "max" else min)(first, key=lambda run: run["metrics"][metric])
        assert {(r["seed"], r["hparams"][rate]) for r in mine if r["seed"] > 0} == {
            (5, best["hparams"][rate]),
            (6, best["hparams"][rate]),
        }

    compare([tmp_path / "logs/sweeps/t"])
    with (tmp_path / "logs/sweeps/t/compare/settings.csv").open() as file:
        means = [float(row[f"{metric} mean"]) for row in csv.DictReader(file)]
    assert len(means) == 4
    assert means == sorted(means, reverse=mode == "max")
