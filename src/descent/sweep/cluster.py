"""Runs the jobs of a sweep through submitit, where a cluster may queue, preempt or cancel them."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction
from omegaconf import DictConfig

from descent import signals
from descent.run.result import Result


def is_submitit(launcher: Launcher) -> bool:
    return type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher.")


class RequeueableTask:
    """Runs a job in its own process. If a signal ends the job, the process ends without a return value.

    So a job that the cluster requeues does not count as done, and a cancelled job is done once it has left the queue.
    Its results are in its directory.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        signals.install()  # submitit's own handler of SIGTERM does nothing
        result = self.task(config)
        if isinstance(result, Result) and result.signal is not None:
            if result.signal == signals.REQUEUE:
                signal.raise_signal(result.signal)  # for submitit, which requeues the job if it may
            raise SystemExit(result.exit_code)
        return result


@contextmanager
def wait_for_all(mark: Path) -> Iterator[None]:
    """Makes submitit wait within the context until every job has ended, with or without a return value.

    Asks ``squeue`` which jobs have ended: ``sacct`` needs accounting, which not all clusters have.

    Args:
        mark: the file that cancels the queued jobs when it appears.
    """
    core: Any = import_module("submitit.core.core")  # an optional extra, hidden from mypy
    slurm: Any = import_module("submitit.slurm.slurm")

    class Queue(slurm.SlurmInfoWatcher):  # type: ignore[misc]
        def _make_command(self) -> list[str]:
            return ["squeue", "--me", "--noheader", "--array", "--format=%i"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            queued = (string.decode() if isinstance(string, bytes) else string).split()
            return {job: {"State": "RUNNING" if job in queued else "COMPLETED"} for job in self._registered}

    def results(job: Any) -> list[None]:
        while not job.done(force_check=(stops := signals.asked_to_stop(mark) is not None)):
            if stops and isinstance(job, slurm.SlurmJob):
                array = job.job_id.partition("_")[0]
                subprocess.run(["scancel", "--state=PENDING", array], stderr=subprocess.DEVNULL, check=False)
            time.sleep(1)
        return [None]  # its outcome is in its result.json

    before = core.Job.results, slurm.SlurmJob.watcher
    core.Job.results, slurm.SlurmJob.watcher = results, Queue(delay_s=60)
    try:
        yield
    finally:
        core.Job.results, slurm.SlurmJob.watcher = before
