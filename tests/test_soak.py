"""Runs hundreds of kills, interruptions and jobs (`make soak`)."""

import gc
import logging
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, config_of, options, posix
from test_conf import needs_full_batch
from test_resume import SMALL, SignalAt, assert_resumes_exactly
from test_survival import wait_for

from descent.run.result import read_result
from descent.run.train import train
from descent.training.checkpoint_io import read_checkpoint

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("trial", range(150))
def test_any_combination_interrupted_anywhere_resumes_exactly(trial: int, run: Run, tmp_path: Path) -> None:
    draw = random.Random(trial)
    optimizer = draw.choice(options("optimizer"))
    batch = "full" if needs_full_batch(optimizer) else draw.choice(["full", "single", "mini"])
    size = {"full": "null", "single": "1", "mini": "8"}[batch]
    steps = {"full": 4, "single": 160, "mini": 20}[batch]
    epochs = draw.choice([4, 4, 30])  # after the 20th some epochs run without hooks
    steps = steps * epochs // 4
    fitting = [
        name for name in options("scheduler") if name != "warmup_cosine" or steps > 10
    ]  # it warms up for ten steps
    scheduler = draw.choice(fitting)
    stopping = draw.choice(["none", "patience", "converged"])
    overrides = [
        *(*SMALL[:-1], f"batch={batch}", f"batch.size={size}", f"optimizer={optimizer}", f"scheduler={scheduler}"),
        *(f"clip={draw.choice(options('clip'))}", f"stopping={stopping}", f"seed={trial}"),
        *(["data.val_fraction=0"] if draw.random() < 0.3 else []),
        *(["stopping.patience=1"] if stopping == "patience" else []),
        *([f"checkpoint.every_steps={draw.randint(1, 9)}"] if draw.random() < 0.5 else []),
    ]
    overrides.append(f"trainer.max_epochs={epochs}")
    points = sorted(draw.sample(range(1, steps), k=min(2, steps)))
    where = [draw.choice(["on_step", "on_step", "on_before_backward"]) for _ in points]
    signals = [SignalAt(point, where=hook) for point, hook in zip(points, where, strict=True)]
    assert_resumes_exactly(run, tmp_path, signals, *overrides)


def _train(overrides: tuple[str, ...], run_dir: Path) -> None:
    torch.set_num_threads(1)
    train(config_of("trainer.enable_progress_bar=false", *overrides), run_dir, resume=True)


def _process(overrides: tuple[str, ...], run_dir: Path) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["descent.run.train"])
    process = context.Process(target=_train, args=(overrides, run_dir))
    process.start()
    return process


@pytest.mark.parametrize("trial", range(100))
def test_sigkill_at_any_moment_leaves_readable_checkpoints_and_resumes_exactly(trial: int, tmp_path: Path) -> None:
    draw = random.Random(trial)
    optimizer = draw.choice([name for name in options("optimizer") if not needs_full_batch(name)])
    overrides = (
        *(*SMALL[:3], "trainer.max_epochs=40", "batch.size=8", f"optimizer={optimizer}", "scheduler=exponential"),
        *(f"checkpoint.every_steps={draw.randint(1, 5)}", "checkpoint.every_seconds=null", f"seed={trial}"),
    )
    whole, run_dir = tmp_path / "whole", tmp_path / "killed"
    _train(overrides, whole)
    kills = 0
    while kills < 3 and not (run_dir / "result.json").is_file():
        process = _process(overrides, run_dir)
        wait_for(run_dir, "checkpoints/last.ckpt")
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.join()
        kills += 1
        for path in run_dir.glob("checkpoints/*.ckpt"):
            read_checkpoint(path)
    _train(overrides, run_dir)
    for key in ("parameters", "metrics", "steps", "best"):
        assert read_result(run_dir)[key] == read_result(whole)[key]


@posix
@pytest.mark.parametrize("trial", range(40))
def test_after_a_signal_at_any_moment_the_result_and_exit_code_agree(trial: int, start: Any, tmp_path: Path) -> None:
    draw = random.Random(trial)
    number, code = draw.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    process = start("train.py", "name=r", "trainer.max_epochs=30")
    wait_for(tmp_path, "logs/runs/*/events.out*")  # training has begun
    time.sleep(draw.uniform(0, 1.5))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    result = read_result(next((tmp_path / "logs/runs").iterdir()))
    assert (result["status"], process.returncode) in (("interrupted", code), ("completed", 0), ("completed", code))
    assert result["status"] == "interrupted" or result["epochs"] == 30
    assert "Traceback" not in errors


@posix
@pytest.mark.parametrize("trial", range(20))
def test_a_signal_at_any_moment_ends_a_sweep_without_failed_jobs(trial: int, start: Any, tmp_path: Path) -> None:
    draw = random.Random(trial)
    number, code = draw.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    sweep = ("-m", "name=s", "trainer.max_epochs=3", "figures=false", "seed=range(12)", "trainer=float64")
    process = start("train.py", *sweep)
    if trial % 4:  # otherwise the signal comes while the first job is composed
        wait_for(tmp_path, "logs/sweeps/s/*/result.json")
    time.sleep(draw.uniform(0, 3))
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors and "failed" not in output
    results = [read_result(path.parent) for path in (tmp_path / "logs/sweeps").glob("*/*/result.json")]
    assert {result["status"] for result in results} <= {"completed", "interrupted"}
    assert process.returncode == code or (process.returncode == 0 and len(results) == 12)
    process = start("train.py", *sweep)
    process.communicate(timeout=300)
    assert process.returncode == 0
    results = [read_result(path.parent) for path in (tmp_path / "logs/sweeps/s").glob("*/result.json")]
    assert [result["status"] for result in results] == ["completed"] * 12


def test_equal_commands_at_once_get_different_directories(start: Any, tmp_path: Path) -> None:
    runs = [start("train.py", "trainer.max_epochs=1") for _ in range(8)]
    sweeps = [start("train.py", "-m", "trainer.max_epochs=1", "seed=0,1") for _ in range(2)]
    for process in [*runs, *sweeps]:
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert len(list((tmp_path / "logs/runs").glob("*/result.json"))) == 8
    assert [len(list(sweep.glob("*/result.json"))) for sweep in (tmp_path / "logs/sweeps").iterdir()] == [2, 2]


def test_a_hundred_jobs_do_not_leak_memory_files_or_handlers(run: Run) -> None:
    resource = pytest.importorskip("resource", reason="Windows has none")

    def state() -> tuple[int, int, int]:
        gc.collect()
        handlers = sum(
            len(log.handlers) for log in logging.root.manager.loggerDict.values() if hasattr(log, "handlers")
        )
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(list(Path("/proc/self/fd").iterdir())), handlers

    for job in range(20):  # fills caches
        run("trainer.max_epochs=2", f"seed={job}")
    memory, files, handlers = state()
    for job in range(100):
        run("trainer.max_epochs=2", f"seed={job}", f"optimizer={['sgd', 'adam'][job % 2]}", "trainer=float64")
    assert state()[0] < memory * 1.05
    assert state()[1:] == (files, handlers)
