"""Tests a sweep that tunes each optimizer and repeats the best with other seeds, up to the ranking."""

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from conftest import needs_compare
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from descent.errors import UserError
from descent.run.result import Result, read_result
from descent.run.run_dirs import job_label
from descent.sweep.tuning import repeats_of
from hydra_plugins.descent.resuming import ResumingSweeper

SMALL = ("name=tuned", "data.num_samples=60", "trainer.max_epochs=2", "figures=false")
TUNED = ("hydra.sweeper.for_each=optimizer", "hydra.sweeper.then={seed: 'range(2,4)'}")
SWEEP = ("-m", *SMALL, *TUNED, "optimizer=sgd,adam", "optimizer.lr=0.03,0.1", "seed=0,1")

Script = Callable[..., CompletedProcess[str]]


@needs_compare
def test_the_best_of_each_is_repeated_with_other_seeds_and_compared(script: Script, tmp_path: Path) -> None:
    done = script("train.py", *SWEEP)
    assert done.returncode == 0, done.stderr
    runs = {path.parent.name: read_result(path.parent) for path in tmp_path.glob("logs/sweeps/tuned/*/result.json")}
    assert len(runs) == 8 + 2 * 2
    tuned = {}
    for optimizer in ("sgd", "adam"):
        mine = [result for result in runs.values() if result["hparams"]["optimizer"] == optimizer]
        losses: dict[float, list[float]] = {}
        for result in mine:
            if result["seed"] < 2:
                losses.setdefault(result["hparams"]["optimizer.lr"], []).append(result["metrics"]["val/loss"])
        best = min(losses, key=lambda rate: statistics.fmean(losses[rate]))
        repeated = {(r["seed"], r["hparams"]["optimizer.lr"]) for r in mine if r["seed"] > 1}
        assert repeated == {(2, best), (3, best)}
        tuned[optimizer] = f"{optimizer}, lr={best:g}"

    again = script("train.py", *SWEEP)
    assert again.stdout.count("already finished") == 12

    asked = "--group", "optimizer", "--x", "samples"
    compared = script("compare.py", str(tmp_path / "logs/sweeps/tuned"), *asked, fresh=True)
    assert compared.returncode == 0, compared.stderr
    table = pl.read_csv(tmp_path / "logs/sweeps/tuned/compare/settings.csv")
    # only the repeats count, not the runs that chose the setting
    assert dict(zip(table["setting"], table["runs"], strict=True)) == dict.fromkeys(tuned.values(), 2)
    assert (tmp_path / "logs/sweeps/tuned/compare/excess_over_samples.png").is_file()
    assert not (tmp_path / "logs/sweeps/tuned/compare/excess_over_steps.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.for_each=batch"], "hydra.sweeper.for_each must be one of the swept keys"),
    ],
)
def test_an_invalid_for_each_is_refused_before_the_first_run(
    overrides: list[str], message: str, script: Script, tmp_path: Path
) -> None:
    done = script("train.py", *SWEEP, *overrides)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch_size": 0}, "hydra.sweeper.max_batch_size must be a positive integer or null (all at once), got 0"),
        ({"params": "x"}, "hydra.sweeper.params must be keys with their values or null (none), got 'x'"),
        ({"then": [1]}, "hydra.sweeper.then must be keys with their values or null (none), got [1]"),
        ({"space": "x"}, "hydra.sweeper.space must be keys with their values or null (none), got 'x'"),
        (
            {"for_each": "optimizer"},
            "hydra.sweeper.for_each must be null unless hydra.sweeper.then is set, got 'optimizer'",
        ),
        ({"n_trials": 3}, "hydra.sweeper.n_trials must be null unless hydra.sweeper.space is set, got 3"),
        ({"choose_by": 3}, "hydra.sweeper.choose_by must be a string or null (monitor.metric), got 3"),
        ({"mode": "best"}, "hydra.sweeper.mode must be one of min, max or null (monitor.mode), got 'best'"),
    ],
)
def test_invalid_arguments_of_the_sweeper_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ResumingSweeper(**{"max_batch_size": None, **arguments})


@pytest.mark.parametrize("then", [{"name": "x,y"}, {"optimizer": "sgd"}, {1: 2}, {"seed": "1,"}])
def test_an_invalid_second_round_is_refused(then: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.then must be"):
        repeats_of(then, "optimizer", {"optimizer"})


def test_a_finished_job_that_a_launcher_reports_as_failed_fails_the_sweep(tmp_path: Path) -> None:
    class Foreign:
        """Like Hydra's own launchers, reruns every job, so that the run refuses another config."""

        refuses = False

        def launch(self, jobs: Any, initial_job_idx: int) -> list[JobReturn]:
            for job in jobs:
                Result("completed", seed=0, command="").write(tmp_path / job_label(job))
            outcome = Result("failed" if self.refuses else "completed", seed=0, command="", reason="another config")
            return [JobReturn(overrides=job, status=JobStatus.COMPLETED, _return_value=outcome) for job in jobs]

    from hydra_plugins.descent import resuming  # Hydra reimports its plugins when it scans for them

    def sweep(refuses: bool) -> None:
        sweeper, launcher = resuming.ResumingSweeper(None), Foreign()
        launcher.refuses = refuses
        sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
        sweeper.launcher = launcher  # type: ignore[assignment]
        sweeper.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
        sweeper.sweep(["seed=1,2"])

    sweep(refuses=False)
    with pytest.raises(SystemExit) as raised:
        sweep(refuses=True)
    assert raised.value.code == 1
