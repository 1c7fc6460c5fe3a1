"""Runs Hydra sweeps that can be resumed.

The same command resumes a sweep: finished jobs are skipped and interrupted ones resume. A job that fails or cannot be
composed does not stop the others.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from descent.errors import UserError, counted, invalid
from descent.files import locked
from descent.run.result import EXIT_CODES, Result, is_finished
from descent.run.run_dirs import job_label
from descent.signals import stop_mark
from descent.sweep.job_processes import workers
from descent.sweep.launcher import ResumingLauncher
from descent.sweep.summary import summarize
from descent.sweep.tuning import as_overrides, best_of_each, combinations, key_of, repeats_of


class ResumingSweeper(Sweeper):
    """Runs every combination of the values, like Hydra's basic sweeper, with its ``max_batch_size`` and ``params``.

    With ``then``, a second round follows: for each value of ``for_each``, it repeats the first round's setting with the
    best mean ``choose_by``, with every combination of the values of ``then``. For example, it tunes the learning rate
    of each optimizer on some seeds and measures the chosen rates on others.

    With ``space``, Optuna searches instead, see ``descent.sweep.searching.search``.

    Args:
        for_each: a swept key, for example ``optimizer``.
        choose_by: a metric; ``None``: ``monitor.metric``.
        mode: ``min`` or ``max``, for another metric than the monitor's.
        then: keys and values as in ``params``: ``{seed: "1,2,3"}``; ``None``: no second round.
        space, n_trials, seed: settings of the search.
    """

    launcher: Launcher  # set in ``setup``, like the next two
    hydra_context: HydraContext
    config: DictConfig

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        for_each: str | None = None,
        choose_by: str | None = None,
        mode: Literal["min", "max"] | None = None,
        then: dict[str, str] | None = None,
        space: Mapping[str, Any] | None = None,
        n_trials: int | None = None,
        seed: int = 0,
    ) -> None:
        from descent.config.schema import Mode  # imports pydantic, so not at the top
        from descent.config.types import OrNull, PositiveInteger, Rule, Text, check

        values = Annotated[Annotated[Mapping[str, Any], Rule("keys with their values")] | None, OrNull("none")]
        for key, kind, value in (
            ("max_batch_size", Annotated[PositiveInteger | None, OrNull("all at once")], max_batch_size),
            *(("params", values, params), ("then", values, then), ("space", values, space)),
            ("choose_by", Annotated[Text | None, OrNull("monitor.metric")], choose_by),
            ("mode", Annotated[Mode | None, OrNull("monitor.mode")], mode),
        ):
            check(kind, value, f"hydra.sweeper.{key}")
        if for_each and not then:
            raise invalid("hydra.sweeper.for_each", "null unless hydra.sweeper.then is set", for_each)
        if n_trials is not None and not space:
            raise invalid("hydra.sweeper.n_trials", "null unless hydra.sweeper.space is set", n_trials)
        self.max_batch_size, self.params = max_batch_size, params or {}
        self.overrides: list[list[list[str]]] = []  # of each job of each batch
        self.for_each, self.then = for_each, then
        self.given = choose_by, mode
        self.space, self.n_trials, self.seed = space, 20 if n_trials is None else n_trials, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        context: Any = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launcher = Plugins.instance().instantiate_launcher(**context)
        basic = str(config.hydra.launcher.get("_target_")).endswith(".BasicLauncher")  # Hydra's own cannot resume
        if not basic and not isinstance(self.launcher, ResumingLauncher):
            self.launcher = ResumingLauncher(self.launcher)
            self.launcher.setup(**context)

    def sweep(self, arguments: list[str]) -> Any:
        from descent.config.schema import MonitorConfig

        monitor = MonitorConfig(**(self.config.get("monitor") or {}))
        choose_by, mode = self.given
        self.choose_by = choose_by or monitor.metric
        self.mode = monitor.mode_of(self.choose_by, mode, "hydra.sweeper.mode") if self.space or self.then else "min"
        sweep_dir = Path(self.config.hydra.sweep.dir)
        keys = {key_of(override) for override in [*arguments, *as_overrides(self.params)]}
        repeats = repeats_of(self.then, self.for_each, keys) if self.then else []
        if self.space and self.params:
            raise invalid("hydra.sweeper.params", "null in a search", dict(self.params))
        with locked(sweep_dir, "the sweep"):
            stop_mark(sweep_dir).unlink(missing_ok=True)  # left by a sweep that was killed while stopping
            try:
                returns = self._search(arguments, sweep_dir) if self.space else self._all(arguments, sweep_dir)
                if repeats:
                    returns += [self._second_round(sweep_dir, repeats)]
            except SystemExit:  # Ctrl-C or SIGTERM, in a job or between jobs
                unfinished = [job for job in self._jobs() if not is_finished(sweep_dir / job)]
                summarize(sweep_dir)
                print("interrupted; not finished:", *unfinished, "run the same command again to resume", sep="\n  ")
                raise

            summarize(sweep_dir)
            if self.space:
                print(self.best)
            if not self._jobs() and not self.space:
                raise UserError("a sweep must have at least one job")
            results = [job.return_value for batch in returns for job in batch]
            refused = any(isinstance(result, Result) and result.status == "failed" for result in results)
            if refused or not all(is_finished(sweep_dir / job) for job in self._jobs()):
                sys.exit(EXIT_CODES["failed"])
            return returns

    def _all(self, arguments: list[str], sweep_dir: Path) -> list[Sequence[JobReturn]]:
        """Runs every combination. The launcher composes each job, so that an invalid one does not stop the others."""
        jobs = _distinct(combinations([*as_overrides(self.params), *arguments], self.hydra_context.config_loader))
        size = self.max_batch_size or max(1, len(jobs))
        self.overrides = [jobs[first : first + size] for first in range(0, len(jobs), size)]
        OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
        print(f"{counted(len(jobs), 'run')} in {sweep_dir}", flush=True)
        firsts = range(0, len(jobs), size)
        batches = zip(self.overrides, firsts, strict=True)
        return [self.launcher.launch(batch, initial_job_idx=first) for batch, first in batches]

    def _search(self, arguments: list[str], sweep_dir: Path) -> list[Sequence[JobReturn]]:
        self.overrides, returns = [], []

        def launch(jobs: list[list[str]], first: int) -> None:
            self.overrides = [*self.overrides, jobs]
            returns.append(self.launcher.launch(jobs, initial_job_idx=first))

        from descent.sweep.searching import search

        assert self.space is not None
        check = getattr(self.launcher, "check", lambda job: None)  # Hydra's basic launcher has no check
        given = arguments, launch, sweep_dir, self.space, self.n_trials, self.choose_by, self.seed, check, self.mode
        self.best = search(*given, at_once=workers(self.config.hydra.get("launcher", {}), self.max_batch_size))
        return returns

    def _second_round(self, sweep_dir: Path, repeats: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        first = [job for batch in self.overrides for job in batch]
        assert self.for_each is not None
        best = best_of_each(
            self.for_each, self.choose_by, sweep_dir, first, {key_of(override) for override in repeats[0]}, self.mode
        )
        if not best:
            raise UserError(
                f"no run of any {self.for_each} completed with {self.choose_by}, the metric of hydra.sweeper.choose_by"
            )
        jobs = _distinct([*kept, *repeat] for kept in best for repeat in repeats)
        print(f"\nbest setting of each {self.for_each} by {self.choose_by}, {len(repeats)} more runs each:")
        self.overrides = [*self.overrides, jobs]
        return self.launcher.launch(jobs, initial_job_idx=len(first))

    def _jobs(self) -> list[str]:
        return [job_label(job) for batch in self.overrides for job in batch]


def _distinct(jobs: Iterable[list[str]]) -> list[list[str]]:
    """Leaves out jobs with the directory of another, such as those that differ in the progress bar alone."""
    return [*{job_label(job): job for job in jobs}.values()]
