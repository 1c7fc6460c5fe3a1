"""Tests what a comparison accepts as runs, how it names settings, and where a curve's points are."""

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_compare_by_hand import LOSS, OPTIMUM, compare, result_of, run_of, runs_of, write
from torch.utils.tensorboard import SummaryWriter

from descent.compare.checks import why_not_comparable
from descent.compare.runs import Run, read_runs
from descent.compare.settings import best_settings, name_of, settings_of
from descent.compare.tables import table_of, to_target
from descent.config.metric import Metric
from descent.drawing import legend, new_figure
from descent.errors import UserError
from regression.comparison import EXCESS, problem

COUNTS = ("steps", "gradient_evaluations", "epochs", "samples")
VALUE = "a number below 1e+300, or an integer below 2**63, in absolute value"
COUNT, NUMBER, FINITE = "an integer, 0 or more", "a number, 0 or more", "a number below 1e+300 in absolute value"
TRAINING = Metric("train/loss", "min")


@pytest.mark.parametrize(
    ("path", "rule", "accepted", "refused"),
    [
        ("seed", "an integer from 0 to 4294967295", [0, 2**32 - 1], [None, -1, 2**32]),
        *((key, COUNT, [0, 2**63 - 1], [None, -1, 2**63, 1.0]) for key in COUNTS),
        ("seconds", NUMBER, [0, 0.0, 9e299], [None, -0.1, 1e300, True]),
        ("hparams/batch.size", "a positive integer or null (all rows)", [1, None], [0, 1.0]),
        ("hparams/optimizer.lr", f"{NUMBER} or null (none)", [0, 1.5, None], [-1, "x"]),
        ("best/metric", "a string", ["x"], [""]),
        ("monitor/metric", "a string", ["x"], [None, ""]),
        ("monitor/mode", "one of min, max", ["min", "max"], [None, "best"]),
        ("best/value", f"{FINITE} or null (not finite)", [1.0, None], ["x", 1e300]),
        *((key, "a group of keys", [None], [1, []]) for key in ("best", "monitor")),
        *((key, "a group of keys", [], [None, [], 1]) for key in ("metrics", "hparams")),
        ("metrics/train/loss", f"{FINITE} or null (not finite)", [None, 1.0], ["x", [], 1e300, True]),
        ("hparams/seed", VALUE, [None, "x", [1], True], [2**63, 1e300]),
        ("status", "one of completed, diverged, interrupted, failed", ["completed", "diverged"], ["done", None, 1]),
    ],
)  # fmt: skip
def test_a_result_is_held_to_the_rules(path: str, rule: str, accepted: list[Any], refused: list[Any]) -> None:
    *above, key = ["metrics", "train/loss"] if path.startswith("metrics/") else path.split("/")

    def reason(value: Any) -> str | None:
        result = result_of(monitor={"metric": "val/loss", "mode": "min"})
        node = result
        for part in above:
            node = node[part]
        node[key] = value
        return why_not_comparable(result)

    assert [reason(value) for value in accepted] == [None] * len(accepted)
    for value in refused:
        shown = {"None": "null", "True": "true"}.get(repr(value), repr(value))
        assert reason(value) == f"its result.json is broken ({path} must be {rule}, got {shown})"


def test_missing_keys_and_unfinished_runs_are_named() -> None:
    assert [why_not_comparable({"status": status}) for status in ("interrupted", "failed")] == ["interrupted", "failed"]
    assert why_not_comparable(result_of(hparams={"debug": "overfit"})) == "debug=overfit"
    trial = result_of(hparams={"trainer.fast_dev_run": True})
    assert why_not_comparable(trial) == "trainer.fast_dev_run=True"
    result = result_of(best={"monitor": ""})  # as in old runs
    assert why_not_comparable(result) == "its result.json is broken (best/monitor must be a string, got '')"
    del result["steps"]
    assert why_not_comparable(result) == "its result.json is broken (steps is missing)"
    assert why_not_comparable(result_of(best={})) == "its result.json is broken (best/metric is missing)"
    long = why_not_comparable(result_of(status="x" * 300))
    assert long is not None and len(long) == len("its result.json is broken ()") + 200


A_LIST, A_NUMBER = "Input should be a valid list", "Input should be a valid number"
SIZE = "Input should be below 1e+300 in absolute value"


@pytest.mark.parametrize(
    ("key", "accepted", "refused"),
    [
        *(
            (
                *(key, [-9e299, 1 - 2**63, None]),
                [(1e300, SIZE, "1e+300"), (-1e300, SIZE, "-1e+300"), ("x", A_NUMBER, "'x'"), (True, A_NUMBER, "true")],
            )
            for key in ("loss", "bias", "condition_number", "max_stable_lr")
        ),
        ("weight", [[], [None, 1.0]], [(None, A_LIST, "null"), (1.0, A_LIST, "1.0")]),
        ("weight/0", [None, 1.0], [("x", A_NUMBER, "'x'"), (1e300, SIZE, "1e+300")]),
        ("hessian", [[[1]], None], [("x", A_LIST, "'x'")]),
        ("hessian/0", [[None]], [(1.0, A_LIST, "1.0")]),
        ("hessian/0/0", [1.0, None], [("x", A_NUMBER, "'x'")]),
    ],
)
def test_an_optimum_is_held_to_its_types(key: str, accepted: list[Any], refused: list[tuple[Any, str, str]]) -> None:
    name, *places = key.split("/")

    def reason(value: Any) -> str | None:
        for _ in places:
            value = [value]
        result = result_of(optimum=OPTIMUM | {name: value})
        assert why_not_comparable(result) is None  # the example checks it
        return problem(result)

    assert [reason(value) for value in accepted] == [None] * len(accepted)
    for value, rule, shown in refused:
        assert reason(value) == f"its result.json is broken (optimum/{key}: {rule}, got {shown})"


@pytest.mark.parametrize(
    ("place", "accepted", "refused"),
    [
        ("rows/train", [1, None], [0, 1.0, True]),
        ("hparams/optimizer.momentum", [0, 1.5, None], [-1, "x"]),
    ],
)
def test_what_else_the_example_reads_of_a_result_is_the_examples_to_check(
    place: str, accepted: list[Any], refused: list[Any]
) -> None:
    entry, key = place.split("/")

    def result(value: Any) -> dict[str, Any]:
        return result_of(**{entry: {key: value}})

    assert not any(why_not_comparable(result(value)) for value in [*accepted, *refused])
    assert [problem(result(value)) for value in accepted] == [None] * len(accepted)
    for value in refused:
        found = problem(result(value))
        assert found is not None and found.startswith(f"its result.json is broken ({place}: Input should be ")
    for value in (1, []):
        found = problem(result_of(rows=value))
        assert found is not None and found.startswith("its result.json is broken (rows: Input should be ")


def test_an_optimum_of_none_is_accepted_and_one_of_another_type_is_reported() -> None:
    assert [problem(result) for result in ({}, {"optimum": None})] == [None, None]
    for value in (1, [], "x" * 300):
        found = problem({"optimum": value})
        assert found is not None and found.startswith("its result.json is broken (optimum: Input should be")
    assert found is not None and len(found) == len("its result.json is broken ()") + 200


def test_samples_are_as_many_each_step_as_on_average_over_the_run() -> None:
    steps = np.array([0, 1, 2, 3, 50, 100])
    assert run_of(samples=8000).axis("samples", steps).tolist() == [0, 80, 160, 240, 4000, 8000]
    assert run_of(samples=250).axis("samples", steps).tolist() == [0, 2.5, 5, 7.5, 125, 250]
    assert np.isnan(run_of(steps=0).axis("samples", steps[:1])).all()


def test_evaluations_and_seconds_between_two_points_are_interpolated() -> None:
    run = run_of(gradient_evaluations=500)
    steps = np.array([0, 10, 20, 60, 100])
    assert run.axis("steps", steps).tolist() == [0, 10, 20, 60, 100]
    for axis in ("gradient_evaluations", "seconds"):
        assert np.isnan(run.axis(axis, steps)).tolist() == [True] * 5
    run.curves["grad/evaluations"] = np.array([20]), np.array([60.0])
    run.curves["train/seconds"] = np.array([0, 100]), np.array([2.0, 7.0])
    assert run.axis("gradient_evaluations", steps).tolist() == [0, 30, 60, 280, 500]
    assert run.axis("seconds", steps).tolist() == [2.0, 2.5, 3.0, 5.0, 7.0]


def test_evaluations_without_a_point_before_the_first_known_are_the_steps() -> None:
    run = run_of(gradient_evaluations=500)
    run.curves["grad/norm"] = np.arange(10, 101, 10), np.arange(10.0)
    run.curves["grad/evaluations"] = np.arange(30, 101, 10), np.array([60.0, *[500.0] * 7])
    assert run.axis("gradient_evaluations", np.array([0, 10, 20, 25, 30])).tolist() == [0, 10, 20, 40, 60]


def test_a_curve_has_each_step_once_in_order_and_all_of_them(tmp_path: Path) -> None:
    many = [(step, float(step % 7)) for step in range(1, 10_500)]
    write(tmp_path / "run", {"a": [(10, 1.0), (30, 3.0), (20, 9.0), (20, 2.0)], "many": many})
    ((run,), left_out) = read_runs([tmp_path])
    assert left_out == []
    steps, values = run.curve("a")
    assert (steps.tolist(), values.tolist()) == ([10, 20, 30], [1.0, 2.0, 3.0])
    assert len(run.curve("many")[0]) == len(many)
    assert [len(part) for part in run.curve("none")] == [0, 0]


@pytest.mark.parametrize("number", [0, 5, 6])
def test_if_no_run_can_be_compared_the_first_five_reasons_are_reported(number: int, tmp_path: Path) -> None:
    for k in range(number):
        write(tmp_path / f"r{k}", status="failed")
    (tmp_path / "other").mkdir()
    reasons = "; ".join(f"{tmp_path}/r{k}: failed" for k in range(min(number, 5)))
    why = f" ({reasons}{'; and 1 more' if number > 5 else ''})" if number else ""
    message = f"DIR must hold finished runs, got {tmp_path}, {tmp_path}/other{why}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_runs([tmp_path, tmp_path / "other"])


def test_an_unreadable_directory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("b", "a", "closed")):
        write(tmp_path / name, seed=seed)
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    runs, left_out = read_runs([tmp_path / "b", tmp_path])
    assert [run.path.name for run in runs] == ["a", "b"]
    assert left_out == [f"{tmp_path}/closed: Permission denied"]


def test_a_reader_that_fails_is_named_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def broken(self: Any) -> None:
        raise OverflowError("x")

    write(tmp_path / "run")
    monkeypatch.setattr(EventAccumulator, "Reload", broken)
    with pytest.raises(UserError, match=r"run: its event file cannot be read \(OverflowError: x\)"):
        read_runs([tmp_path])


def test_points_after_a_killed_runs_checkpoint_are_left_out_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "run")
    for first, last in ((0, 9), (5, 8)):  # killed at 9, resumed from 5
        time.sleep(0.01)  # files are read in the order of their names, which contain the time
        writer = SummaryWriter(str(tmp_path / "other"), purge_step=first or None, filename_suffix=f".{first}")
        for step in range(first, last):
            writer.add_scalar("a", float(first), step)
        writer.close()
    steps, values = Run(tmp_path / "other", {}).curve("a")
    assert (steps.tolist(), values.tolist()) == ([*range(8)], [0.0] * 5 + [5.0] * 3)
    assert not caplog.messages
    logging.getLogger("tensorboard").warning("another")
    assert caplog.messages == ["another"]


def test_the_data_set_of_most_runs_is_compared_and_a_diverged_run_may_end_anywhere(tmp_path: Path) -> None:
    for seed, (name, checksum) in enumerate((("a", 2), ("b", 1), ("c", 1))):
        write(
            tmp_path / name, seed=seed, checksum=checksum, **({"status": "diverged", "steps": 7} if name == "c" else {})
        )
    write(tmp_path / "d", steps=101)
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["b", "c"]
    broken = f"{tmp_path}/d: its event file is broken: it ends at step 100 of 101"
    assert left_out == [broken, f"{tmp_path}/a: another data set (by its checksum)"]


def test_a_setting_is_named_by_what_differs() -> None:
    values = {"optimizer": "adam", "optimizer.lr": 1e-7, "batch.size": None, "model.bias": True, "clip": None, "x.y": 3}
    assert name_of(values) == "adam, lr=1e-07, batch.size=full, model.bias=True, clip=null, x.y=3"
    runs = [run_of(hparams={"optimizer.lr": lr, "batch.size": size}) for lr, size in ((1, 8), (1.0, 8), (1, 16))]
    assert [(s.name, len(s.runs)) for s in settings_of(runs)] == [("batch.size=8", 2), ("batch.size=16", 1)]
    assert [s.name for s in settings_of(runs[:2])] == ["all runs"]
    runs.append(run_of(hparams={"optimizer.lr": True, "batch.size": 8}))
    assert [s.name for s in settings_of(runs)] == ["lr=1, batch.size=8", "lr=1, batch.size=16", "lr=True, batch.size=8"]
    assert settings_of(runs, ["batch.size"])[0].name == "batch.size=8, lr=1"


def test_what_follows_from_an_option_makes_no_setting() -> None:
    hparams: list[dict[str, Any]] = [
        {"optimizer": "sgd", "optimizer.a": 1, "optimizer.b": 1, "clip.c": 1},
        {"optimizer": "adam", "optimizer.a": 2, "optimizer.b": 1, "clip.c": 2},
        {"optimizer": "adam", "optimizer.a": 2, "optimizer.b": 3, "clip.c": 2},
    ]
    names = [setting.name for setting in settings_of([run_of(hparams=own) for own in hparams])]
    assert names == ["sgd, b=1, clip.c=1", "adam, b=1, clip.c=2", "adam, b=3, clip.c=2"]
    nested: list[dict[str, Any]] = [
        {"model/part": own, "model.part._target_": f"m.{own}", "model.part.a": own, "model.b": b}
        for own, b in ("A1", "B1", "B2")
    ]
    assert [setting.name for setting in settings_of([run_of(hparams=own) for own in nested])] == [
        *(f"model/part={own}" for own in ("A, model.b=1", "B, model.b=1", "B, model.b=2"))
    ]
    second: list[dict[str, Any]] = [
        {"model/part": a, "model/part@model.second": b, "model.part.x": a, "model.second._target_": f"m.{b}"}
        for a, b in ("AB", "BA", "BB")
    ]
    assert [setting.name for setting in settings_of([run_of(hparams=own) for own in second])] == [
        *(f"model/part={a}, model/part@model.second={b}" for a, b in ("AB", "BA", "BB"))
    ]
    nested = [
        {"model.part._target_": "m.A", "model.part.a": 1, "model.b": 1},
        {"model.part._target_": "m.B", "model.part.c": 2, "model.b": 2},
        {"model.part._target_": "m.B", "model.part.c": 2, "model.b": 1},
    ]
    names = [setting.name for setting in settings_of([run_of(hparams=own) for own in nested])]
    assert names == [f"model.part._target_=m.{own}" for own in ("A, model.b=1", "B, model.b=2", "B, model.b=1")]


def test_a_long_name_in_a_legend_is_wrapped() -> None:
    figure, axes = new_figure()
    axes.plot([1, 2], label=", ".join(["model.encoder.channels=8"] * 4))
    legend(axes)
    (text,) = axes.get_legend().get_texts()
    assert text.get_text().count("\n") == 3
    figure.canvas.draw()
    assert axes.get_window_extent().width > 100


@pytest.mark.parametrize(
    ("metric", "known", "chooser"),
    [
        *(("test/r2", ["test/r2", "val/loss", "val/r2"], "val/r2"), ("test/r2", ["test/r2", "val/loss"], "val/loss")),
        *(("train/loss", ["train/loss", "val/loss"], "train/loss"), ("test/mae", ["test/mae"], "train/loss")),
    ],
)
def test_settings_are_chosen_by_validation_where_there_is_any(
    metric: str, known: list[str], chooser: str, tmp_path: Path
) -> None:
    write(tmp_path / "run", metrics=dict.fromkeys(known, 1.0))
    table = pl.read_csv(compare([tmp_path], ["optimizer"], "steps", metric=metric) / "settings.csv")
    assert (table["chosen by"].item(), table["reported"].item()) == (chooser, metric)


def test_seeds_decide_first_then_divergence_then_the_mean() -> None:
    def best(*runs: Any) -> str:
        return best_settings(settings_of(runs), ["optimizer"], LOSS)[0].name

    fewer, more = runs_of(0.1, [1.0]), runs_of(0.2, [None, 5.0])
    assert best(*fewer, *more) == best(*more, *fewer) == "lr=0.2"
    assert best(*runs_of(0.1, [1.0, None]), *runs_of(0.2, [7.0, 9.0])) == "lr=0.2"
    assert best(*runs_of(0.1, [None]), *runs_of(0.2, [None])) == "lr=0.1"
    silent = run_of(hparams={"optimizer.lr": 0.1}, metrics={"val/loss": None})
    assert best(silent, *runs_of(0.2, [9.0])) == "lr=0.2"
    half = run_of(seed=1, hparams={"optimizer.lr": 0.1}, metrics={"val/loss": 1.0})
    assert best(silent, half, *runs_of(0.2, [9.0, 9.0])) == "lr=0.2"  # not the mean of the other seed alone


def test_the_best_of_a_table_is_of_the_first_monitor_and_nothing_is_last() -> None:
    bests: list[Any] = [None, ("val/r2", 0.5), ("val/r2", 0.7), ("val/loss", 9.0), ("val/r2", None)]
    runs = [
        run_of(seed=seed, best=best and {"step": 1, "monitor": best[0], "value": best[1]})
        for seed, best in enumerate(bests)
    ]
    diverged = run_of(seed=9, best={"step": 1, "monitor": "val/r2", "value": 5.0}, status="diverged")
    (row,) = table_of(settings_of([*runs, diverged]), TRAINING, EXCESS).iter_rows(named=True)
    assert row["best val/r2 mean"] == pytest.approx(0.6)
    assert row["best val/r2 deviation"] == pytest.approx(0.02**0.5)
    assert "best train/loss mean" in table_of(settings_of(runs[:1]), TRAINING, EXCESS).columns  # it is reported
    silent = run_of(hparams={"optimizer.lr": 0.5}, metrics={"val/loss": None})
    table = table_of(settings_of([silent, *runs_of(0.2, [3.0]), *runs_of(0.3, [2.0])]), LOSS, EXCESS)
    assert table["val/loss mean"].to_list() == [2.0, 3.0, None]


def test_a_loss_of_rounding_is_no_optimum_to_measure_a_target_by() -> None:
    for loss, steps in ((1e-12, 10), (2e-12, 20)):
        reached = to_target(run_of([1.0, 0.01, 0.0], optimum=OPTIMUM | {"loss": loss}), EXCESS)
        assert reached is not None and (reached["steps"], reached["apart"]) == (steps, 10)
    assert to_target(run_of([]), EXCESS) is None
