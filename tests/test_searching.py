"""A search by Optuna, from the command line to the study."""

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from descent.errors import UserError
from descent.result import Result, read_result
from descent.run_dirs import job_label
from hydra_plugins.descent.searching import check_search, search

optuna = pytest.importorskip("optuna")

SMALL = ("experiment=search", "data.num_samples=100", "trainer.max_epochs=2")


@pytest.mark.filterwarnings("ignore")  # SQLite connections that Optuna leaves to the collector
def test_a_search_goes_on_with_new_points_past_trials_that_diverge(
    script: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    wild = "hydra.sweeper.space={optimizer.lr:{low:1e-4,high:1e3,log:true}}"
    first = script("train.py", *SMALL, "hydra.sweeper.n_trials=5", wild)
    assert first.returncode == 0, first.stderr
    second = script("train.py", *SMALL, "hydra.sweeper.n_trials=7", wild)
    assert second.returncode == 0, second.stderr
    assert "best val/loss" in second.stdout
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/logs/sweeps/search/study.db")
    assert len(study.trials) == 7
    assert len({trial.params["optimizer.lr"] for trial in study.trials}) == 7
    statuses = {trial.user_attrs["status"] for trial in study.trials}
    assert statuses == {"completed", "diverged"}
    for trial in study.trials:
        result = read_result(tmp_path / "logs/sweeps/search" / trial.user_attrs["run"])
        assert result["hparams"]["optimizer.lr"] == pytest.approx(trial.params["optimizer.lr"], rel=1e-5)
        assert trial.state.name == {"completed": "COMPLETE", "diverged": "PRUNED"}[result["status"]]
        assert trial.value == (result["metrics"]["val/loss"] if result["status"] == "completed" else None)


SPACE = {"optimizer.lr": {"low": 1e-3, "high": 1.0, "log": True}}


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_trial_that_was_interrupted_is_the_first_to_go_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def launch(job: list[str], number: int) -> None:
        asked.append(job_label(job))
        if len(asked) == 3:
            raise SystemExit(130)
        (tmp_path / job_label(job)).mkdir()
        Result("completed", seed=0, command="", metrics={"val/loss": number}).write(tmp_path / job_label(job))

    with pytest.raises(SystemExit):
        search([], launch, tmp_path, SPACE, 4, "val/loss", 0)
    search([], launch, tmp_path, SPACE, 4, "val/loss", 0)
    assert asked[3] == asked[2]
    assert len(asked) == 5 and len(set(asked)) == 4


@pytest.mark.parametrize(
    ("arguments", "space", "n_trials", "message"),
    [
        ([], {"optimizer.lr": {"low": 1.0, "high": 0.1}}, 1, "hydra.sweeper.space.optimizer.lr must be {low: a number"),
        ([], {"optimizer.lr": {"low": 0.0, "high": 0.1, "log": True}}, 1, "hydra.sweeper.space.optimizer.lr must be"),
        ([], {"optimizer.lr": [0.1, 0.2]}, 1, "hydra.sweeper.space.optimizer.lr must be"),
        ([], SPACE, 0, "hydra.sweeper.n_trials must be a positive integer, got 0"),
        (["optimizer.lr=1"], SPACE, 1, "optimizer.lr must be either set or in hydra.sweeper.space, got both"),
        (["optimizer=sgd,adam"], SPACE, 1, "optimizer must be a single value in a search, got 'sgd,adam'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    arguments: list[str], space: dict[str, Any], n_trials: int, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_search(arguments, space, n_trials, seed=0)


@pytest.mark.filterwarnings("ignore")  # as above
def test_another_search_does_not_go_on_with_this_one(tmp_path: Path) -> None:
    def launch(job: list[str], number: int) -> None:
        (tmp_path / job_label(job)).mkdir()
        Result("completed", seed=0, command="", metrics={"val/loss": 1.0}).write(tmp_path / job_label(job))

    search(["batch=full"], launch, tmp_path, SPACE, 1, "val/loss", 0)
    with pytest.raises(UserError, match=r"has other overrides, \['batch=full'\]: name=... begins another"):
        search(["batch=mini"], launch, tmp_path, SPACE, 2, "val/loss", 0)
    with pytest.raises(UserError, match="has other choose_by, val/loss"):
        search(["batch=full"], launch, tmp_path, SPACE, 2, "val/r2", 0)


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_metric_that_no_run_has_is_refused_after_the_first(tmp_path: Path) -> None:
    def launch(job: list[str], number: int) -> None:
        (tmp_path / job_label(job)).mkdir()
        Result("completed", seed=0, command="", metrics={"train/loss": 1.0}).write(tmp_path / job_label(job))

    with pytest.raises(
        UserError, match=r"hydra\.sweeper\.choose_by must be a metric of the runs \(train/loss\), got 'val/loss'"
    ):
        search([], launch, tmp_path, SPACE, 9, "val/loss", 0)
    assert len(list(tmp_path.glob("*/result.json"))) == 1
