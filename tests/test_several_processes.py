"""Tests that two processes on the CPU train like one and resume exactly."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import posix
from projects.running import equal
from ranks import OF_PROJECT, SMALL, in_two
from torch import Tensor

from descent.run.result import read_result
from descent.training.checkpoint_io import read_checkpoint

pytestmark = posix
TWO = ("trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.devices=2")
# 80 training rows leave one in the last batch
ONE_LEFT = ("batch.size=79", "trainer.max_epochs=3")
CASES = {
    "adam, clipping, perceptron": (
        *("optimizer=adam", "clip=norm", "clip.gradient_clip_val=0.3", "model=mlp", *ONE_LEFT),
        *("packages=[regression,several]", "+callbacks.gathers._target_=several.callback.Gathers"),
    ),
    "sgd": ("batch.size=9", "trainer.max_epochs=4"),
    "lbfgs": ("optimizer=lbfgs", "batch=full", "trainer.max_epochs=2", "+optimizer.max_iter=4"),
    "a schedule of steps": ("scheduler=one_cycle", "batch.size=7", "trainer.max_epochs=3"),
    "a number of steps": ("trainer.max_steps=13", "batch.size=9", "scheduler=cosine", "scheduler.interval=step"),
    "gradients added up": ("trainer.accumulate_grad_batches=3", "batch.size=9", "trainer.max_epochs=3"),
    "a budget of gradients": ("stopping.max_gradient_evaluations=11", "batch.size=9"),
    "a budget of rows": ("stopping.max_samples=150", "batch.size=9"),
    "until it has converged": ("stopping=converged", "batch=full", "stopping.gradient_norm=0.01", "optimizer.lr=0.3"),
    "patience": ("stopping=patience", "stopping.patience=2", "stopping.min_delta=0.01", "batch.size=9"),
    "value, momentum": ("optimizer=momentum", "clip=value", "clip.gradient_clip_val=0.05", "batch.size=10"),
}


def run_dir_of(tmp_path: Path) -> Path:
    (run_dir,) = (tmp_path / "logs/runs").iterdir()
    return run_dir


def weights(run_dir: Path, checkpoint: str = "last") -> dict[str, Tensor]:
    found: dict[str, Tensor] = read_checkpoint(run_dir / f"checkpoints/{checkpoint}.ckpt")["state_dict"]
    return found


def assert_trains_as_one(overrides: Sequence[str], tmp_path: Path) -> None:
    both = in_two(tmp_path, "train.py", *overrides, *TWO)
    assert [process.returncode for process in both] == [0, 0], both
    assert (both[1].stdout, both[1].stderr) == ("", "")
    two = run_dir_of(tmp_path)
    (alone,) = in_two(tmp_path / "one", "train.py", *overrides, "trainer.accelerator=cpu", world=1)
    assert alone.returncode == 0, alone
    one = run_dir_of(tmp_path / "one")
    assert {path.name.partition(".tfevents")[0] for path in two.iterdir()} == {
        *(path.name.partition(".tfevents")[0] for path in one.iterdir())
    }
    for checkpoint in ("best", "last"):
        for name, weight in weights(one, checkpoint).items():
            torch.testing.assert_close(weights(two, checkpoint)[name], weight, rtol=0, atol=1e-12)
    found, expected = read_result(two), read_result(one)
    for key in ("status", "stopped", "steps", "epochs", "samples", "gradient_evaluations", "checksum"):
        assert found[key] == expected[key], key
    assert found["best"]["step"] == expected["best"]["step"]
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "case", [name if number == 0 else pytest.param(name, marks=pytest.mark.soak) for number, name in enumerate(CASES)]
)
def test_two_processes_train_like_one(case: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert_trains_as_one([*SMALL, *CASES[case]], tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("more", [(), ("data.workers=2", "data.batch_size=4"), ("data.rows=1",)], ids=str)
def test_a_dataloaders_rows_are_shared_out_and_metrics_cover_all_rows(more: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert_trains_as_one([*OF_PROJECT, "trainer.max_epochs=3", *more], tmp_path)
    assert read_result(run_dir_of(tmp_path))["metrics"]["val/rows"] == 11


def stop(step: int, rank: int = 1, name: str = "SIGTERM") -> tuple[str, ...]:
    given = {"_target_": "several.callback.SignalAt", "step": step, "rank": rank, "name": name}
    return tuple(f"+callbacks.stop.{key}={value}" for key, value in given.items())


@pytest.mark.soak
@pytest.mark.parametrize("step", [6, 9], ids=["within an epoch", "at the end of one"])
def test_a_run_ended_by_a_signal_to_one_process_resumes_bit_for_bit(step: int, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    given = (*OF_PROJECT, "model.dropout=0.5", "trainer.max_epochs=3", *TWO)
    whole = in_two(tmp_path / "whole", "train.py", *given, *stop(999))
    ended = in_two(tmp_path, "train.py", *given, *stop(step))
    assert [process.returncode for process in (*whole, *ended)] == [0, 0, 143, 143], ended
    run_dir = run_dir_of(tmp_path)
    result = read_result(run_dir)
    assert (result["status"], result["reason"]) == ("interrupted", "interrupted by SIGTERM")
    assert 0 < result["steps"] < 15
    resumed = in_two(tmp_path, "resume.py", str(run_dir))
    assert [process.returncode for process in resumed] == [0, 0], resumed
    one, other = (
        read_checkpoint(run_dir_of(tmp_path / "whole") / "checkpoints/last.ckpt"),
        read_checkpoint(run_dir / "checkpoints/last.ckpt"),
    )
    for key in ("state_dict", "optimizer_states", "random_state", "random_states"):
        assert equal(one[key], other[key]), key
    assert len(one["random_states"]) == 2 and not equal(*one["random_states"])
    assert read_result(run_dir)["metrics"] == read_result(run_dir_of(tmp_path / "whole"))["metrics"]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("given", "code", "status"),
    [
        (("optimizer.lr=1e6",), 3, "diverged"),
        (("stopping.max_seconds=0.5", "trainer.max_epochs=100000"), 0, "completed"),
        (("trainer.max_epochs=1", "trainer.fast_dev_run=true"), 0, "completed"),
        (
            ("trainer.val_check_interval=2", "batch.size=10", "stopping=patience"),
            0,
            "completed",
        ),
        (("callbacks=[swa,lr_monitor,device_stats]", "trainer.max_epochs=3", "scheduler=plateau"), 0, "completed"),
    ],
    ids=str,
)
def test_both_processes_end_with_the_same_code(given: tuple[str, ...], code: int, status: str, tmp_path: Path) -> None:
    both = in_two(tmp_path, "train.py", *SMALL, *TWO, *given)
    assert [process.returncode for process in both] == [code, code], both
    assert read_result(run_dir_of(tmp_path))["status"] == status


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SIGKILL", "another process of this run has ended"),
        ("RAISE", "another process of this run has ended"),
    ],
)
def test_when_one_process_dies_the_other_ends_with_a_message(name: str, said: str, tmp_path: Path) -> None:
    given = (*SMALL, "packages=[regression,several]", "checkpoint.every_steps=2", *TWO)
    first, second = in_two(tmp_path, "train.py", *given, *stop(5, name=name))
    assert first.returncode == 1
    assert first.stderr.splitlines()[-1].startswith(f"error: {said}")
    if name == "RAISE":
        assert second.stderr.startswith(
            "process 1: ValueError in SignalAt.on_train_batch_start: on one of them\nTraceback"
        )
    run_dir = run_dir_of(tmp_path)
    assert read_result(run_dir)["status"] == "failed"
    assert read_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == 4


@pytest.mark.soak
def test_resuming_with_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    given = (*SMALL, "trainer.max_epochs=3", "packages=[regression,several]", *stop(3, rank=0))
    assert in_two(tmp_path, "train.py", *given, *TWO)[0].returncode == 143
    (alone,) = in_two(tmp_path, "resume.py", str(run_dir_of(tmp_path)), world=1)
    assert alone.returncode == 1
    assert alone.stderr.endswith(
        "error: trainer.devices=2 times trainer.num_nodes=1 must be 1, the number of processes that"
        " torchrun started, got 2\n"
    )
