"""Jobs of a sweep that another launcher of Hydra's does, in processes of its own."""

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
from descent.sweep.cluster import Requeued, is_submitit, waited_for


class WithoutBar:
    """The task of a job that draws no progress bar: those of several jobs would overlap."""

    def __init__(self, task: TaskFunction) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported; the run's config and result stay the same
        return self.task(config)


def task_elsewhere(launcher: Launcher, task: TaskFunction) -> TaskFunction:
    """What a job of the launcher does in a process of its own."""
    quiet = WithoutBar(task)
    return Requeued(quiet) if is_submitit(launcher) else quiet


def launch_elsewhere(launcher: Launcher, jobs: Sequence[Sequence[str]], first: int, run_dirs: Sequence[Path]) -> None:
    """Waits until all jobs have ended, and says which have left no result.

    A signal to this process ends them all at their next safe points, and no other begins.

    Args:
        launcher: as Hydra has built it.
        jobs: the overrides of each.
        first: the number of the first.
        run_dirs: of each job.

    Raises:
        SystemExit: a signal has come in.
    """
    before = [_written(run_dir) for run_dir in run_dirs]
    sweep_dir = run_dirs[0].parent
    if type(launcher).__module__.startswith("hydra_plugins.hydra_ray_launcher."):
        ray: Any = import_module("hydra_plugins.hydra_ray_launcher._launcher_util")
        given: Any = launcher
        ray.start_ray(given.ray_cfg.init)  # before the handlers below: it sets one of SIGTERM
    waiting = waited_for(stop_mark(sweep_dir)) if is_submitit(launcher) else nullcontext()
    with handed_on(sweep_dir), waiting:
        try:
            launcher.launch(jobs, initial_job_idx=first)
        except Exception as error:  # a worker was killed, for example; the other jobs may have ended well
            print(f"error: {type(launcher).__name__}: {one_line(error)}")
    for run_dir, written in zip(run_dirs, before, strict=True):
        if _written(run_dir) == written and not is_finished(run_dir):
            print(f"{run_dir.name} has ended without a result")


def workers(launcher: Mapping[str, Any], most: int | None = None) -> int:
    """How many jobs a launcher does at once.

    Args:
        launcher: its node of the config: joblib's, submitit's, or of one that does one job after another.
        most: where the sweep hands on so many together.
    """
    cores = os.cpu_count() or 1
    if "n_jobs" in launcher:  # joblib: -1 is all cores, -2 all but one
        jobs = int(launcher["n_jobs"] or 1)
        count = jobs if jobs > 0 else cores + 1 + jobs
    elif "array_parallelism" in launcher:  # a cluster's
        count = int(launcher["array_parallelism"])
    else:  # submitit's on this machine starts them all, Ray's one a core
        count = cores if "submitit_folder" in launcher or "ray" in launcher else 1
    return max(1, min(count, most or count))


def _written(run_dir: Path) -> int | None:
    """When its ``result.json`` was, which an earlier launch may have done."""
    path = run_dir / "result.json"
    return path.stat().st_mtime_ns if path.is_file() else None


@contextmanager
def handed_on(sweep_dir: Path) -> Iterator[None]:
    """Within it a signal becomes the mark that jobs look for, wherever they run; a second one ends this process.

    Raises:
        SystemExit: at the end, where a signal has come in.
    """
    mark, received = stop_mark(sweep_dir), list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise SystemExit(128 + number)
        received.append(number)
        mark.write_text(str(number), encoding="utf-8")
        print("\nending all jobs where they can go on from; once more: at once", file=sys.stderr)

    is_main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    handlers = {number: signal.signal(number, note) for number in HANDLED} if is_main else {}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        mark.unlink(missing_ok=True)
        if received:
            raise SystemExit(128 + received[0])
