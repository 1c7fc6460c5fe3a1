"""Tests runs of several processes, started by the plain command, torchrun and srun."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, posix
from ranks import SMALL
from test_several_processes import run_dir_of
from test_survival import wait_for

from descent.run.result import read_result
from descent.training.checkpoint_io import read_checkpoint

pytestmark = [posix, pytest.mark.soak, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
TRAIN = [sys.executable, str(ROOT / "scripts/train.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
LONG = (
    *SMALL,
    "trainer=ddp_cpu",
    "trainer.precision=64-true",
    "trainer.max_epochs=20000",
    "checkpoint.every_seconds=0.2",
)
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts a command with ``logs/`` below ``tmp_path``; kills its remaining processes after the test."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*command: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "DESCENT_LOGS": str(tmp_path / "logs"), "MASTER_ADDR": "127.0.0.1"}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        for pid in [*children(process), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Returns its child processes that train, in start order."""
    listed = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "train.py"], capture_output=True, check=False)
    return sorted(map(int, listed.stdout.split()))


def other_process(process: "subprocess.Popen[str]") -> int:
    """Returns the process that Lightning started."""
    for _ in range(600):
        if found := children(process):
            return found[0]
        time.sleep(0.05)
    raise TimeoutError("no other process")


def ends(pid: int, seconds: float = 60) -> bool:
    for _ in range(int(seconds * 20)):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":  # an orphan stays a zombie
            return True
        time.sleep(0.05)
    return False


def after_a_checkpoint(tmp_path: Path) -> Path:
    return wait_for(tmp_path, "logs/runs/*/checkpoints/last.ckpt").parents[1]


def test_one_command_starts_both_processes_and_only_one_writes(begin: Begin, tmp_path: Path) -> None:
    process = begin(*TRAIN, *SMALL, "trainer=ddp_cpu", "trainer.max_epochs=3")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("completed after 9 steps") == 1
    assert errors == (
        "note: every training step goes through Lightning's own loop, because several processes train the model\n"
    )
    run_dir = run_dir_of(tmp_path)
    names = {path.name.partition(".tfevents")[0] for path in run_dir.iterdir()}
    assert names == {".hydra", ".lock", "checkpoints", "events.out", "result.json", "train.log"}
    assert read_result(run_dir)["hparams"]["trainer"] == "ddp_cpu"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("to", ["the first", "the other", "both"])
def test_a_signal_to_either_process_ends_both_resumably(
    name: str, code: int, to: str, begin: Begin, tmp_path: Path
) -> None:
    process = begin(*TRAIN, *LONG)
    run_dir, other = after_a_checkpoint(tmp_path), other_process(process)
    if to != "the other":
        process.send_signal(getattr(signal, name))
    if to != "the first":
        os.kill(other, getattr(signal, name))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert ends(other, 0.1)
    result = read_result(run_dir)
    assert (result["status"], result["reason"]) == ("interrupted", f"interrupted by {name}")
    assert read_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == result["steps"] > 0
    assert f"python scripts/resume.py {run_dir}" in output


@pytest.mark.parametrize("training", [True, False], ids=["in training", "before it"])
@pytest.mark.parametrize("to", ["the first", "the other"])
def test_when_one_process_is_killed_the_other_ends(to: str, training: bool, begin: Begin, tmp_path: Path) -> None:
    process = begin(*TRAIN, *LONG)
    other = other_process(process)
    if training:
        after_a_checkpoint(tmp_path)
    if to == "the first":
        process.kill()
        assert ends(other) and process.wait(10) == -signal.SIGKILL
        return
    os.kill(other, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: process 1 of this run has ended by SIGKILL" in errors
    assert read_result(run_dir_of(tmp_path))["status"] == "failed"


def test_the_command_resumes_a_run_of_two_processes(begin: Begin, tmp_path: Path) -> None:
    process = begin(*TRAIN, *LONG)
    run_dir = after_a_checkpoint(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    before = read_result(run_dir)["steps"]
    process = begin(sys.executable, str(ROOT / "scripts/resume.py"), str(run_dir))
    time.sleep(1)
    last = run_dir / "checkpoints/last.ckpt"
    for _ in range(600):
        if read_checkpoint(last)["global_step"] > before:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert output.count(f"resuming at step {before:,}") == 1
    assert read_result(run_dir)["steps"] > before


def test_torchrun_starts_both_processes_in_one_directory(begin: Begin, tmp_path: Path) -> None:
    given = (str(ROOT / "scripts/train.py"), *SMALL, "trainer=ddp_cpu", "trainer.max_epochs=3", "name=mine")
    process = begin(*TORCHRUN, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--rdzv-id=seven", *given)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("completed after 9 steps") == 1
    assert run_dir_of(tmp_path).name == "mine_torchrun_seven"


@pytest.mark.slurm
@pytest.mark.usefixtures("cluster")
def test_srun_starts_one_process_per_node_and_a_requeued_job_resumes(begin: Begin, tmp_path: Path) -> None:
    nodes = ("--nodes=2", "--ntasks-per-node=1", "--exclusive")
    given = (*SMALL, "trainer.accelerator=cpu", "trainer.num_nodes=2", "name=mine")
    process = begin("srun", *nodes, *TRAIN, *given, "trainer.max_epochs=3")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("completed after 9 steps") == 1
    run_dir = run_dir_of(tmp_path)
    assert run_dir.name.startswith("mine_slurm_")
    shutil.rmtree(run_dir)
    command = " ".join([*TRAIN, *given, "trainer.max_epochs=150", "checkpoint.every_seconds=0.2"])
    log = tmp_path / "job.out"
    begin("sbatch", "--requeue", "--open-mode=append", *nodes, f"--output={log}", f"--wrap=srun {command}").wait()
    after_a_checkpoint(tmp_path)
    begin("sbatch", "--partition=urgent", *nodes, "--output=/dev/null", "--wrap=true").wait()
    wait_for(tmp_path, "logs/runs/*/result.json")
    assert read_result(run_dir_of(tmp_path))["status"] == "interrupted"
    for _ in range(300):  # Slurm waits two minutes before it restarts a job
        if read_result(run_dir_of(tmp_path))["status"] == "completed":
            break
        time.sleep(1)
    assert read_result(run_dir_of(tmp_path))["steps"] == 450
    assert log.read_text().count("stopping at the next step") == 1
