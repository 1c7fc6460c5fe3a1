"""Tests that preempted, cancelled, timed-out, stopped and killed sweeps on Slurm end with the same results."""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import config_of
from test_launchers import JOBS, outcome, until
from test_survival import wait_for

from descent.run.result import is_finished, read_result
from descent.run.resume import resume
from descent.run.run_dirs import job_label
from descent.run.train import train

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs submitit"),
]

LONG = (
    *("figures=False", "data.num_samples=100", "trainer.max_epochs=6000"),
    *("trainer.precision=64-true", "checkpoint.every_seconds=0.2"),
)
SWEEP = ("-m", "name=s", "optimizer=sgd,adam", *LONG, "launcher=submitit_slurm")
Start = Callable[..., subprocess.Popen[str]]
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep_dir(tmp_path: Path) -> Path:
    return tmp_path / "logs/sweeps/s"


@pytest.fixture
def run_dirs(sweep_dir: Path) -> list[Path]:
    """The directories of the jobs."""
    return [sweep_dir / job_label(["name=s", job, *LONG]) for job in JOBS]


@pytest.fixture
def expected(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Returns a function that trains the same jobs in this process and returns their outcome."""

    def expected(*more: str) -> dict[str, Any]:
        for job in JOBS:
            train(config_of(job, *LONG, *more), tmp_path / "serial" / job_label([job, *LONG]), in_sweep=True)
        return outcome(tmp_path / "serial")

    return expected


def queue(form: str = "%i") -> list[str]:
    command = ["squeue", "--me", "--noheader", "--array", f"--format={form}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def all_train(run_dirs: list[Path]) -> None:
    for run_dir in run_dirs:
        wait_for(run_dir, "checkpoints/last.ckpt")


def ended(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=180)[0]


def begin_again() -> None:
    """Starts requeued jobs at once; Slurm would hold them for two minutes."""
    until(lambda: {*queue("%T")} == {"PENDING"})

    def all_run() -> bool:
        for job in queue():
            subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], capture_output=True, check=False)
        return {*queue("%T")} == {"RUNNING"}

    until(all_run)


def preempt() -> None:
    subprocess.run(["srun", "--partition=urgent", "--nodes=2", "--exclusive", "true"], check=True)


def test_preempted_and_cancelled_jobs_end_with_the_results_of_a_serial_sweep(
    start: Start, script: Script, sweep_dir: Path, run_dirs: list[Path], expected: Callable[..., dict[str, Any]]
) -> None:
    sweep = start("train.py", *SWEEP)
    all_train(run_dirs)
    preempt()
    results = [read_result(run_dir) for run_dir in run_dirs]
    assert [(result["status"], result["signal"]) for result in results] == [("interrupted", signal.SIGTERM)] * 2
    begin_again()
    sgd = run_dirs[0]
    until(lambda: len([*sgd.glob("events*")]) == 2)  # the job trains again
    job = min(queue())
    subprocess.run(["scancel", job], check=True)
    output = ended(sweep)
    assert sweep.returncode == 1, output
    assert "sacct" not in output
    assert f"{sgd.name} interrupted: interrupted by SIGTERM" in output
    assert queue() == []
    assert not is_finished(sgd) and is_finished(run_dirs[1])
    assert read_result(sgd)["steps"] >= results[0]["steps"] > 0
    resume(sgd)  # like resume.py
    again = script("train.py", *SWEEP[:-1])  # the serial launcher has nothing left to do
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("already finished") == len(JOBS)
    assert outcome(sweep_dir) == expected()


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_sweep_ends_its_jobs_and_empties_the_queue(
    number: int, start: Start, script: Script, sweep_dir: Path, expected: Callable[..., dict[str, Any]]
) -> None:
    sweep = start("train.py", *SWEEP, "hydra.launcher.array_parallelism=1")
    wait_for(sweep_dir, "*/checkpoints/last.ckpt")
    assert {*queue("%T")} == {"RUNNING", "PENDING"}
    sweep.send_signal(number)
    output = ended(sweep)
    assert sweep.returncode == 128 + number, output
    assert queue() == []
    assert [read_result(path.parent)["status"] for path in sweep_dir.glob("*/result.json")] == ["interrupted"]
    assert script("train.py", *SWEEP, timeout=180).returncode == 0
    assert outcome(sweep_dir) == expected()


@pytest.mark.soak
def test_jobs_at_their_time_limit_are_requeued_and_resume(
    start: Start, sweep_dir: Path, run_dirs: list[Path], expected: Callable[..., dict[str, Any]]
) -> None:
    sweep = start(
        "train.py", *SWEEP, "hydra.launcher.timeout_min=9"
    )  # submitit treats the last ten minutes as a timeout
    all_train(run_dirs)
    for job in queue():
        subprocess.run(["scancel", "--signal=USR2", job], check=True)  # like sbatch --signal
    until(lambda: all((run_dir / "result.json").is_file() for run_dir in run_dirs))
    assert {read_result(run_dir)["reason"] for run_dir in run_dirs} == {"interrupted by SIGUSR2"}
    begin_again()
    output = ended(sweep)
    assert sweep.returncode == 0, output
    assert outcome(sweep_dir) == expected()
    logs = [path.read_text() for path in sweep_dir.glob(".submitit/*/*.out")]
    assert all("(99 remaining timeouts)" in log for log in logs)


@pytest.mark.soak
def test_a_sweep_resumes_after_its_jobs_and_then_itself_were_killed(
    start: Start, script: Script, sweep_dir: Path, run_dirs: list[Path], expected: Callable[..., dict[str, Any]]
) -> None:
    sweep = start("train.py", *SWEEP)
    all_train(run_dirs)
    subprocess.run(["pkill", "-KILL", "-f", f"^{sys.executable} .*{sweep_dir}"], check=True)
    output = ended(sweep)
    assert sweep.returncode == 1, output
    assert all(f"{run_dir.name} ended without a result" in output for run_dir in run_dirs)
    killed = start("train.py", *SWEEP)
    until(lambda: len([*run_dirs[0].glob("events*")]) == 2)
    killed.kill()
    again = script("train.py", *SWEEP, timeout=180)  # waits for the killed sweep's jobs
    assert again.returncode == 0, again.stdout
    assert outcome(sweep_dir) == expected()
    assert queue() == []
