"""Runs the jobs of a sweep through other Hydra launchers, in separate processes."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction
from omegaconf import DictConfig

from descent.config.messages import one_line
from descent.run.result import is_finished
from descent.signals import HANDLED, stop_mark
from descent.sweep.cluster import RequeueableTask, is_submitit, wait_for_all


class WithoutBar:
    """Runs a job without a progress bar, because the bars of several jobs would overlap."""

    def __init__(self, task: TaskFunction) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        os.environ["TQDM_DISABLE"] = "1"  # set before tqdm is imported; leaves the run's config and result unchanged
        return self.task(config)


def task_in_process(launcher: Launcher, task: TaskFunction) -> TaskFunction:
    """The task for a job of the launcher, in its own process."""
    quiet = WithoutBar(task)
    return RequeueableTask(quiet) if is_submitit(launcher) else quiet


def launch_jobs(launcher: Launcher, jobs: Sequence[Sequence[str]], first: int, run_dirs: Sequence[Path]) -> None:
    """Launches the jobs, waits until all have ended, and prints which ended without a result.

    A signal to this process stops all jobs at their next safe point, and no further job starts.

    Args:
        launcher: the one that Hydra built.
        jobs: the overrides of each job.
        first: the number of the first job.
        run_dirs: the directory of each job.

    Raises:
        SystemExit: this process received a signal.
    """
    before = [_written(run_dir) for run_dir in run_dirs]
    sweep_dir = run_dirs[0].parent
    if type(launcher).__module__.startswith("hydra_plugins.hydra_ray_launcher."):
        ray: Any = import_module("hydra_plugins.hydra_ray_launcher._launcher_util")
        given: Any = launcher
        ray.start_ray(given.ray_cfg.init)  # before the handlers below, because it sets a SIGTERM handler
    waiting = wait_for_all(stop_mark(sweep_dir)) if is_submitit(launcher) else nullcontext()
    with signals_passed_on(sweep_dir), waiting:
        try:
            launcher.launch(jobs, initial_job_idx=first)
        except Exception as error:  # for example, a worker was killed; the other jobs may have completed
            print(f"error: {type(launcher).__name__}: {one_line(error)}")
    for run_dir, written in zip(run_dirs, before, strict=True):
        if _written(run_dir) == written and not is_finished(run_dir):
            print(f"{run_dir.name} ended without a result")


def workers(launcher: Mapping[str, Any], most: int | None = None) -> int:
    """How many jobs a launcher runs at once.

    Args:
        launcher: its config node: joblib's, submitit's, Ray's, or that of a serial launcher.
        most: the most jobs that the sweep launches together; ``None``: no limit.
    """
    cores = os.cpu_count() or 1
    if "n_jobs" in launcher:  # joblib: -1 is all cores, -2 all but one
        jobs = int(launcher["n_jobs"] or 1)
        count = jobs if jobs > 0 else cores + 1 + jobs
    elif "array_parallelism" in launcher:  # a cluster
        count = int(launcher["array_parallelism"])
    else:  # submitit on this machine starts all at once, Ray one per core
        count = cores if "submitit_folder" in launcher or "ray" in launcher else 1
    return max(1, min(count, most or count))


def _written(run_dir: Path) -> int | None:
    """When ``result.json`` was written, perhaps by an earlier launch; ``None``: not yet."""
    path = run_dir / "result.json"
    return path.stat().st_mtime_ns if path.is_file() else None


@contextmanager
def signals_passed_on(sweep_dir: Path) -> Iterator[None]:
    """Turns a signal into the mark file that jobs check, wherever they run. A second signal ends this process.

    Raises:
        SystemExit: on exit, if a signal was received.
    """
    mark, received = stop_mark(sweep_dir), list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise SystemExit(128 + number)
        received.append(number)
        mark.write_text(str(number), encoding="utf-8")
        print("\nstopping all jobs where they can resume; press Ctrl-C again to quit now", file=sys.stderr)

    is_main = threading.current_thread() is threading.main_thread()  # only it may set handlers
    handlers = {number: signal.signal(number, note) for number in HANDLED} if is_main else {}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        mark.unlink(missing_ok=True)
        if received:
            raise SystemExit(128 + received[0])
