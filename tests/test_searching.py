"""Tests a search by Optuna, from the command line to the study."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from math import log10, nan
from pathlib import Path
from shutil import copytree
from subprocess import CompletedProcess, Popen
from typing import Any

import pytest
from conftest import CONF, config_of, save_config
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext

from descent.errors import UserError
from descent.run.result import Result, read_result
from descent.run.run_dirs import job_label
from descent.run.train import train
from descent.sweep.search_space import check_search
from descent.sweep.searching import search
from hydra_plugins.descent.resuming import ResumingLauncher

optuna = pytest.importorskip("optuna")

SMALL = ("experiment=search", "data.num_samples=100", "trainer.max_epochs=2")
SPACE: dict[str, dict[str, Any]] = {"optimizer.lr": {"low": 1e-3, "high": 1.0, "log": True}}
PLANE = {**SPACE, "optimizer.momentum": {"low": 0.0, "high": 0.9}}

Launch = Callable[[list[str], int], None]


def trials_of(sweep_dir: Path) -> list[tuple[Any, ...]]:
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{sweep_dir}/study.db")
    return [(t.number, t.state.name, t.value, t.params, t.user_attrs) for t in study.get_trials()]


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # Optuna leaves SQLite connections to the garbage collector
def test_a_killed_search_resumes_exactly_and_adds_new_trials(
    start: Callable[..., Popen[str]], script: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    # the momentum's range is the experiment's
    wild = {"optimizer.lr": {"low": 1e-4, "high": 1e3, "log": True}, "optimizer.momentum": {"low": 0.0, "high": 0.99}}
    asked = (*SMALL, "hydra.sweeper.space={optimizer.lr:{low:1e-4,high:1e3,log:true}}")
    killed = start("train.py", *asked, "hydra.sweeper.n_trials=5")
    sweep_dir = tmp_path / "logs/sweeps/search"
    while len(list(sweep_dir.glob("*/result.json"))) < 2:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert len(trials_of(sweep_dir)) < 5
    second = script("train.py", *asked, "hydra.sweeper.n_trials=7")
    assert second.returncode == 0, second.stderr

    def launch(jobs: list[list[str]], first: int) -> None:
        for job in jobs:
            train(config_of(*job), tmp_path / "whole" / job_label(job))

    (tmp_path / "whole").mkdir()
    best = search(SMALL, launch, tmp_path / "whole", wild, 7, "val/loss", 0)
    assert best in second.stdout
    trials = trials_of(sweep_dir)
    assert trials == trials_of(tmp_path / "whole")
    assert sorted(path.parent.name for path in sweep_dir.glob("*/result.json")) == sorted(t[4]["run"] for t in trials)
    assert {attributes["status"] for *_, attributes in trials} == {"completed", "diverged"}
    for _, state, value, params, attributes in trials:
        result = read_result(sweep_dir / attributes["run"])
        assert result["hparams"]["optimizer.lr"] == pytest.approx(params["optimizer.lr"], rel=1e-5)
        assert state == {"completed": "COMPLETE", "diverged": "PRUNED"}[result["status"]]
        assert value == (result["metrics"]["val/loss"] if result["status"] == "completed" else None)


def outcome(job: list[str], number: int = 0) -> Result:
    """Returns a stub result: its loss is lowest at 0.03 and 0.5, large rates diverge, small momenta fail."""
    rate, momentum = (float(override.partition("=")[2]) for override in job)
    loss = log10(rate / 0.03) ** 2 + (momentum - 0.5) ** 2
    status = "diverged" if rate > 0.5 else "failed" if momentum < 0.1 else "completed"
    return Result(status, seed=0, command="", metrics={"val/loss": loss, "val/r2": -loss})  # type: ignore[arg-type]


def launcher(sweep_dir: Path, result_of: Callable[[list[str], int], Result] = outcome) -> Launch:
    def launch(jobs: list[list[str]], first: int) -> None:
        for number, job in enumerate(jobs, first):
            (sweep_dir / job_label(job)).mkdir(parents=True, exist_ok=True)
            result_of(job, number).write(sweep_dir / job_label(job))

    return launch


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_search_interrupted_before_and_after_every_job_ends_the_same(tmp_path: Path) -> None:
    n_trials = 14  # Optuna draws the first 10 at random
    (tmp_path / "whole").mkdir()
    expected = search([], launcher(tmp_path / "whole"), tmp_path / "whole", PLANE, n_trials, "val/loss", 0)
    sweep_dir = tmp_path / "interrupted"
    sweep_dir.mkdir()
    asked: list[str] = []

    def launch(jobs: list[list[str]], first: int) -> None:
        (job,) = jobs
        asked.append(job_label(job))
        times = asked.count(job_label(job))
        if times == 1:
            raise SystemExit(143)
        launcher(sweep_dir)(jobs, first)
        if times == 2:  # the job has ended, but the study does not know it yet
            raise SystemExit(143)

    found = ""
    while not found:
        with suppress(SystemExit):
            found = search([], launch, sweep_dir, PLANE, n_trials, "val/loss", 0)
    assert found == expected
    trials = trials_of(sweep_dir)
    assert trials == trials_of(tmp_path / "whole")
    assert {state for _, state, *_ in trials} == {"COMPLETE", "PRUNED", "FAIL"}
    assert asked == [attributes["run"] for *_, attributes in trials for _ in range(3)]
    assert len(set(asked)) == n_trials


@pytest.mark.filterwarnings("ignore")  # as above
def test_an_interrupted_search_of_several_trials_at_once_ends_the_same(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def searched(sweep_dir: Path, stops: int) -> str:
        def launch(jobs: list[list[str]], first: int) -> None:
            asked.append([job_label(job) for job in jobs])
            for number, job in enumerate(jobs):
                launcher(sweep_dir)([job], first + number)
                if number == 1 and asked.count(asked[-1]) == 1 and len(asked) <= stops:
                    raise SystemExit(143)

        sweep_dir.mkdir()
        while True:
            with suppress(SystemExit):
                return search([], launch, sweep_dir, PLANE, 14, "val/loss", 0, at_once=4)

    whole = searched(tmp_path / "whole", 0)
    assert [len(jobs) for jobs in asked] == [4, 4, 4, 2]
    assert len({job for jobs in asked for job in jobs}) == 14
    asked.clear()
    assert searched(tmp_path / "stopped", 3) == whole
    assert len(asked) == 6  # two of the batches of four were interrupted
    assert trials_of(tmp_path / "stopped") == trials_of(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_search_in_parts_equals_a_search_at_once(tmp_path: Path) -> None:
    for name, parts in (("whole", [12]), ("parts", [3, 11, 12])):
        (tmp_path / name).mkdir()
        for n_trials in parts:
            best = search([], launcher(tmp_path / name), tmp_path / name, PLANE, n_trials, "val/loss", 5)
    assert trials_of(tmp_path / "parts") == trials_of(tmp_path / "whole")
    losses = [value for _, state, value, *_ in trials_of(tmp_path / "whole") if state == "COMPLETE"]
    assert best.startswith(f"best val/loss {min(losses):.6g} with ")


@pytest.mark.filterwarnings("ignore")  # as above
def test_maximising_r2_draws_the_same_points_as_minimising_the_loss(tmp_path: Path) -> None:
    found = {}
    for metric in ("val/loss", "val/r2"):  # each is the other's negative
        directory = tmp_path / metric
        directory.mkdir(parents=True)
        found[metric] = search(
            [], launcher(directory), directory, PLANE, 14, metric, 0, mode="max" if metric == "val/r2" else "min"
        ).split(" with ")
    losses, r2 = trials_of(tmp_path / "val/loss"), trials_of(tmp_path / "val/r2")
    assert [params for *_, params, _ in r2] == [params for *_, params, _ in losses]
    assert found["val/r2"][1] == found["val/loss"][1]
    largest = max(value for _, state, value, *_ in r2 if state == "COMPLETE")
    assert found["val/r2"][0] == f"best val/r2 {largest:.6g}"


@pytest.mark.filterwarnings("ignore")  # as above
def test_another_seed_draws_other_points(tmp_path: Path) -> None:
    points = set()
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        search([], launcher(tmp_path / str(seed)), tmp_path / str(seed), PLANE, 3, "val/loss", seed)
        points |= {params["optimizer.lr"] for *_, params, _ in trials_of(tmp_path / str(seed))}
    assert len(points) == 6


@pytest.mark.filterwarnings("ignore")  # as above
def test_unfinished_trials_of_an_earlier_version_are_ignored_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(study_name="study", storage=f"sqlite:///{tmp_path}/study.db")
    study.set_user_attr("about", {"overrides": [], "space": [*PLANE], "choose_by": "val/loss"})
    distributions = {key: optuna.distributions.FloatDistribution(**limits) for key, limits in PLANE.items()}
    done, stopped, _ = (study.ask(distributions) for _ in range(3))
    for key, value in {"run": "0", "status": "completed"}.items():
        done.set_user_attr(key, value)
    study.tell(done, 0.5)
    study.tell(stopped, state=optuna.trial.TrialState.FAIL)  # as earlier versions marked interrupted trials
    study.enqueue_trial(stopped.params)
    search([], launcher(tmp_path), tmp_path, PLANE, 4, "val/loss", 0)
    assert f"note: 2 of the trials in {tmp_path}/study.db have not ended" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*/result.json"))) == 3  # the first trial has no directory


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_completed_run_with_a_nonfinite_metric_counts_as_diverged(tmp_path: Path) -> None:
    def result_of(job: list[str], number: int) -> Result:
        return Result("completed", seed=0, command="", metrics={"val/loss": nan if number else 1.0})

    best = search([], launcher(tmp_path, result_of), tmp_path, SPACE, 3, "val/loss", 0)
    assert best.startswith("best val/loss 1 with")
    assert [state for _, state, *_ in trials_of(tmp_path)] == ["COMPLETE", "PRUNED", "PRUNED"]


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_search_with_trials_of_another_config_is_refused(tmp_path: Path) -> None:
    asked = ["trainer.enable_progress_bar=false", "figures=false", "data.num_samples=40", "trainer.max_epochs=1"]
    conf, sweep_dir = tmp_path / "conf", tmp_path / "sweep"
    copytree(CONF, conf)
    sweep_dir.mkdir()
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", [*asked, f"hydra.sweep.dir={sweep_dir}"], return_hydra_config=True)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    now = ResumingLauncher()
    now.setup(hydra_context=context, task_function=lambda _: None, config=config)

    def launch(jobs: list[list[str]], first: int) -> None:
        for job in jobs:
            save_config(sweep_dir / job_label(job), *job)
            train(config_of(*job), sweep_dir / job_label(job))

    search(asked, launch, sweep_dir, SPACE, 2, "val/loss", 0, now.check)
    search(asked, launch, sweep_dir, SPACE, 3, "val/loss", 0, now.check)
    trials = trials_of(sweep_dir)
    edited = (conf / "data/synthetic.yaml").read_text().replace("noise_std: 0.5", "noise_std: 3.0")
    (conf / "data/synthetic.yaml").write_text(edited)
    with pytest.raises(UserError, match=r"was started with another config: data\.noise_std was 0\.5 and is 3\.0"):
        search(asked, launch, sweep_dir, SPACE, 4, "val/loss", 0, now.check)
    assert trials_of(sweep_dir) == trials


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_search_whose_scale_changed_is_refused(tmp_path: Path) -> None:
    search([], launcher(tmp_path), tmp_path, PLANE, 2, "val/loss", 0)
    linear = PLANE | {"optimizer.lr": {"low": 1e-3, "high": 1.0}}
    with pytest.raises(UserError, match=r"uses optimizer\.lr with log: true"):
        search([], launcher(tmp_path), tmp_path, linear, 3, "val/loss", 0)


@pytest.mark.parametrize(
    ("arguments", "space", "n_trials", "message"),
    [
        ([], {"optimizer.lr": {"low": 1.0, "high": 0.1}}, 1, "hydra.sweeper.space.optimizer.lr must be {low: a number"),
        ([], {"optimizer.lr": {"low": 0.0, "high": 0.1, "log": True}}, 1, "hydra.sweeper.space.optimizer.lr must be"),
        ([], {"optimizer.lr": [0.1, 0.1]}, 1, "hydra.sweeper.space.optimizer.lr must be"),
        ([], SPACE, 0, "hydra.sweeper.n_trials must be a positive integer, got 0"),
        (["optimizer.lr=1"], SPACE, 1, "optimizer.lr must be either set or in hydra.sweeper.space, got both"),
        (["optimizer=sgd,adam"], SPACE, 1, "optimizer must be a single value in a search, got 'sgd,adam'"),
    ],
)
def test_an_invalid_search_is_refused(arguments: list[str], space: dict[str, Any], n_trials: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_search(arguments, space, n_trials, seed=0)


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_search_with_other_settings_in_its_directory_is_refused(tmp_path: Path) -> None:
    launch = launcher(tmp_path, lambda job, number: Result("completed", 0, "", metrics={"val/loss": 1.0}))
    search(["batch=full"], launch, tmp_path, SPACE, 1, "val/loss", 0)
    with pytest.raises(UserError, match=r"uses overrides \['batch=full'\]; start a new one with name=..."):
        search(["batch=mini"], launch, tmp_path, SPACE, 2, "val/loss", 0)
    search(["batch=full", "trainer.enable_progress_bar=false"], launch, tmp_path, SPACE, 2, "val/loss", 0)
    with pytest.raises(UserError, match="uses choose_by val/loss"):
        search(["batch=full"], launch, tmp_path, SPACE, 2, "val/r2", 0)


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_metric_that_no_run_has_is_refused_after_the_first_trial(tmp_path: Path) -> None:
    launch = launcher(tmp_path, lambda job, number: Result("completed", 0, "", metrics={"train/loss": 1.0}))
    with pytest.raises(
        UserError, match=r"hydra\.sweeper\.choose_by must be a metric of the runs \(train/loss\), got 'val/loss'"
    ):
        search([], launch, tmp_path, SPACE, 9, "val/loss", 0)
    assert len(list(tmp_path.glob("*/result.json"))) == 1
