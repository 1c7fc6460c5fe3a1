"""Hydra's serial sweep, made to survive: a sweeper and a launcher that Hydra finds by their package's name.

A job that is finished is left alone, one that was interrupted goes on, and one that fails or cannot be composed is
a result like any other. So the same command again continues a sweep.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from descent.config.messages import one_line
from descent.config.rules import MONITOR, POSITIVE_INTEGER, Rule, or_null
from descent.config.schema import Config
from descent.errors import UserError, must
from descent.run import signals
from descent.run.cli import to_config
from descent.run.files import locked
from descent.run.result import EXIT_CODES, Result, is_finished
from descent.run.resume import check_unchanged
from descent.run.run_dirs import job_label
from descent.sweep.searching import search
from descent.sweep.summary import summarize
from descent.sweep.tuning import best_of_each, key_of, repeats_of

KEYS = Rule("keys with their values", lambda v: isinstance(v, Mapping))


class ResumingSweeper(BasicSweeper):
    """Every combination of the values, as Hydra's own; ``max_batch_size`` and ``params`` work as there.

    With ``then`` a second round follows: of each value of ``for_each`` the setting of the first round with the best
    ``choose_by``, again with every combination of the values of ``then``. So a learning rate is tuned for each
    optimizer on some seeds, by their mean, and what was chosen is measured on others.

    With ``space`` Optuna searches instead, see ``descent.sweep.searching.search``.

    Args:
        for_each: a key of ``params``: ``optimizer``.
        choose_by: a metric: ``val/loss``.
        then: keys and values as in ``params``: ``{seed: "1,2,3"}``; ``None``: no second round.
        space, n_trials, seed: of a search.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        for_each: str | None = None,
        choose_by: str = "val/loss",
        then: dict[str, str] | None = None,
        space: Mapping[str, Any] | None = None,
        n_trials: int = 20,
        seed: int = 0,
    ) -> None:
        for key, value, rule in (
            ("max_batch_size", max_batch_size, or_null(POSITIVE_INTEGER, "all at once")),
            *(
                (key, value, or_null(KEYS, "none"))
                for key, value in (("params", params), ("then", then), ("space", space))
            ),
            ("choose_by", choose_by, MONITOR),
        ):
            if not rule.accepts(value):
                raise must(f"hydra.sweeper.{key}", rule.text, value)
        super().__init__(max_batch_size, params)
        self.for_each, self.choose_by, self.then = for_each, choose_by, then
        self.space, self.n_trials, self.seed = space, n_trials, seed

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Not before the sweep, which one bad job would keep from beginning: the launcher composes each job."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        sweep_dir = Path(self.config.hydra.sweep.dir)
        keys = {key_of(override) for override in [*arguments, *(f"{key}=" for key in self.params or {})]}
        repeats = repeats_of(self.then, self.for_each, keys) if self.then else []
        if self.space and self.params:
            raise must("hydra.sweeper.params", "null in a search", dict(self.params))
        with locked(sweep_dir, "the sweep"):
            try:
                returns = self._search(arguments, sweep_dir) if self.space else super().sweep(arguments)
                if repeats:
                    returns += [self._second_round(sweep_dir, repeats)]
            except SystemExit:  # Ctrl-C or SIGTERM, in a job or between two
                unfinished = [job for job in self._jobs() if not is_finished(sweep_dir / job)]
                summarize(sweep_dir)
                print("interrupted; not finished:", *unfinished, "the same command goes on from here", sep="\n  ")
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

    def _search(self, arguments: list[str], sweep_dir: Path) -> list[Sequence[JobReturn]]:
        self.overrides, returns = [], []

        def launch(job: list[str], number: int) -> None:
            assert self.launcher is not None
            self.overrides = [*(self.overrides or []), [job]]
            returns.append(self.launcher.launch([job], initial_job_idx=number))

        def check(job: list[str]) -> None:
            if isinstance(self.launcher, ResumingLauncher):
                self.launcher.check(job)

        assert self.space is not None
        self.best = search(arguments, launch, sweep_dir, self.space, self.n_trials, self.choose_by, self.seed, check)
        return returns

    def _second_round(self, sweep_dir: Path, repeats: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        first = [job for batch in self.overrides or [] for job in batch]
        assert self.for_each is not None
        best = best_of_each(
            self.for_each, self.choose_by, sweep_dir, first, {key_of(override) for override in repeats[0]}
        )
        if not best:
            raise UserError(f"no run of {self.for_each} has {self.choose_by}, hydra.sweeper.choose_by, to be chosen by")
        jobs = [[*kept, *repeat] for kept in best for repeat in repeats]
        print(f"\nof each {self.for_each} the best by {self.choose_by}, {len(repeats)} times more:")
        assert self.overrides is not None and self.launcher is not None
        self.overrides = [*self.overrides, jobs]
        return self.launcher.launch(jobs, initial_job_idx=len(first))

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

    def check(self, overrides: list[str]) -> None:
        """Raises an error where the job has begun with another config than it has today."""
        check_unchanged(self._run_dir(overrides), self._composed(overrides)[1])

    def _run_dir(self, overrides: Sequence[str]) -> Path:
        return Path(self.config.hydra.sweep.dir) / job_label(overrides)

    def _composed(self, overrides: list[str]) -> tuple[DictConfig, Config]:
        """The config of a job, as Hydra has it and checked."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        tree = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return config, to_config(tree, config.hydra.runtime)

    def _job(self, number: int, overrides: list[str]) -> JobReturn:
        signals.exit_if_received()
        run_dir = self._run_dir(overrides)
        print(f"#{number} {run_dir.name}", flush=True)
        try:
            config, checked = self._composed(overrides)
        except Exception as error:
            return _not_composed(error, run_dir, overrides)
        check_unchanged(run_dir, checked)
        if is_finished(run_dir):
            print("finished before")
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        if config.hydra.sweep.dir != self.config.hydra.sweep.dir:
            raise UserError("name must be one for the whole sweep")
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
        except OSError as error:  # its directory cannot be made
            return _not_composed(error, run_dir, overrides)
        result = job.return_value
        if isinstance(result, Result) and result.status == "interrupted":
            raise SystemExit(result.exit_code)
        return job


def _not_composed(error: Exception, run_dir: Path, overrides: list[str]) -> JobReturn:
    """The result of a job with, for example, an option that does not exist."""
    signals.exit_if_received()
    reason = one_line(error)
    print(f"error: {reason}")
    command = f"python scripts/train.py {' '.join(overrides)}"
    with suppress(OSError, UserError):
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "train.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        Result("failed", seed=None, command=command, reason=reason).write_unless_trained(run_dir)
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)


_store = ConfigStore.instance()
_package = f"{__name__}."
_store.store(
    group="hydra/sweeper",
    name="resuming",
    node={
        "_target_": f"{_package}ResumingSweeper",
        **{"max_batch_size": None, "params": None, "for_each": None, "choose_by": "val/loss", "then": None},
        **{"space": None, "n_trials": 20, "seed": 0},
    },
)
_store.store(group="hydra/launcher", name="resuming", node={"_target_": f"{_package}ResumingLauncher"})
