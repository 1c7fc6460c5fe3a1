"""Tests the sweeper in this process, with a stub launcher."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import needs_sweep
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from descent.errors import UserError
from descent.files import locked
from descent.run.result import Result
from descent.run.run_dirs import job_label

pytestmark = needs_sweep

LOSSES = {"adam,0.1": 3.0, "adam,0.2": 1.0, "sgd,0.1": 2.0, "sgd,0.2": None}  # by optimizer and learning rate


def outcome(job: list[str]) -> Result | None:
    values = dict(override.split("=") for override in job)
    loss = LOSSES[f"{values['optimizer']},{values['optimizer.lr']}"]
    status: Any = "diverged" if loss is None else "completed"
    return Result(status, seed=0, command="", metrics={} if loss is None else {"val/loss": loss, "val/r2": loss})


class Launcher:
    """Writes each job's ``outcome``; ``None`` stands for a job that did not end."""

    def __init__(self, sweep_dir: Path, outcome: Callable[[list[str]], Result | None]) -> None:
        self.sweep_dir, self.outcome = sweep_dir, outcome
        self.launched: list[tuple[int, str]] = []

    def launch(self, jobs: Any, initial_job_idx: int) -> list[JobReturn]:
        for number, job in enumerate(jobs, initial_job_idx):
            self.launched.append((number, ",".join(job)))
            if result := self.outcome(job):
                (self.sweep_dir / job_label(job)).mkdir(parents=True, exist_ok=True)
                result.write(self.sweep_dir / job_label(job))
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED, _return_value=None) for job in jobs]


Sweep = Callable[..., tuple[Any, Launcher]]


@pytest.fixture
def sweeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def make(outcome: Callable[[list[str]], Result | None] = outcome, **given: Any) -> tuple[Any, Launcher]:
        from hydra_plugins.descent import resuming  # Hydra reimports its plugins when it scans for them

        made, launcher = resuming.ResumingSweeper(**{"max_batch_size": None, **given}), Launcher(Path("s"), outcome)
        made.config = OmegaConf.create({"hydra": {"sweep": {"dir": "s"}}})
        made.launcher = launcher  # type: ignore[assignment]
        made.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
        return made, launcher

    return make


FIRST = [
    *((0, "optimizer=adam,optimizer.lr=0.1"), (1, "optimizer=adam,optimizer.lr=0.2")),
    *((2, "optimizer=sgd,optimizer.lr=0.1"), (3, "optimizer=sgd,optimizer.lr=0.2")),
]
RATES = {"optimizer.lr": "0.1,0.2"}
MODES = {"val/loss": None, "val/r2": "max"}


@pytest.mark.parametrize(("choose_by", "best"), [("val/loss", 0.2), ("val/r2", 0.1)])
@pytest.mark.parametrize("where", ["params", "arguments"])
def test_the_second_round_repeats_the_best_setting_of_each(
    where: str, choose_by: str, best: float, sweeper: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"optimizer": "adam,sgd", **RATES}
    params, arguments = (values, []) if where == "params" else ({}, [f"{key}={v}" for key, v in values.items()])
    made, launcher = sweeper(
        params=params, for_each="optimizer", choose_by=choose_by, mode=MODES[choose_by], then={"seed": "5,6"}
    )
    returns = made.sweep(arguments)
    assert launcher.launched == [
        *FIRST,
        *((4, f"optimizer=adam,optimizer.lr={best},seed=5"), (5, f"optimizer=adam,optimizer.lr={best},seed=6")),
        *((6, "optimizer=sgd,optimizer.lr=0.1,seed=5"), (7, "optimizer=sgd,optimizer.lr=0.1,seed=6")),
    ]
    assert [[job.overrides[-1] for job in batch] for batch in returns] == [
        ["optimizer.lr=0.1", "optimizer.lr=0.2"] * 2,
        ["seed=5", "seed=6"] * 2,
    ]
    printed = capsys.readouterr().out
    assert printed.startswith(f"4 runs in s\n\nbest setting of each optimizer by {choose_by}, 2 more runs each:\n")
    assert printed.count("in s, as a table in summary.csv") == 1 and "8 runs in s" in printed
    assert Path("s/summary.csv").is_file()


def test_a_second_round_without_a_best_run_or_for_each_is_refused(sweeper: Sweep) -> None:
    made, _ = sweeper(
        lambda job: Result("diverged", seed=0, command=""),
        params={"optimizer": "adam", **RATES},
        for_each="optimizer",
        then={"seed": "1"},
    )
    message = "no run of any optimizer completed with val/loss, the metric of hydra.sweeper.choose_by"
    with pytest.raises(UserError, match=f"^{message}$"):
        made.sweep([])
    made, launcher = sweeper(params=RATES, then={"seed": "1"})
    with pytest.raises(UserError, match=r"for_each must be one of the swept keys if hydra\.sweeper\.then is set, got"):
        made.sweep([])
    assert launcher.launched == []


def test_a_null_in_params_becomes_null_in_the_config(sweeper: Sweep) -> None:
    made, launcher = sweeper(outcome=lambda job: Result("completed", 0, ""), params={"batch.size": None, "seed": 1})
    made.sweep([])
    assert launcher.launched == [(0, "batch.size=null,seed=1")]


def test_jobs_that_differ_in_the_progress_bar_alone_run_once(
    sweeper: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    made, launcher = sweeper()
    made.sweep(["optimizer=adam", "optimizer.lr=0.1,0.2", "trainer.enable_progress_bar=true,false"])
    assert [job.rpartition(",")[0] for _, job in launcher.launched] == [job for _, job in FIRST[:2]]
    assert "2 runs in s\n" in capsys.readouterr().out


def test_batches_are_launched_one_after_another(sweeper: Sweep) -> None:
    made, launcher = sweeper(max_batch_size=3)
    assert [len(batch) for batch in made.sweep(["optimizer=adam,sgd", "optimizer.lr=0.1,0.2"])] == [3, 1]
    assert launcher.launched == FIRST


@pytest.mark.parametrize(("status", "code"), [("completed", None), ("diverged", None), ("failed", 1), (None, 1)])
def test_a_sweep_fails_if_a_job_failed_or_did_not_end(status: Any, code: int | None, sweeper: Sweep) -> None:
    def last(job: list[str]) -> Result | None:
        return outcome(job) if job[0] == "optimizer=adam" else status and Result(status, seed=0, command="")

    made, _ = sweeper(last)
    if code is None:
        made.sweep(["optimizer=adam,sgd", "optimizer.lr=0.1,0.2"])
        return
    with pytest.raises(SystemExit) as raised:
        made.sweep(["optimizer=adam,sgd", "optimizer.lr=0.1,0.2"])
    assert raised.value.code == code


def test_an_interrupted_sweep_lists_unfinished_jobs_and_releases_its_lock(
    sweeper: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    def third_is_interrupted(job: list[str]) -> Result | None:
        if job == ["optimizer=sgd", "optimizer.lr=0.1"]:
            raise SystemExit(143)
        return outcome(job)

    made, _ = sweeper(third_is_interrupted)
    with pytest.raises(SystemExit) as raised:
        made.sweep(["optimizer=adam,sgd", "optimizer.lr=0.1,0.2"])
    assert raised.value.code == 143
    summary, left = capsys.readouterr().out.split("interrupted; ")
    assert "2 runs in s" in summary
    assert left == (
        "not finished:\n  optimizer.lr=0.1,optimizer=sgd\n  optimizer.lr=0.2,optimizer=sgd\n"
        "  run the same command again to resume\n"
    )
    with locked(Path("s"), "the sweep"):
        made, launcher = sweeper()
        with pytest.raises(UserError, match=r"^the sweep s is in use by another process$"):
            made.sweep(["optimizer=adam,sgd", "optimizer.lr=0.1,0.2"])
        assert launcher.launched == []


def test_an_empty_sweep_is_refused(sweeper: Sweep) -> None:
    made, _ = sweeper()
    with pytest.raises(UserError, match=r"^a sweep must have at least one job$"):
        made.sweep(["seed=range(0,0)"])


SPACE = {"optimizer.lr": {"low": 0.5, "high": 1.0}}


def test_a_search_refuses_params(sweeper: Sweep) -> None:
    made, _ = sweeper(params=RATES, space=SPACE)
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.params must be null in a search, got \{'optimizer\.lr'"):
        made.sweep([])


@pytest.mark.filterwarnings("ignore")  # Optuna leaves SQLite connections to the garbage collector
def test_a_search_prints_its_best_below_the_summary(sweeper: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")

    def rate(job: list[str]) -> Result:
        return Result("completed", seed=0, command="", metrics={"val/r2": float(job[1].partition("=")[2])})

    found = {}
    for seed in (3, 4):
        made, launcher = sweeper(rate, space=SPACE, n_trials=2, seed=seed, choose_by="val/r2", mode="max")
        made.config.hydra.sweep.dir = f"s{seed}"
        launcher.sweep_dir = Path(f"s{seed}")
        assert len(made.sweep(["optimizer=sgd"])) == 2
        assert [number for number, _ in launcher.launched] == [0, 1]
        found[seed] = [job for _, job in launcher.launched]
        *_, compares, _, last = capsys.readouterr().out.splitlines()
        best = max(float(job.partition("lr=")[2]) for job in found[seed])
        assert compares.endswith("compares them")
        assert last == f"best val/r2 {best:.6g} with optimizer.lr={best:.6g}"
    assert not set(found[3]) & set(found[4])


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_search_with_a_failed_trial_fails_the_sweep(sweeper: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    made, _ = sweeper(lambda job: Result("failed", seed=0, command="", reason="x"), space=SPACE, n_trials=1)
    with pytest.raises(SystemExit) as raised:
        made.sweep([])
    assert raised.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "no trial completed"
