"""Runs an Optuna search that can be resumed. Needs ``pip install -e '.[optuna]'``."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from descent.config.schema import Mode
from descent.errors import UserError, extra, invalid
from descent.run.run_dirs import PROGRESS_BAR, job_label
from descent.sweep.search_space import check_search, described, distribution, text
from descent.sweep.tuning import ended_result

Direction = Literal["minimize", "maximize"]


def search(
    arguments: Sequence[str],
    launch: Callable[[list[list[str]], int], Any],
    sweep_dir: Path,
    space: Mapping[str, Any],
    n_trials: int,
    choose_by: str,
    seed: int,
    check: Callable[[list[str]], Any] = lambda job: None,
    mode: Mode = "min",
    at_once: int = 1,
) -> str:
    """Asks Optuna for ``at_once`` trials at a time and runs them. The study is ``study.db`` (SQLite) next to the runs.

    The next points depend only on ``seed``, ``at_once`` and the ended trials, and trials are written to the study once
    all jobs of their batch have ended. So after a kill at any moment the same command asks for the same points again.
    Their jobs have the same directories, where they resume or are already finished, and the search ends exactly as an
    uninterrupted one.

    Diverged trials are reported to Optuna as pruned, failed ones as failed, and the study continues.

    Args:
        arguments: overrides shared by all trials.
        launch: runs jobs, given the overrides of each and the number of the first.
        space: by config key ``{low, high}``, with ``log: true`` for a logarithmic scale and ``int: true`` for whole
            numbers, or a list of values.
        n_trials: total number of trials in the study.
        choose_by: the metric to optimize; ``mode`` says whether smaller or larger values are better.
        seed: for Optuna's sampler (TPE).
        check: raises an error if a job, given its overrides, has an invalid config, or another one than it had in an
            earlier trial.
        at_once: number of trials to ask for together, one per worker.

    Returns:
        a description of the best trial.

    Raises:
        UserError: a value is not allowed, the study cannot be used, or Optuna is not installed.
    """
    check_search(arguments, space, n_trials, seed)
    with extra("optuna", "a search"):
        import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = sweep_dir / "study.db"
    direction: Direction = "maximize" if mode == "max" else "minimize"
    try:
        study = optuna.create_study(
            study_name="study", storage=f"sqlite:///{path}", load_if_exists=True, direction=direction
        )
    except Exception as error:  # SQLite and Optuna raise their own errors
        raise UserError(f"cannot use {path}: {str(error).splitlines()[0]}") from error
    about = {
        "overrides": _without_progress_bar(arguments),
        "space": sorted(space),
        "choose_by": choose_by,
        "mode": mode,
    }
    before = about | study.user_attrs.get("about", {})
    before["overrides"] = _without_progress_bar(before["overrides"])
    if before != about:
        changed = next(key for key in about if about[key] != before[key])
        raise UserError(f"the search in {sweep_dir} uses {changed} {before[changed]}; start a new one with name=...")
    study.set_user_attr("about", about)
    # sorted, so that the sampler draws in the same order for any order of the keys
    distributions = {key: distribution(space[key]) for key in sorted(space)}
    for key, was in [pair for trial in study.get_trials(deepcopy=False) for pair in trial.distributions.items()]:
        if (before := described(was)) != described(distributions[key]):  # an Optuna study cannot mix both
            raise UserError(f"the search in {sweep_dir} uses {key} with {before}; start a new one with name=...")
    open_trials = sum(not trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    if open_trials:  # earlier versions wrote a trial before its job had ended
        print(f"note: {open_trials} of the trials in {path} have not ended and are ignored")

    def job_at(point: Mapping[str, Any]) -> list[str]:
        return [*arguments, *(f"{key}={text(value, space[key])}" for key, value in point.items())]

    for trial in filter(_counts, study.get_trials(deepcopy=False)):
        check(job_at(trial.params))
    while len(ended := [trial for trial in study.get_trials(deepcopy=False) if _counts(trial)]) < n_trials:
        points = _next_points(ended, distributions, direction, seed, min(at_once, n_trials - len(ended)))
        jobs = [job_at(point) for point in points]
        if not ended:
            _check_first(jobs[0], check)
        launch(jobs, len(ended))
        run_dirs = [sweep_dir / job_label(job) for job in jobs]
        results = [ended_result(run_dir) for run_dir in run_dirs]
        for params, run_dir, result in zip(points, run_dirs, results, strict=True):
            state, value, status = _outcome(result, choose_by)
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[state],
                    value=value,
                    params=params,
                    distributions={**distributions},
                    user_attrs={"run": run_dir.name, "status": status},
                )
            )

    completed = [(trial.value, trial.params) for trial in ended if trial.value is not None]
    if not completed:
        return "no trial completed"
    value, params = (max if direction == "maximize" else min)(completed, key=itemgetter(0))
    values = "  ".join(f"{key}={text(value, space[key])}" for key, value in params.items())
    return f"best {choose_by} {value:.6g} with {values}"


def _check_first(job: list[str], check: Callable[[list[str]], Any]) -> None:
    """Refuses a space whose values no job accepts, before all trials fail."""
    try:
        check(job)
    except UserError as error:
        hint = "; int: true in hydra.sweeper.space searches whole numbers" if "must be an integer" in str(error) else ""
        raise UserError(f"{error}{hint}") from error


def _without_progress_bar(overrides: Sequence[str]) -> list[str]:
    return sorted(override for override in overrides if not override.lstrip("+").startswith(f"{PROGRESS_BAR}="))


def _next_points(
    ended: Sequence[Any], distributions: Mapping[str, Any], direction: Direction, seed: int, count: int
) -> list[dict[str, float]]:
    """Asks Optuna for the next points, with a sampler that knows only the trials ``ended``."""
    import numpy as np
    import optuna

    # a fixed seed would repeat the same points while there are too few trials to learn from
    own_seed = int(np.random.SeedSequence((seed, len(ended))).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar
        # counts running trials as bad ones, to keep simultaneous points apart
        sampler = optuna.samplers.TPESampler(seed=own_seed, constant_liar=count > 1)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials(ended)
    return [study.ask({**distributions}).params for _ in range(count)]


def _outcome(result: Mapping[str, Any], choose_by: str) -> tuple[str, float | None, str]:
    """Optuna's trial state, the value and the run's status.

    The sampler learns to avoid pruned trials, and learns nothing from failed ones.

    Raises:
        UserError: the completed run did not log ``choose_by``.
    """
    status, metrics = result["status"], result["metrics"]
    if status != "completed":
        return "PRUNED" if status == "diverged" else "FAIL", None, status
    if choose_by not in metrics:
        known = ", ".join(metrics)
        raise invalid("hydra.sweeper.choose_by", f"a metric of the runs ({known})", choose_by)
    value = metrics[choose_by]
    return "PRUNED" if value is None else "COMPLETE", value, status  # results store non-finite values as null


def _counts(trial: Any) -> bool:
    """Whether a trial counts towards ``n_trials``. Earlier versions also stored interrupted ones, which do not."""
    return trial.state.name in ("COMPLETE", "PRUNED") or trial.user_attrs.get("status") == "failed"
