"""Tests the README's eight guides: their files make a project, and their commands do what they say."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, needs_sweep
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from descent.run.cli import load_config
from descent.run.train import train
from descent.training.build import build_data
from template.create import create

TEXT = (ROOT / ".github/guides.md").read_text(encoding="utf-8")
GUIDES = {text.partition("\n")[0]: text for text in re.split(r"(?m)^## ", TEXT)[1:]}
PARTS = ("model", "data", "metric", "optimizer", "scheduler", "callback", "logger", "experiment")
EIGHT = [f"Your {part}" for part in PARTS]
BLOCK = r"```(?:python|yaml)\n((?:# @package _global_\n)?# ((?:src|conf)/[\w/]+\.\w+)\n.*?)```"
COMMAND = r"`python\s+scripts/train\.py\s+([^`]+)`"
QUIET = "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A blank project with the files of all guides."""
    create(tmp_path / "project", "mine", "Mine", True)
    for text, name in re.findall(BLOCK, TEXT, re.S):
        path = tmp_path / "project" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "project/src")
    yield tmp_path / "project"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_the_settings_in_the_table_for_a_move_exist(project: Path) -> None:
    rows = re.findall(r"^\| .+ \| (.+) \|$", GUIDES["From lightning-hydra-template"], re.M)
    given = [text for row in rows for text in re.findall(r"`(\w+(?:\.\w+)*=[^`]+)`", row)]
    assert len(given) == 6
    for text in given:
        load_config(project / "conf", text.split())


class TrainedRun:
    """Runs a guide's command, and holds its ``result.json``, last checkpoint and config."""

    def __init__(self, project: Path, command: str) -> None:
        given = shlex.split(command)
        short = [] if "debug=" in command else ["trainer.max_epochs=2"]
        # fewer epochs and no figures; the command comes last, so that it wins
        self.config = load_config(project / "conf", [*QUIET, *short, *given])
        self.directory = project / "logs" / str(len([*project.glob("logs/*")]))
        train(self.config, self.directory)
        self.result: dict[str, Any] = json.loads((self.directory / "result.json").read_text())
        self.metrics: dict[str, float] = self.result["metrics"]

    @property
    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = torch.load(self.directory / "checkpoints/last.ckpt")
        return found

    def points(self, tag: str) -> list[float]:
        """The logged values of a TensorBoard tag."""
        return [point.value for point in EventAccumulator(str(self.directory)).Reload().Scalars(tag)]


def model(run: TrainedRun) -> None:
    assert run.last["state_dict"]["layers.0.weight"].shape == (32, 5)
    assert (run.result["steps"], run.result["samples"]) == (50, 1600)  # 800 of 1,000 rows, in batches of 32
    assert all(run.points(tag) for tag in ("train/loss", "lr", "grad/norm"))
    assert 0 < run.metrics["train/loss"] < run.points("train/loss")[0]


def one_batch(run: TrainedRun) -> None:
    assert run.result["steps"] == 1


def two_rows(run: TrainedRun) -> None:
    assert run.metrics["train/loss"] < 1e-6
    assert run.result["samples"] == 2 * run.result["steps"]


def all_rows(run: TrainedRun) -> None:
    assert (run.result["steps"], run.result["samples"]) == (2, 1600)


def metric(run: TrainedRun) -> None:
    data: Any = build_data(run.config)
    data.setup("fit")
    weight = {name.removeprefix("layers."): value for name, value in run.last["state_dict"].items()}
    errors = []
    for x, y in data.val:
        hidden = (weight["0.weight"] @ x + weight["0.bias"]).clamp(min=0)
        errors.append(abs(float(weight["2.weight"] @ hidden + weight["2.bias"] - y)))
    assert len(errors) == 200
    assert run.metrics["val/mae"] == pytest.approx(sum(errors) / 200, rel=1e-5)
    assert run.result["monitor"] == {"metric": "val/mae", "mode": "min"}
    assert run.result["best"]["value"] == pytest.approx(run.metrics["val/mae"])


def optimizer(run: TrainedRun) -> None:
    (group,) = run.last["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.1) and "betas" in group


def scheduler(run: TrainedRun) -> None:
    rates = run.points("lr")
    assert rates == pytest.approx([rates[0] * (1 - step / 50) ** 2 for step in range(len(rates))])
    (group,) = run.last["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0) and rates[0] > 0


def callback(run: TrainedRun) -> None:
    weights = torch.cat([value.flatten() for value in run.last["state_dict"].values()])
    assert run.metrics["weights/norm"] == pytest.approx(float(weights.abs().sum()))


def table(run: TrainedRun) -> None:
    with (run.directory / "table/version_0/metrics.csv").open() as lines:
        losses = [float(row["val/loss"]) for row in csv.DictReader(lines) if row["val/loss"]]
    assert losses[-1] == pytest.approx(run.metrics["val/loss"])


def table_alone(run: TrainedRun) -> None:
    table(run)
    assert not [*run.directory.glob("events.out.tfevents.*")]


def table_and_events(run: TrainedRun) -> None:
    table(run)
    assert run.points("val/loss")[-1] == pytest.approx(run.metrics["val/loss"])


def experiment(run: TrainedRun) -> None:
    assert run.last["state_dict"]["layers.0.weight"].shape == (16, 5)
    assert (run.result["steps"], run.result["samples"]) == (2, 1600)
    (group,) = run.last["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.02 and "betas" in group  # Adam's


CHECKS: dict[str, Callable[[TrainedRun], None]] = {
    "model.hidden=32": model,
    "debug=fast_dev_run": one_batch,
    "debug=overfit": two_rows,
    "batch=full": all_rows,
    "monitor.metric=val/mae": metric,
    "optimizer=mine optimizer.lr=0.02": optimizer,
    "scheduler=mine": scheduler,
    "+callbacks.mine._target_=mine.callback.WeightNorm +callbacks.mine.order=1": callback,
    "logger=mine": table_alone,
    '"logger=[tensorboard,mine]"': table_and_events,
    "experiment=mine": experiment,
}


def test_each_of_the_eight_guides_fits_a_screen_and_has_a_command() -> None:
    assert [*GUIDES][:8] == EIGHT
    for name in EIGHT:
        assert len(GUIDES[name].splitlines()) <= 46 and re.search(COMMAND, GUIDES[name])


def test_the_guides_have_these_files_and_no_others() -> None:
    python, groups = ["model", "data", "callback"], ["model", "data", "optimizer", "scheduler", "logger", "experiment"]
    expected = {*(f"src/mine/{name}.py" for name in python), *(f"conf/{group}/mine.yaml" for group in groups)}
    assert {name for _, name in re.findall(BLOCK, TEXT, re.S)} == expected


def test_each_command_of_the_guides_has_a_check() -> None:
    given = [command for name in EIGHT for command in re.findall(COMMAND, GUIDES[name])]
    assert [" ".join(command.split()) for command in given] == [*CHECKS]


@needs_sweep
def test_the_guides_experiment_becomes_a_sweep_by_the_lines_it_shows(project: Path) -> None:
    (lines,) = re.findall(r"```yaml\n(hydra:\n.*?)```", TEXT, re.S)
    with (project / "conf/experiment/mine.yaml").open("a") as experiment:
        experiment.write(lines)
    command = [sys.executable, "scripts/train.py", "experiment=mine", "trainer.max_epochs=1"]
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text())["hparams"] for path in project.glob("logs/sweeps/*/*/result.json")]
    found = {(given["model.hidden"], given["optimizer.lr"]) for given in results}
    assert len(results) == 4 and found == {(16, 0.02), (32, 0.02)}


def search_line() -> str:
    (line,) = re.findall(r"`(sweeper: \{space:.*?)`", TEXT, re.S)
    return " ".join(line.split())


@needs_sweep
def test_the_guides_search_is_valid() -> None:
    from descent.sweep.search_space import check_search

    sweeper = yaml.safe_load(search_line())["sweeper"]
    check_search([], sweeper["space"], sweeper["n_trials"], 0)


@needs_sweep
@pytest.mark.soak  # the same search runs in test_searching.py
def test_the_guides_experiment_becomes_a_search(project: Path) -> None:
    with (project / "conf/experiment/searched.yaml").open("w") as experiment:
        experiment.write((project / "conf/experiment/mine.yaml").read_text().partition("hydra:")[0])
        experiment.write(f"hydra:\n  mode: MULTIRUN\n  {search_line()}\n")
    command = [sys.executable, "scripts/train.py", "experiment=searched", "name=s", "trainer.max_epochs=1"]
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(path.read_text())["hparams"] for path in project.glob("logs/sweeps/s/*/result.json")]
    assert 10 <= len(found) <= 20  # trials with equal values share a run
    assert {run["optimizer"] for run in found} == {"sgd", "adam"}
    assert all(8 <= run["model.hidden"] <= 64 for run in found)


def test_the_guides_code_passes_the_linter(project: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "src/mine"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.soak  # mypy takes as long as ten other tests
def test_the_guides_code_passes_the_type_checker(project: Path) -> None:
    command = [sys.executable, "-m", "mypy", "src/mine"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)  # Lightning advises more workers
@pytest.mark.parametrize("command", CHECKS)
def test_a_command_of_a_guide_does_what_it_says(command: str, project: Path) -> None:
    run = TrainedRun(project, command)
    assert run.result["status"] == "completed"
    CHECKS[command](run)
