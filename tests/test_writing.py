"""Tests that interrupted writes leave whole files, and that only one process writes to a run."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import ROOT, Run, config_of, needs_sweep, save_config
from tensorboard.summary.writer import event_file_writer
from test_resume import SMALL, SignalAt
from test_stepping import curve
from test_survival import Script

from descent.config.schema import Config
from descent.errors import UserError
from descent.files import write_atomically
from descent.run.command import run_safely
from descent.run.result import Result
from descent.run.resume import resume
from descent.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from descent.training.logger import RunLogger
from regression.predict import predict_file


def best_step(checkpoint: dict[str, Any]) -> int:
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("Checkpoints"))
    return int(state["best_step"])


def test_the_last_checkpoint_never_names_a_best_that_is_not_on_disk(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, directory = os.replace, tmp_path / "r/checkpoints"
    best: list[int] = []
    known: list[int] = []

    def watch(source: Any, target: Any, **options: Any) -> None:
        replace(source, target, **options)
        if Path(target) == directory / "last.ckpt":
            best.append(read_checkpoint(directory / "best.ckpt")["global_step"])
            known.append(best_step(read_checkpoint(directory / "last.ckpt")))

    monkeypatch.setattr(os, "replace", watch)
    run(*SMALL, "checkpoint.every_steps=6", "checkpoint.every_seconds=null", run_dir=tmp_path / "r")
    assert known == best
    assert len(set(best)) > 2  # the best must change several times


@contextmanager
def full_after(count: int) -> Iterator[None]:
    """Makes writes fail beyond ``count`` bytes of a file."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def failing(name: str) -> Iterator[None]:
    """Makes the function ``name`` of ``os`` fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, fail)
        yield


BROKEN: dict[str, Callable[[], Any]] = {
    "write": lambda: full_after(300),
    "fsync": lambda: failing("fsync"),
    "replace": lambda: failing("replace"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_result_stays_whole_when_a_write_fails(how: str, tmp_path: Path) -> None:
    Result("interrupted", seed=1, command="first", entries={"mine": [1.5] * 9}).write(tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    assert len(before) > 600 and json.loads(before)["command"] == "first"
    with pytest.raises(UserError, match=r"cannot write .*result\.json: "), BROKEN[how]():
        Result("completed", seed=1, command="second").write(tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("how", BROKEN)
def test_a_checkpoint_stays_whole_when_a_write_fails(how: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint = {"state_dict": {"weight": torch.ones(1000)}, "global_step": 1}
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt: "), BROKEN[how]():
        AtomicCheckpointIO().save_checkpoint(checkpoint | {"global_step": 2}, path)
    assert read_checkpoint(path)["global_step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_stay_whole_when_a_write_fails(suffix: str, run: Run, tmp_path: Path) -> None:
    run(*SMALL, "data.num_features=1", run_dir=tmp_path / "r")
    save_config(tmp_path / "r", *SMALL, "data.num_features=1", "trainer.enable_progress_bar=false", "figures=false")
    source, output = tmp_path / "rows.csv", tmp_path / f"out/predicted.{suffix}"
    pl.DataFrame({"x_1": [k / 7 for k in range(5000)]}).write_csv(source)
    output.parent.mkdir()
    for before in (None, b"the predictions of before"):
        if before is not None:
            output.write_bytes(before)
        for broken in (full_after(10_000), *([] if before is None else [failing("replace")])):
            with pytest.raises(UserError, match=f"cannot predict from {source} to {output}: "), broken:
                predict_file(tmp_path / "r", source, output)
            assert [path.read_bytes() for path in output.parent.iterdir()] == ([] if before is None else [before])
    predict_file(tmp_path / "r", source, output)
    assert len((pl.read_csv if suffix == "csv" else pl.read_parquet)(output)) == 5000


HOLDER = """
import sys
from pathlib import Path
from descent.files import locked
with locked(Path(sys.argv[1]), "the run"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def at_work(directory: Path) -> Iterator[None]:
    """Locks ``directory`` in another process."""
    command = [sys.executable, "-c", HOLDER, str(directory)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, env=environment, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield
        holder.communicate("")


@needs_sweep
def test_a_sweep_that_another_process_runs_is_refused(script: Script, tmp_path: Path) -> None:
    sweep = tmp_path / "logs/sweeps/s"
    with at_work(sweep):
        done = script("train.py", "-m", "name=s", "seed=1,2")
    assert done.returncode == 1
    assert f"the sweep {sweep} is in use by another process" in done.stderr
    assert not [path for path in sweep.iterdir() if path.is_dir()]


@pytest.fixture
def interrupted(run: Run, tmp_path: Path) -> Path:
    """A run that was interrupted in its second epoch of four, with its config saved as Hydra does."""
    overrides = [*SMALL, "figures=false", "trainer.enable_progress_bar=false"]
    assert run(*overrides, callbacks=[SignalAt(7)], run_dir=tmp_path / "r").status == "interrupted"
    save_config(tmp_path / "r", *overrides)
    return tmp_path / "r"


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_that_another_process_trains_is_refused_and_not_changed(interrupted: Path) -> None:
    before = contents(interrupted)
    with at_work(interrupted):
        refused = resume(interrupted)
    assert refused.status == "failed"
    assert refused.reason == f"the run {interrupted} is in use by another process"
    assert contents(interrupted) == before
    assert resume(interrupted).steps == 4 * 5


def test_a_run_that_another_process_trains_is_not_lengthened(interrupted: Path) -> None:
    before = contents(interrupted)
    with at_work(interrupted):
        assert resume(interrupted, ["trainer.max_epochs=6"]).status == "failed"
    assert contents(interrupted) == before


def test_curves_stay_in_order_when_a_run_is_resumed_many_times_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.5)
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    for step in range(15):
        logger = RunLogger(tmp_path, resumed_at=step - 1 if step else None)
        logger.log_metrics({"loss": float(step)}, step)
        logger.log_metrics({"loss": -1.0}, step + 1)  # after the checkpoint: the next resume repeats this step
        logger.close()
    expected = {**{step: float(step) for step in range(15)}, 15: -1.0}
    assert list(curve(tmp_path, "loss").items()) == list(expected.items())


def test_the_resume_command_quotes_a_directory_with_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = Result("interrupted", seed=0, command="", reason="interrupted by SIGINT", signal=2)
    monkeypatch.setattr("descent.run.train.train", lambda *_, **__: stopped)
    run_safely(config_of, tmp_path / "my runs/a", "", brief=True)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] == ["python", "scripts/resume.py", str(tmp_path / "my runs/a")]


def refuse() -> Config:
    raise UserError("seed must be an integer")


def test_a_refused_config_keeps_the_result_of_a_resumable_run(interrupted: Path) -> None:
    before = contents(interrupted)
    assert run_safely(refuse, interrupted, "").status == "failed"
    assert contents(interrupted) == before


def test_a_leftover_temporary_file_does_not_block_a_write(tmp_path: Path) -> None:
    (tmp_path / "a.json.tmp").write_text("half of somethi")
    write_atomically(tmp_path / "a.json", b"whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "whole"}
