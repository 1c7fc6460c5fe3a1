"""A search by Optuna that goes on where it was. Needs ``pip install -e '.[optuna]'``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from descent.errors import UserError, must
from descent.result import read_result
from descent.rules import BOOLEAN, MONITOR, POSITIVE_INTEGER, SEED, better, is_number
from descent.run_dirs import job_label

RANGE = "{low: a number, high: a larger one, log: true or false}, with low above 0 where log is true"


def search(
    arguments: Sequence[str],
    launch: Callable[[list[str], int], Any],
    sweep_dir: Path,
    space: Mapping[str, Mapping[str, Any]],
    n_trials: int,
    choose_by: str,
    seed: int,
) -> str:
    """Asks Optuna for one trial after another; the study is ``study.db`` (SQLite) beside the runs.

    The same command again goes on: finished trials stay, one that was interrupted is run to its end, new ones are new
    points. A trial that diverges is told to Optuna as pruned, one that fails as failed, and the study goes on.

    Args:
        arguments: overrides that all trials have in common.
        launch: runs a job, given its overrides and its number.
        space: by key of the config, ``{low, high}``, with ``log: true`` for a logarithmic scale.
        n_trials: how many the study is to have in all.
        choose_by: the metric.
        seed: of Optuna's sampler (TPE).

    Returns:
        the best trial in words.

    Raises:
        UserError: a value that is not allowed, or Optuna is not installed.
    """
    check_search(arguments, space, n_trials, seed)
    try:
        import optuna
    except ImportError:
        raise UserError("a search needs Optuna: pip install -c constraints.txt -e '.[optuna]'") from None
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        key: optuna.distributions.FloatDistribution(**limits) for key, limits in space.items()
    }
    path = sweep_dir / "study.db"
    try:
        study = optuna.create_study(
            study_name="study",
            storage=f"sqlite:///{path}",
            load_if_exists=True,
            direction="maximize" if better(choose_by) == "max" else "minimize",
        )
    except Exception as error:  # SQLite's and Optuna's own
        raise UserError(f"cannot use {path}: {str(error).splitlines()[0]}") from error
    about = {"overrides": sorted(arguments), "space": sorted(space), "choose_by": choose_by}
    if study.user_attrs.get("about", about) != about:
        before = study.user_attrs["about"]
        changed = next(key for key in about if about[key] != before[key])
        raise UserError(f"the search in {sweep_dir} has other {changed}, {before[changed]}: name=... begins another")
    study.set_user_attr("about", about)
    # with one and the same seed a study that goes on would ask for the same points again
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    for interrupted in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(interrupted.number, state=TrialState.FAIL)
        study.enqueue_trial(interrupted.params)
    while sum(map(_counts, study.get_trials(deepcopy=False))) < n_trials:
        trial = study.ask(distributions)
        job = [*arguments, *(f"{key}={value:.6g}" for key, value in trial.params.items())]
        launch(job, trial.number)
        run_dir = sweep_dir / job_label(job)
        result = read_result(run_dir)
        if result["status"] == "completed" and choose_by not in result["metrics"]:
            known = ", ".join(filter(MONITOR.accepts, result["metrics"]))
            raise must("hydra.sweeper.choose_by", f"a metric of the runs ({known})", choose_by)
        trial.set_user_attr("run", run_dir.name)
        trial.set_user_attr("status", result["status"])
        if result["status"] == "completed":
            study.tell(trial, result["metrics"][choose_by])
        else:  # of a pruned trial the sampler learns to stay away, of a failed one nothing
            study.tell(trial, state=TrialState.PRUNED if result["status"] == "diverged" else TrialState.FAIL)
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        return "no trial was completed"
    values = "  ".join(f"{key}={value:.6g}" for key, value in study.best_params.items())
    return f"best {choose_by} {study.best_value:.6g} with {values}"


def _counts(trial: Any) -> bool:
    """Whether it is one of the ``n_trials``: it ended, and not by an interruption."""
    return trial.state.name in ("COMPLETE", "PRUNED") or trial.user_attrs.get("status") == "failed"


def check_search(arguments: Sequence[str], space: Mapping[str, Any], n_trials: int, seed: int) -> None:
    for key, value, rule in (("n_trials", n_trials, POSITIVE_INTEGER), ("seed", seed, SEED)):
        if not rule.accepts(value):
            raise must(f"hydra.sweeper.{key}", rule.text, value)
    for key, limits in space.items():
        if not _is_range(limits):
            raise must(f"hydra.sweeper.space.{key}", RANGE, limits)
    for override in OverridesParser.create().parse_overrides([*arguments]):
        if override.key_or_group in space:
            raise UserError(f"{override.key_or_group} must be either set or in hydra.sweeper.space, got both")
        if override.is_sweep_override():
            raise must(override.key_or_group, "a single value in a search", str(override.input_line).partition("=")[2])


def _is_range(limits: Any) -> bool:
    if not isinstance(limits, Mapping) or not {"low", "high"} <= set(limits) <= {"low", "high", "log"}:
        return False
    low, high, log = limits["low"], limits["high"], limits.get("log", False)
    return is_number(low) and is_number(high) and low < high and BOOLEAN.accepts(log) and (low > 0 or not log)
