"""Tests that sweeps on Hydra's other launchers equal serial ones, also after a stop."""

import importlib.util
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import config_of, posix, save_config
from test_launcher import Launch, launch, loggers  # noqa: F401  # fixtures
from test_process import own_handlers  # noqa: F401  # an autouse fixture
from test_survival import wait_for

from descent.run.result import Result, read_result
from descent.run.run_dirs import job_label
from descent.run.train import train
from descent.signals import deferred, stop_mark
from descent.sweep.job_processes import signals_passed_on, workers
from descent.training.checkpoint_io import read_checkpoint
from hydra_plugins.descent.resuming import ResumingLauncher


class Elsewhere:
    """Stands in for joblib's or submitit's launcher: records its jobs and calls ``does``."""

    def __init__(self, does: Callable[[Sequence[Sequence[str]]], Any]) -> None:
        self.does, self.given = does, list[tuple[int, list[str]]]()

    def setup(self, **context: Any) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        self.given += [(initial_job_idx, list(job)) for job in job_overrides]
        return self.does(job_overrides)


@pytest.fixture
def launch_by(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Launch:  # noqa: F811
    """Like ``launch``, but one of Hydra's launchers runs the jobs."""

    def launch_by(inner: Elsewhere, *jobs: list[str], first: int = 0) -> Any:
        init = ResumingLauncher.__init__
        monkeypatch.setattr(ResumingLauncher, "__init__", lambda self: init(self, inner))  # type: ignore[arg-type]
        return launch(None, *jobs, first=first)

    return launch_by


def test_finished_and_invalid_jobs_are_not_passed_to_the_launcher(
    launch_by: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_dir = tmp_path / "sweeps/s"
    save_config(sweep_dir / "seed=1", "name=s", "seed=1")
    Result("completed", seed=1, command="").write(sweep_dir / "seed=1")
    inner = Elsewhere(lambda jobs: Result("completed", 3, "").write(sweep_dir / "seed=3"))
    returns = launch_by(inner, ["seed=1"], ["batch.size=-1"], ["seed=3"], first=5)
    assert inner.given == [(5, ["name=s", "seed=3"])]
    assert [job.overrides[1] for job in returns] == ["seed=1", "batch.size=-1", "seed=3"]
    out = capsys.readouterr().out
    assert out.startswith("#5 seed=1\nalready finished\n#6 batch.size=-1\nerror: batch.size must be ")
    assert out.endswith("\n#7 seed=3\n")


def test_when_all_jobs_are_finished_none_is_passed_to_the_launcher(launch_by: Launch, tmp_path: Path) -> None:
    save_config(tmp_path / "sweeps/s/seed=1", "name=s", "seed=1")
    Result("completed", seed=1, command="").write(tmp_path / "sweeps/s/seed=1")
    inner = Elsewhere(lambda jobs: None)
    launch_by(inner, ["seed=1"])
    assert inner.given == []


def test_jobs_without_a_new_result_and_the_launchers_error_are_reported(
    launch_by: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_dir = tmp_path / "sweeps/s"
    for seed in (1, 2):
        (sweep_dir / f"seed={seed}").mkdir(parents=True)
        Result("interrupted", seed=seed, command="", signal=15).write(
            sweep_dir / f"seed={seed}"
        )  # from an earlier launch

    def does(jobs: Any) -> None:
        Result("failed", seed=2, command="").write(sweep_dir / "seed=2")
        raise RuntimeError("A worker process\nwas killed.")

    launch_by(Elsewhere(does), ["seed=1"], ["seed=2"], ["seed=3"])
    assert capsys.readouterr().out.splitlines()[3:] == [
        "error: Elsewhere: RuntimeError: A worker process was killed.",
        "seed=1 ended without a result",
        "seed=3 ended without a result",
    ]


@posix
def test_a_signal_writes_a_stop_mark_and_a_second_signal_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, signals_passed_on(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_mark(tmp_path).read_text() == "15"
    assert ended.value.code == 143
    assert not stop_mark(tmp_path).exists()
    assert capsys.readouterr().err == "\nstopping all jobs where they can resume; press Ctrl-C again to quit now\n"
    reached = False
    with pytest.raises(SystemExit) as ended, signals_passed_on(tmp_path):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert not reached
    assert ended.value.code == 130


def test_a_stop_mark_acts_as_a_signal_in_every_run(tmp_path: Path) -> None:
    with deferred(stop_mark(tmp_path)) as pending:
        assert pending.number is None
        stop_mark(tmp_path).write_text("2")
        watching = [thread for thread in threading.enumerate() if thread.name.endswith("(watch)")]
        until(lambda: pending.number is not None)
        assert pending.number == signal.SIGINT
    for thread in watching:
        thread.join(timeout=30)
        assert not thread.is_alive()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        *(({"n_jobs": 3}, 3), ({"n_jobs": -1}, os.cpu_count()), ({"n_jobs": None}, 1), ({"n_jobs": -100}, 1)),
        *(({"array_parallelism": 4, "submitit_folder": "x"}, 4), ({"_target_": "x"}, 1)),
        ({"ray": {}}, os.cpu_count()),
        ({"submitit_folder": "x"}, os.cpu_count()),
    ],
)
def test_a_search_draws_as_many_trials_as_there_are_workers(launcher: dict[str, Any], expected: int) -> None:
    assert workers(launcher) == expected
    assert workers(launcher, most=1) == 1


def launcher_of(name: str, *marks: pytest.MarkDecorator) -> Any:
    module = name.partition("_")[0]
    is_missing = importlib.util.find_spec(module) is None
    return pytest.param(name, marks=[pytest.mark.skipif(is_missing, reason=f"needs {module}"), *marks])


JOBS = "optimizer=sgd", "optimizer=adam"
SET = (
    *("figures=False", "data.num_samples=100", "trainer.max_epochs=2000"),
    *("trainer.precision=64-true", "trainer.enable_progress_bar=False", "checkpoint.every_seconds=0.2"),
)


Script = Callable[..., subprocess.CompletedProcess[str]]


def outcome(sweep_dir: Path) -> dict[str, Any]:
    """Returns each job's result and weights, without what depends on time."""
    found = {}
    for run_dir in sorted(path for path in sweep_dir.iterdir() if (path / "result.json").is_file()):
        result = read_result(run_dir)
        said = [result[key] for key in ("status", "metrics", "parameters", "best", "steps", "hparams", "config_digest")]
        weights = read_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]
        found[run_dir.name] = said, {name: weight.tolist() for name, weight in weights.items()}
    return found


@posix
@pytest.mark.parametrize(
    "launcher",
    [
        launcher_of("joblib", pytest.mark.workers),
        *(launcher_of(name, pytest.mark.soak) for name in ("submitit_local", "ray")),
    ],
)
def test_a_stopped_parallel_sweep_resumes_and_equals_a_serial_one(
    launcher: str, start: Callable[..., subprocess.Popen[str]], script: Script, tmp_path: Path
) -> None:
    command = "-m", "name=s", "optimizer=sgd,adam", *SET, f"launcher={launcher}"
    sweep_dir = tmp_path / "logs/sweeps/s"
    stopped = start("train.py", *command)
    wait_for(sweep_dir, "*/checkpoints/last.ckpt")
    stopped.send_signal(signal.SIGTERM)  # to the parent only
    output, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == 143, output
    assert "interrupted; not finished:" in output
    running = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert running == ""
    assert "interrupted" in {read_result(path.parent)["status"] for path in sweep_dir.glob("*/result.json")}
    on = ["launcher=serial"] if launcher == "joblib" else [f"launcher={launcher}"]  # another launcher can resume it too
    again = script("train.py", *command[:-1], *on, timeout=300)
    assert again.returncode == 0, again.stdout
    for job in JOBS:
        overrides = [job, *SET]
        train(config_of(*overrides), tmp_path / "serial" / job_label(overrides), in_sweep=True)
    assert len(outcome(sweep_dir)) == len(JOBS)
    assert outcome(sweep_dir) == outcome(tmp_path / "serial")
    assert {path.name for path in sweep_dir.iterdir() if path.is_dir()} - {".submitit"} == {*outcome(sweep_dir)}
