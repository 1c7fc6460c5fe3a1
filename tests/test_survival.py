"""Tests kills, signals, full disks and resumed sweeps."""

import csv
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, needs_sweep, posix
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from test_resume import SMALL, SignalAt, Trace

from descent.errors import UserError
from descent.files import locked, write_atomically
from descent.run.result import read_result
from descent.run.resume import resume
from descent.training.checkpoint_io import read_checkpoint

Script = Callable[..., subprocess.CompletedProcess[str]]
LONG = ("trainer=float64", "trainer.max_epochs=4000", "checkpoint.every_seconds=0.1")


def wait_for(path: Path, pattern: str, seconds: float = 60) -> Path:
    """Waits for a file below ``path`` that matches, and returns the first."""
    for _ in range(int(seconds * 50)):
        if found := sorted(path.glob(pattern)):
            return found[0]
        time.sleep(0.02)
    raise TimeoutError(f"no {pattern} in {path}")


@posix
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGINT", 130),
        *(pytest.param(name, code, marks=pytest.mark.soak) for name, code in (("SIGTERM", 143), ("SIGHUP", 129))),
    ],  # test_stopping and test_launchers cover the others
)
def test_a_signal_during_training_saves_and_prints_the_resume_command(
    name: str, code: int, start: Any, script: Script, tmp_path: Path
) -> None:
    number = getattr(signal, name)
    process = start("train.py", "name=r", *LONG)
    run_dir = wait_for(tmp_path, "logs/runs/*/checkpoints/last.ckpt").parents[1]
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    result = read_result(run_dir)
    assert (result["status"], result["reason"]) == ("interrupted", f"interrupted by {number.name}")
    assert f"python scripts/resume.py {run_dir}" in output
    assert read_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == result["steps"] > 0


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_before_training_ends_the_process_without_a_traceback(
    number: signal.Signals, code: int, start: Any, tmp_path: Path
) -> None:
    process = start("train.py")
    wait_for(tmp_path, "logs/runs/*/.hydra")  # the process is importing torch
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors


@needs_sweep
def test_a_killed_sweep_resumes(start: Any, script: Script, run: Run, tmp_path: Path) -> None:
    intervals = ["checkpoint.every_steps=500", "checkpoint.every_seconds=null"]
    common = ["trainer=float64", "figures=false", *intervals]
    sweep = ["-m", "name=s", *common]
    process = start("train.py", *sweep, "trainer.max_epochs=1,300,2")
    directory = tmp_path / "logs/sweeps/s"
    second = wait_for(directory, "*max_epochs=300,*/checkpoints/last.ckpt").parents[1]
    process.kill()
    process.wait()
    (first,) = directory.glob("*max_epochs=1,*")
    assert not (second / "result.json").exists() and not list(directory.glob("*max_epochs=2,*"))
    reached = read_checkpoint(second / "checkpoints/last.ckpt")["global_step"]
    assert 0 < reached < 300 * 25
    begun = set(second.glob("events.out.tfevents*"))
    untouched = (first / "result.json").stat().st_mtime_ns
    done = script("train.py", *sweep, "trainer.max_epochs=1,300,2,3")
    assert done.returncode == 0, done.stderr
    assert (first / "result.json").stat().st_mtime_ns == untouched
    results = [read_result(path.parent) for path in directory.glob("*/result.json")]
    assert sorted((result["steps"], result["status"]) for result in results) == [
        (epochs * 25, "completed") for epochs in (1, 2, 3, 300)
    ]
    (resumed,) = set(second.glob("events.out.tfevents*")) - begun
    points = [event.step for event in EventFileLoader(str(resumed)).Load() if event.HasField("summary")]
    assert min(points) > reached  # it did not start again
    run(*common, "trainer.max_epochs=300", run_dir=tmp_path / "alone")
    expected, found = read_result(tmp_path / "alone"), read_result(second)
    for key in ("parameters", "metrics", "best", "steps"):
        assert found[key] == expected[key]


@needs_sweep
def test_a_sweep_in_batches_continues_after_failed_jobs(script: Script, tmp_path: Path) -> None:
    jobs = ["optimizer=sgd,foo,lbfgs,adam", "hydra.sweeper.max_batch_size=1", "trainer.max_epochs=1"]
    done = script("train.py", "-m", "name=s", *jobs)
    assert done.returncode == 1
    status = {path.parent.name.split(",")[0]: read_result(path.parent) for path in tmp_path.rglob("result.json")}
    assert {name: result["status"] for name, result in status.items()} == {
        "optimizer=sgd": "completed",
        "optimizer=foo": "failed",
        "optimizer=lbfgs": "failed",
        "optimizer=adam": "completed",
    }
    assert "failed: optimizer must be one of" in done.stdout
    assert "failed: batch.size must be null (batch=full) with optimizer=lbfgs" in done.stdout
    for failed in ("foo", "lbfgs"):
        (log,) = tmp_path.glob(f"logs/sweeps/s/optimizer={failed}*/train.log")
        assert "Traceback" in log.read_text()


@needs_sweep
@posix
def test_an_interrupted_sweep_lists_unfinished_jobs(start: Any, tmp_path: Path) -> None:
    process = start("train.py", "-m", "name=s", *LONG, "seed=1,2,3")
    wait_for(tmp_path, "logs/sweeps/s/*/checkpoints/last.ckpt")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    left = output[output.index("not finished:") :]
    assert all(f"seed={seed}" in left for seed in (1, 2, 3))
    with (tmp_path / "logs/sweeps/s/summary.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["interrupted"]


def test_a_job_of_a_sweep_equals_the_same_job_alone(run: Run) -> None:
    alone = run(*SMALL, "optimizer=adam")
    run("trainer=default", "clip=norm", "seed=9", "trainer.max_epochs=1")
    assert run(*SMALL, "optimizer=adam").parameters == alone.parameters


@pytest.mark.soak  # test_soak has a larger trial
def test_two_equal_commands_at_once_do_not_share_a_directory(start: Any, tmp_path: Path) -> None:
    both = [start("train.py", "trainer.max_epochs=1"), start("train.py", "trainer.max_epochs=1")]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(list((tmp_path / "logs/runs").glob("*/result.json"))) == 2


def test_resuming_a_finished_run_says_how_to_lengthen_it(script: Script, run: Run, tmp_path: Path) -> None:
    assert script("train.py", "name=a", *SMALL).returncode == 0
    (run_dir,) = (tmp_path / "logs/runs").iterdir()
    before = (run_dir / "result.json").read_bytes()
    for arguments, message in (
        ([], f"{run_dir} is finished: trainer.max_epochs=N with N above 4 makes it longer"),
        (["optimizer.lr=1"], "optimizer.lr must keep its value: only trainer.max_epochs=N may change"),
        (["batch.size=1"], "batch.size must keep its value"),
        (["data.seed=1"], "data.seed must keep its value"),
        (["trainer.max_epochs=3"], "trainer.max_epochs must be above 4, its value so far, got 3"),
        (["trainer.max_epochs=x"], "trainer.max_epochs must be a positive integer, got 'x'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            resume(run_dir, arguments)
        assert (run_dir / "result.json").read_bytes() == before
    assert script("resume.py", str(run_dir), "trainer.max_epochs=6").returncode == 0
    run(*SMALL, "trainer.max_epochs=6", run_dir=tmp_path / "whole")
    for key in ("parameters", "metrics", "steps", "epochs", "best"):
        assert read_result(run_dir)[key] == read_result(tmp_path / "whole")[key]


@pytest.mark.soak  # test_resume_rules tests it in one process
def test_the_command_refuses_to_lengthen_a_run_with_a_cosine_schedule(script: Script, tmp_path: Path) -> None:
    assert script("train.py", "scheduler=cosine", *SMALL).returncode == 0
    (run_dir,) = (tmp_path / "logs/runs").iterdir()
    done = script("resume.py", str(run_dir), "trainer.max_epochs=9")
    assert "trainer.max_epochs must stay 4: scheduler=cosine depends on it" in done.stderr


def test_resuming_on_other_data_is_refused(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("x,y\n" + "".join(f"{k},{k % 7}\n" for k in range(50)))
    rows = ("data=table", f"data.path={table}", "data.target=y", "trainer.max_epochs=4", "batch.size=8")
    run(*rows, callbacks=[SignalAt(3)], run_dir=tmp_path / "r")
    for changed in ("50,1", "49,1"):
        table.write_text(table.read_text().replace("49,0", changed))
        with pytest.raises(UserError, match="data must be the same as at the start of the run to resume it"):
            run(*rows, run_dir=tmp_path / "r", resume=True)


class Payload:
    def __reduce__(self) -> Any:
        return (os.system, ("touch pwned",))


def test_a_checkpoint_that_would_run_code_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(*SMALL, callbacks=[SignalAt(3)], run_dir=tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"
    torch.save({**torch.load(path, weights_only=True), "extra": Payload()}, path)
    with pytest.raises(
        UserError, match=r"NumPy arrays only; it is not, and was not loaded; it has posix\.system$"
    ) as raised:
        run(*SMALL, run_dir=tmp_path / "r", resume=True)
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused(damage: bytes | None, run: Run, tmp_path: Path) -> None:
    run(*SMALL, callbacks=[SignalAt(3)], run_dir=tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:3000] if damage is None else damage)
    with pytest.raises(UserError, match="must be a whole checkpoint"):
        run(*SMALL, run_dir=tmp_path / "r", resume=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


# TensorBoard's writer thread ends with the error that the run reports
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_full_or_read_only_disk_is_an_error_and_keeps_the_checkpoint(how: str, small_disk: Path, run: Run) -> None:
    steps = run(*SMALL, callbacks=[SignalAt(7)], run_dir=small_disk / "r").steps
    if how == "full":
        with pytest.raises(OSError, match="No space left"), (small_disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(1000))
                file.flush()
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"cannot write .*: (No space left on device|Read-only file system)"):
        run(*SMALL, run_dir=small_disk / "r", resume=True)
    assert read_checkpoint(small_disk / "r/checkpoints/last.ckpt")["global_step"] == steps


def test_files_are_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=f"cannot write {path}: No space left on device"):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_locked_to_one_process(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match="is in use by another process")
    with locked(tmp_path, "the run"), refused, locked(tmp_path, "the run"):
        pass


BROKEN = """
from lightning.pytorch import Callback

class Broken(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        assert False, "not foreseen"
"""


def test_the_traceback_of_an_unforeseen_failure_is_in_the_log(script: Script, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    named = "packages=[torch,lightning,descent,regression,broken]", "+callbacks.broken._target_=broken.Broken"
    done = script("train.py", *named, path=[tmp_path])
    assert done.returncode == 1
    (log,) = tmp_path.rglob("train.log")
    assert done.stderr.splitlines()[-2].startswith("error: AssertionError in Broken.on_train_epoch_end: not foreseen")
    assert done.stderr.splitlines()[-1] == f"the traceback is in {log}"
    assert "Traceback" not in done.stderr and "Traceback" in log.read_text()


def test_checkpoints_are_written_at_the_interval_in_steps(run: Run, tmp_path: Path) -> None:
    kept: list[int] = []

    class Watch(Trace):
        def on_train_batch_start(self, *args: Any) -> None:
            path = tmp_path / "r/checkpoints/last.ckpt"
            if path.is_file():
                kept.append(read_checkpoint(path)["global_step"])

    run(
        *SMALL, "checkpoint.every_steps=3", "checkpoint.every_seconds=null", callbacks=[Watch()], run_dir=tmp_path / "r"
    )
    assert sorted(set(kept)) == [3, 6, 9, 12, 15, 18]
