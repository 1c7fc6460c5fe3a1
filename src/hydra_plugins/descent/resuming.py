"""Hydra's serial sweep, made to survive: a sweeper and a launcher that Hydra finds by their package's name.

A job that is finished is left alone, one that was interrupted goes on, and one that fails or cannot be composed is
a result like any other. So the same command again continues a sweep.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from descent.errors import UserError
from descent.files import locked
from descent.messages import one_line
from descent.result import EXIT_CODES, Result, is_finished
from descent.run_dirs import job_label
from descent.sweep import summarize


class ResumingSweeper(BasicSweeper):
    """Every combination of the values, as Hydra's own; ``max_batch_size`` works as there."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Not before the sweep, which one bad job would keep from beginning: the launcher composes each job."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        sweep_dir = Path(self.config.hydra.sweep.dir)
        with locked(sweep_dir, "the sweep"):
            try:
                returns = super().sweep(arguments)
            except SystemExit:  # Ctrl-C or SIGTERM, in a job or between two
                unfinished = [job for job in self._jobs() if not is_finished(sweep_dir / job)]
                summarize(sweep_dir)
                print("interrupted; not finished:", *unfinished, "the same command goes on from here", sep="\n  ")
                raise

            summarize(sweep_dir)
            if not self._jobs():
                raise UserError("a sweep must have at least one job")
            if not all(is_finished(sweep_dir / job) for job in self._jobs()):
                sys.exit(EXIT_CODES["failed"])
            return returns

    def _jobs(self) -> list[str]:
        return [job_label(job) for batch in self.overrides or [] for job in batch]


class ResumingLauncher(Launcher):
    """One job after another in this process."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return [self._job(number, list(job)) for number, job in enumerate(job_overrides, initial_job_idx)]

    def _job(self, number: int, overrides: list[str]) -> JobReturn:
        run_dir = Path(self.config.hydra.sweep.dir) / job_label(overrides)
        print(f"#{number} {run_dir.name}", flush=True)
        if is_finished(run_dir):
            print("finished before")
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        try:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        except Exception as error:
            return _not_composed(error, run_dir, overrides)
        if config.hydra.sweep.dir != self.config.hydra.sweep.dir:
            raise UserError("name must be one for the whole sweep")
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        job = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        result = job.return_value
        if isinstance(result, Result) and result.status == "interrupted":
            raise SystemExit(result.exit_code)
        return job


def _not_composed(error: Exception, run_dir: Path, overrides: list[str]) -> JobReturn:
    """The result of a job with, for example, an option that does not exist."""
    reason = one_line(error)
    print(f"error: {reason}")
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "train.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    Result("failed", seed=None, command=f"python scripts/train.py {' '.join(overrides)}", reason=reason).write(run_dir)
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)


_store = ConfigStore.instance()
_package = f"{__name__}."
_store.store(
    group="hydra/sweeper",
    name="resuming",
    node={"_target_": f"{_package}ResumingSweeper", "max_batch_size": None, "params": None},
)
_store.store(group="hydra/launcher", name="resuming", node={"_target_": f"{_package}ResumingLauncher"})
