"""Tests how sweeps choose the best jobs, what they save, and signals between jobs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from test_launcher import launch, loggers  # noqa: F401  # fixtures
from test_sweep_summary import here, printed, write  # noqa: F401  # a fixture
from test_sweeper import RATES, SPACE, sweeper  # noqa: F401  # a fixture

from descent import signals
from descent.errors import UserError
from descent.run.result import Result, read_result
from descent.sweep import launcher
from descent.sweep.summary import summarize

ROUNDS = {"params": {"optimizer": "adam", **RATES}, "for_each": "optimizer", "then": {"seed": "5"}}


def monitored(made: Any, **monitor: str) -> Any:
    made.config.monitor = monitor
    return made


@pytest.mark.parametrize(
    ("monitor", "given", "best"),
    [
        ({}, {}, "0.2"),  # the smallest val/loss
        ({"metric": "val/r2", "mode": "max"}, {}, "0.1"),
        ({"metric": "val/r2", "mode": "min"}, {}, "0.2"),
        ({"metric": "val/r2", "mode": "max"}, {"mode": "min"}, "0.2"),
        ({"metric": "val/r2", "mode": "min"}, {"choose_by": "val/loss", "mode": "max"}, "0.1"),
        ({"metric": "train/r2", "mode": "max"}, {"choose_by": "val/r2"}, "0.1"),
    ],
)
def test_the_best_are_chosen_by_the_monitor_or_by_choose_by(
    monitor: dict[str, str],
    given: dict[str, str],
    best: str,
    sweeper: Any,  # noqa: F811
) -> None:
    made, launched = sweeper(**ROUNDS, **given)
    monitored(made, **monitor).sweep([])
    assert launched.launched[2:] == [(2, f"optimizer=adam,optimizer.lr={best},seed=5")]


def of_losses(job: list[str]) -> Result:
    """Returns the result of a run; its ``val/loss`` depends on ``model.loss``."""
    values = dict(override.split("=") for override in job)
    kind, rate = values["model.loss"], float(values["optimizer.lr"])
    metrics = {"val/loss": rate if kind == "mae" else rate**2, "val/mae": rate, "train/mae": rate}
    return Result("completed", seed=0, command="", metrics=metrics, quantities={"loss": kind})


def test_a_metric_that_differs_in_kind_between_runs_cannot_choose(sweeper: Any) -> None:  # noqa: F811
    given = {"params": {"optimizer": "adam", "model.loss": "mse,mae", **RATES}, "then": {"seed": "5"}}
    made, launched = sweeper(of_losses, for_each="optimizer", **given)
    with pytest.raises(UserError) as raised:
        made.sweep([])
    assert str(raised.value) == (
        "hydra.sweeper.choose_by must be the same quantity in all runs of optimizer=adam, got 'val/loss', which is mae"
        " in some and mse in others; val/mae is the same in all"
    )
    assert len(launched.launched) == 4
    for chosen in ({"for_each": "optimizer", "choose_by": "val/mae", "mode": "min"}, {"for_each": "model.loss"}):
        made, launched = sweeper(of_losses, **chosen, **given)
        made.sweep([])
        assert len(launched.launched) > 4 and launched.launched[-1][1].endswith("optimizer.lr=0.1,seed=5")


@pytest.mark.parametrize("given", [ROUNDS, {"space": SPACE}], ids=["rounds", "search"])
def test_choose_by_without_a_mode_is_refused_if_jobs_are_chosen(
    given: dict[str, Any],
    sweeper: Any,  # noqa: F811
) -> None:
    made, launched = sweeper(choose_by="val/r2", **given)
    with pytest.raises(
        UserError,
        match=r"^hydra\.sweeper\.mode must be min or max, because",
    ):
        made.sweep([])
    assert launched.launched == []
    made, launched = sweeper(choose_by="val/r2", params={"optimizer": "adam", **RATES})
    made.sweep([])
    assert len(launched.launched) == 2


def test_a_sweep_saves_its_config_and_overrides_replace_params(sweeper: Any) -> None:  # noqa: F811
    made, launched = sweeper(
        lambda job: Result("completed", 0, ""), params={"seed": "1,2", "+a": "x,y"}, max_batch_size=1
    )
    returns = made.sweep(["seed=3", "b=choice(1,2)"])
    assert launched.launched == [
        *((0, "seed=3,+a=x,b=1"), (1, "seed=3,+a=x,b=2")),
        *((2, "seed=3,+a=y,b=1"), (3, "seed=3,+a=y,b=2")),
    ]
    assert [len(batch) for batch in returns] == [1] * 4
    assert OmegaConf.load("s/multirun.yaml") == made.config


def test_a_range_is_refused_outside_a_search(sweeper: Any) -> None:  # noqa: F811
    made, launched = sweeper()
    with pytest.raises(Exception, match=r"^\+a must be a list of values; set hydra\.sweeper\.space to search a range$"):
        made.sweep(["+a=interval(0,1)"])
    assert launched.launched == []


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received", [])


def swallowed() -> None:
    """Receives a signal whose exception is caught."""
    with suppress(SystemExit):
        signals.exit_at_once(15)


def test_a_signal_caught_in_a_job_ends_the_sweep_before_the_next(launch: Any, received: None) -> None:  # noqa: F811
    seen: list[int] = []

    def task(config: Any) -> Result:
        seen.append(config.seed)
        swallowed()
        return Result("completed", seed=0, command="")

    with pytest.raises(SystemExit) as raised:
        launch(task, ["seed=1"], ["seed=2"])
    assert (raised.value.code, seen) == (143, [1])


def test_a_signal_while_a_job_is_composed_does_not_fail_the_job(
    launch: Any,  # noqa: F811
    received: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def to_config(*_: Any) -> None:
        swallowed()
        raise ValueError("what the library made of it")

    monkeypatch.setattr(launcher, "to_config", to_config)
    with pytest.raises(SystemExit) as raised:
        launch(lambda config: None, ["seed=1"])
    assert raised.value.code == 143
    assert capsys.readouterr().out == "#0 seed=1\n"
    assert not list(tmp_path.rglob("result.json"))


def test_a_job_that_fails_to_compose_keeps_its_result_if_it_trained(launch: Any, tmp_path: Path) -> None:  # noqa: F811
    for name, has_trained in (("seed=-1", False), ("seed=-2", True)):
        run_dir = tmp_path / "sweeps/s" / name
        (run_dir / "checkpoints").mkdir(parents=True)
        if has_trained:
            (run_dir / "checkpoints/last.ckpt").touch()
            Result("interrupted", seed=7, command="", signal=2).write(run_dir)
    launch(lambda config: None, ["seed=-1"], ["seed=-2"])
    assert read_result(tmp_path / "sweeps/s/seed=-1")["status"] == "failed"
    assert read_result(tmp_path / "sweeps/s/seed=-2")["status"] == "interrupted"
    assert (tmp_path / "sweeps/s/seed=-2/train.log").is_file()


def test_a_summary_has_unbroken_lines_and_three_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = "a" * 60, "b" * 60
    monitor = {"metric": "val/acc", "mode": "max"}
    metrics = {"other/loss": 4.0, "train/loss": 3.0, "val/acc": 0.5, "test/acc": 0.75, "train/acc": 0.25, "a": 1.0}
    write(f"x={first}", metrics=metrics, monitor=monitor)
    write(f"x={second}", "diverged", "r" * 80, metrics={"train/acc": 1.0}, monitor=monitor)
    for name in ("begun", "odd"):
        (Path("my sweep") / name / ".hydra").mkdir(parents=True)
    Path("my sweep/odd/result.json").mkdir()
    Path("my sweep/not a directory").touch()
    assert [path.name for path, _ in summarize(Path("my sweep"))] == [f"x={first}", f"x={second}"]
    lines = printed(capsys)
    assert lines[0] == "left out: my sweep/begun has no result.json"
    assert lines[1].startswith("left out: my sweep/odd/result.json must be the result of a run; it cannot be read: ")
    assert lines[3].split() == ["run", "val/acc", "train/acc", "test/acc", "steps", "seconds"]
    assert [line.split()[-5:] for line in lines if "0.25" in line] == [["0.5", "0.25", "0.75", "0", "0.00"]]
    assert lines[-5:-3] == [
        "best first by val/acc after the last step; test/* are from the best checkpoint",
        f"x={second} diverged: {'r' * 80}",
    ]


def test_without_validation_runs_are_sorted_by_the_training_metric(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = {"metric": "val/acc", "mode": "max"}
    for name, metrics in (("a", {"train/acc": 0.1}), ("b", {"train/acc": 0.3}), ("c", {"val/acc": 0.2})):
        write(f"k={name}", metrics=metrics, monitor=monitor)
    write("k=d", "interrupted", metrics={"val/acc": 0.9}, monitor=monitor)
    summarize(Path("my sweep"))
    assert [line.split()[0] for line in printed(capsys) if line.startswith(" k=")] == ["k=b", "k=c", "k=a", "k=d"]
