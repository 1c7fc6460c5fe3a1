"""Tests which metric a comparison reports, which one it chooses by, and which values are best."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_compare_by_hand import compare, write

from descent.compare.extra import Curve
from descent.compare.metrics import directed, first_logged, modes_of
from descent.config.metric import Metric
from descent.errors import UserError

ACC, LOSS = Metric("val/acc", "max"), Metric("val/loss", "min")
OWN = {"loss": "min", "r2": "max"}


@pytest.mark.parametrize(
    ("monitors", "metric", "mode", "expected"),
    [
        ([ACC], "", "", OWN | {"acc": "max"}),
        ([ACC], "", "min", OWN | {"acc": "min"}),
        ([ACC], "test/r2", "min", {"loss": "min", "r2": "min", "acc": "max"}),
        ([Metric("val/loss", "max")], "", "", {"loss": "max", "r2": "max"}),  # the monitor overrides the project
        ([ACC, LOSS], "val/r2", "min", {"loss": "min", "r2": "min"}),
        ([ACC, LOSS], "val/acc", "max", OWN | {"acc": "max"}),
    ],
)
def test_the_user_says_what_is_best_before_the_monitor_and_that_before_the_project(
    monitors: list[Metric], metric: str, mode: str, expected: dict[str, str]
) -> None:
    assert modes_of(dict.fromkeys(monitors, "a/1"), metric, mode, OWN) == expected
    assert OWN == {"loss": "min", "r2": "max"}


def test_the_first_metric_that_is_logged_is_taken_and_the_message_names_what_there_is() -> None:
    assert first_logged(["test/r2", "val/r2", "val/loss"], ["val/loss", "val/r2"], OWN) == Metric("val/r2", "max")
    assert directed("test/loss", OWN) == Metric("test/loss", "min")
    for message, function in (
        ("--metric must be one of x, y, got 'val/a'", lambda: first_logged(["val/a", "train/a"], ["x", "y"], OWN)),
        (
            "--metric val/x must come with --mode min or --mode max; the mode is only known for loss (min), r2 (max)",
            lambda: directed("val/x", OWN),
        ),
        (
            "--metric and --mode must be given, because the monitors of the runs differ: "
            "val/acc (max) in a/1, val/loss (min) in a/2",
            lambda: modes_of({ACC: "a/1", LOSS: "a/2"}, "val/acc", "", OWN),
        ),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            function()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips drawing pictures, to save time."""
    monkeypatch.setattr("descent.compare.ranking.png_of", lambda figure, dpi: b"")


@pytest.mark.usefixtures("undrawn")
def test_where_monitors_differ_test_rows_do_not_choose_even_without_validation(tmp_path: Path) -> None:
    for lr, train, test, monitor in ((0.1, 0.9, 0.1, "train/loss"), (0.2, 0.1, 0.9, "train/acc")):
        metrics = {"train/acc": train, "test/acc": test}
        given = {"hparams": {"optimizer.lr": lr}, "monitor": {"metric": monitor, "mode": "min"}}
        write(tmp_path / str(lr), metrics=metrics, **given)
    (row,) = pl.read_csv(
        compare([tmp_path], ["optimizer"], "steps", metric="test/acc", mode="max") / "settings.csv"
    ).iter_rows(named=True)
    assert (row["setting"], row["chosen by"], row["test/acc mean"]) == ("lr=0.1", "train/acc", 0.1)


@pytest.mark.usefixtures("undrawn")
def test_the_examples_own_metrics_rank_from_their_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr, mae in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0)):
        monitor = {"metric": "val/acc", "mode": "max"}
        metrics = {"val/mae": mae, "val/r2": mae, "val/loss": mae, "val/acc": 1.0}
        write(tmp_path / str(lr), hparams={"optimizer.lr": lr}, metrics=metrics, monitor=monitor)
    up = ["lr=0.2", "lr=0.3", "lr=0.1"]
    for metric, expected, first in (*(("mae", up, "smallest"), ("loss", up, "smallest"), ("r2", up[::-1], "largest")),):
        out = compare([tmp_path], x="steps", metric=f"val/{metric}")
        assert pl.read_csv(out / "settings.csv")["setting"].to_list() == expected
        assert f"ranked by the mean of val/{metric} after the last step, the {first} first\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target": 0.5, "target_metric": "val/loss"},
            "--target-metric must be one that has a curve (grad/evaluations, optimum/excess_loss, train/seconds), "
            "got 'val/loss'",
        ),
        ({"target_metric": "val/loss"}, "--target must be a value of val/loss, got null"),
    ],
    ids=["no curve", "no value"],
)
def test_a_target_of_a_metric_needs_its_value_and_its_curve(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "run")
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        compare([tmp_path], **arguments)


def test_the_goal_of_a_curve_follows_its_mode() -> None:
    goals = [Curve("t", mode, "label", target=0.25).goal() for mode in ("min", "max")]
    assert goals == ["label of at most 0.25", "label of at least 0.25"]
    with pytest.raises(UserError, match=r"^--target must be a number, got inf$"):
        Curve("t", "min", "label", target=float("inf"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("better", [4.0, 0.25])
def test_a_setting_that_was_best_of_all_before_its_end_is_named(
    better: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr, last, value in ((0.1, 1.0, 0.5), (0.2, 5.0, better), (0.3, 2.0, 0.75)):
        best = {"step": 9, "metric": "val/loss", "value": value}
        write(tmp_path / str(lr), hparams={"optimizer.lr": lr}, metrics={"val/loss": last}, best=best)
    compare([tmp_path], x="steps")
    notes = [line for line in capsys.readouterr().out.splitlines() if "best checkpoints are" in line]
    assert notes == ["the best checkpoints are those of lr=0.2: val/loss 0.25 on average"] * (better < 0.5)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("codes", "note"),
    [
        (
            ({"mine": "a"}, {"mine": "b"}, {"mine": "a"}),
            "mine differs between runs; unlike most: {0}/1",
        ),
        (
            ({"b": "1", "a": "1"}, {"a": "2", "b": "2"}),
            "a and b differs between runs; unlike most: {0}/0",
        ),
        (({"mine": "a"}, {"mine": "a"}), None),
        (({"mine": "a"}, {"other": "b"}, None), None),  # another model of another package; a run of an older version
    ],
)
def test_runs_of_different_code_are_ranked_with_a_note_that_names_the_package_and_the_runs(
    codes: tuple[dict[str, str] | None, ...], note: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, code in enumerate(codes):
        write(tmp_path / str(seed), seed=seed, **({} if code is None else {"code": code}))
    out = compare([tmp_path], x="steps")
    printed = [line for line in capsys.readouterr().out.splitlines() if "the code of" in line]
    assert printed == [f"the code of {line.format(tmp_path)}" for line in [note] if line]
    assert pl.read_csv(out / "runs.csv").height == len(codes)
