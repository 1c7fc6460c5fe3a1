"""Launches the jobs of a sweep that are not finished."""

import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from descent import signals
from descent.config.messages import one_line
from descent.errors import UserError
from descent.run.cli import to_config
from descent.run.result import Result, is_finished
from descent.run.run_dirs import job_label
from descent.sweep.job_processes import launch_jobs, task_in_process

if TYPE_CHECKING:
    from descent.config.schema import Config


class ResumingLauncher(Launcher):
    """Skips finished jobs, reports jobs that cannot be composed, and runs the rest.

    Args:
        launcher: runs the jobs; ``None``: run one after another in this process.
    """

    def __init__(self, launcher: Launcher | None = None) -> None:
        self.launcher = launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        if self.launcher is not None:
            task = task_in_process(self.launcher, task_function)
            self.launcher.setup(hydra_context=hydra_context, task_function=task, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if self.launcher is None:
            return [self._job(number, list(job)) for number, job in enumerate(job_overrides, initial_job_idx)]
        prepared = [self._prepared(number, list(job)) for number, job in enumerate(job_overrides, initial_job_idx)]
        left = [list(job) for job, done in zip(job_overrides, prepared, strict=True) if not isinstance(done, JobReturn)]
        if left:
            launch_jobs(self.launcher, left, initial_job_idx, [self._run_dir(job) for job in left])
        # the outcome of a job in another process is only in its result.json
        returns = zip(job_overrides, prepared, strict=True)
        return [
            done if isinstance(done, JobReturn) else JobReturn(overrides=list(job), status=JobStatus.COMPLETED)
            for job, done in returns
        ]

    def check(self, overrides: list[str]) -> None:
        """Raises an error if the job started with another config than it has now."""
        from descent.run.resume import check_unchanged

        check_unchanged(self._run_dir(overrides), self._composed(overrides)[1])

    def _run_dir(self, overrides: Sequence[str]) -> Path:
        return Path(self.config.hydra.sweep.dir) / job_label(overrides)

    def _composed(self, overrides: list[str]) -> tuple[DictConfig, "Config"]:
        """The config of a job, as composed by Hydra and as validated."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        tree = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        runtime = OmegaConf.merge(config.hydra.runtime, {"output_dir": str(self._run_dir(overrides))})
        return config, to_config(tree, runtime)

    def _prepared(self, number: int, overrides: list[str]) -> DictConfig | JobReturn:
        """The config of a job that is left to run, or the outcome of one that is finished or cannot be composed."""
        from descent.run.resume import check_unchanged

        signals.exit_if_received()
        run_dir = self._run_dir(overrides)
        print(f"#{number} {run_dir.name}", flush=True)
        try:
            config, checked = self._composed(overrides)
        except Exception as error:
            return _not_composed(error, run_dir, overrides)
        check_unchanged(run_dir, checked)
        if is_finished(run_dir):
            print("already finished")
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        if config.hydra.sweep.dir != self.config.hydra.sweep.dir:
            raise UserError("name must be the same for the whole sweep")
        return config

    def _job(self, number: int, overrides: list[str]) -> JobReturn:
        config = self._prepared(number, overrides)
        if isinstance(config, JobReturn):
            return config
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        try:
            job = run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        except OSError as error:  # its directory cannot be created
            return _not_composed(error, self._run_dir(overrides), overrides)
        result = job.return_value
        if isinstance(result, Result) and result.status == "interrupted":
            raise SystemExit(result.exit_code)
        return job


def _not_composed(error: Exception, run_dir: Path, overrides: list[str]) -> JobReturn:
    """Writes the result of a job that cannot start, for example with an option that does not exist."""
    signals.exit_if_received()
    reason = one_line(error)
    print(f"error: {reason}")
    command = f"python scripts/train.py {' '.join(overrides)}"
    with suppress(OSError, UserError):
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "train.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        Result("failed", seed=None, command=command, reason=reason).write_unless_trained(run_dir)
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
