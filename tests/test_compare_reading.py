"""What a comparison takes for a run, what it calls a setting, and where a curve's points stand."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compare_by_hand import OPTIMUM, result_of, run_of, runs_of, write

from descent.compare.checks import why_not_comparable
from descent.compare.runs import read_runs
from descent.compare.settings import best_settings, chooser_of, name_of, settings_of
from descent.compare.tables import table_of, to_target
from descent.errors import UserError

COUNT, NUMBER, FINITE = "an integer, 0 or more", "a number, 0 or more", "a number below 1e+300 in size"
NUMBERS = "a list of such numbers"


@pytest.mark.parametrize(
    ("path", "rule", "accepted", "refused"),
    [
        ("checksum", "an integer", [0, -1, 10**30], [None, 1.0, True]),
        ("seed", "an integer from 0 to 4294967295", [0, 2**32 - 1], [None, -1, 2**32]),
        ("rows/train", "a positive integer", [1, 2**63 - 1], [None, 0, 2**63, True, 1.0]),
        *((key, COUNT, [0, 2**63 - 1], [None, -1, 2**63, 1.0]) for key in ("steps", "gradient_evaluations")),
        *((key, f"{COUNT} or null (unknown)", [0, None], [-1, 2**63, 1.0]) for key in ("epochs", "samples")),
        ("seconds", NUMBER, [0, 0.0, 9e299], [None, -0.1, 1e300, True]),
        *((key, "a text or null (none)", ["x", None], [" ", 1]) for key in ("reason", "stopped")),
        ("hparams/batch.size", "a positive integer or null (all rows)", [1, None], [0, 1.0]),
        ("hparams/optimizer.lr", f"{NUMBER} or null (none)", [0, 1.5, None], [-1, "x"]),
        ("hparams/optimizer.momentum", f"{NUMBER} or null (none)", [0, 1.5, None], [-1, "x"]),
        ("optimum/loss", f"{FINITE} or null (not finite)", [-9e299, None], [1e300, "x"]),
        ("optimum/bias", f"{FINITE} or null (not finite)", [-9e299, None], [1e300, "x"]),
        ("optimum/condition_number", f"{FINITE} or null (not finite)", [1, None], [-1e300]),
        ("optimum/max_stable_lr", f"{FINITE} or null (not finite)", [1 - 2**63, None], [-(2**63), True]),
        ("optimum/weight", NUMBERS, [[], [None, 1.0]], [None, 1.0, ["x"], [1e300]]),
        ("optimum/hessian", "a list of such lists or null (not two parameters)", [[[1]], None], [[1.0], [["x"]]]),
        ("best/monitor", "a text", ["x"], [None, ""]),
        ("best/value", f"{FINITE} or null (not finite)", [1.0, None], ["x", 1e300]),
        *((key, "an object or null (none)", [None], [1, []]) for key in ("optimum", "best")),
        *((key, "an object", [], [None, [], 1]) for key in ("metrics", "hparams", "rows")),
        ("metrics/train/loss", f"{FINITE} or null (not finite)", [None, 1.0], ["x", [], 1e300, True]),
        ("hparams/seed", "below 1e+300 in size, and an integer below 2**63", [None, "x", [1], True], [2**63, 1e300]),
        ("status", "one of completed, diverged, interrupted, failed", ["completed", "diverged"], ["done", None, 1]),
    ],
)  # fmt: skip
def test_a_result_is_held_to_the_rules(path: str, rule: str, accepted: list[Any], refused: list[Any]) -> None:
    *above, key = ["metrics", "train/loss"] if path.startswith("metrics/") else path.split("/")

    def reason(value: Any) -> str | None:
        result = result_of()
        node = result
        for part in above:
            node = node[part]
        node[key] = value
        return why_not_comparable(result)

    assert [reason(value) for value in accepted] == [None] * len(accepted)
    for value in refused:
        shown = {"None": "null", "True": "true"}.get(repr(value), repr(value))
        assert reason(value) == f"its result.json is broken ({path} must be {rule}, got {shown})"


def test_what_is_missing_is_said_and_what_has_not_ended_is_named_so() -> None:
    assert [why_not_comparable({"status": status}) for status in ("interrupted", "failed")] == ["interrupted", "failed"]
    result = result_of()
    del result["hparams"]["batch.size"]
    assert why_not_comparable(result) == "its result.json is broken (hparams/batch.size is missing)"
    assert why_not_comparable([]) == "its result.json is broken (it must be an object, got [])"
    long = why_not_comparable(result_of(status="x" * 300))
    assert long is not None and len(long) == len("its result.json is broken ()") + 200


def test_samples_are_counted_with_the_short_batch_at_the_end_of_each_epoch() -> None:
    steps = np.array([0, 1, 2, 3, 4, 6])
    for size, expected in ((30, [0, 30, 60, 80, 110, 160]), (100, [0, 80, 160, 240, 320, 480]), (None, None)):
        found = run_of(hparams={"batch.size": size}).axis("samples", steps)
        assert found.tolist() == (expected or [0, 80, 160, 240, 320, 480])


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


def test_a_curve_has_each_step_once_in_order_and_all_of_them(tmp_path: Path) -> None:
    many = [(step, float(step % 7)) for step in range(1, 10_500)]
    write(tmp_path / "run", {"a": [(10, 1.0), (30, 3.0), (20, 9.0), (20, 2.0)], "many": many})
    ((run,), left_out) = read_runs([tmp_path])
    assert left_out == []
    steps, values = run.curve("a")
    assert (steps.tolist(), values.tolist()) == ([10, 20, 30], [1.0, 2.0, 3.0])
    assert len(run.curve("many")[0]) == len(many)
    assert [len(part) for part in run.curve("none")] == [0, 0]


@pytest.mark.parametrize("number", [0, 5, 7])
def test_where_no_run_can_be_compared_the_first_five_reasons_are_said(number: int, tmp_path: Path) -> None:
    for k in range(number):
        write(tmp_path / f"r{k}", status="failed")
    (tmp_path / "other").mkdir()
    reasons = "; ".join(f"{tmp_path}/r{k}: failed" for k in range(min(number, 5)))
    why = f" ({reasons}{'; and 2 more' if number > 5 else ''})" if number else ""
    message = f"DIR must hold finished runs, got {tmp_path}, {tmp_path}/other{why}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_runs([tmp_path, tmp_path / "other"])


def test_a_directory_that_cannot_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a", "closed"):
        write(tmp_path / name)
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


def test_the_data_set_of_most_runs_is_compared_and_a_diverged_run_may_end_anywhere(tmp_path: Path) -> None:
    for name, checksum in (("a", 2), ("b", 1), ("c", 1)):
        write(tmp_path / name, checksum=checksum, **({"status": "diverged", "steps": 7} if name == "c" else {}))
    write(tmp_path / "d", steps=101)
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["b", "c"]
    broken = f"{tmp_path}/d: its event file is broken: it ends at step 100 of 101"
    assert left_out == [broken, f"{tmp_path}/a: another data set"]


def test_a_setting_is_named_by_what_differs() -> None:
    values = {"optimizer": "adam", "optimizer.lr": 1e-7, "batch.size": None, "model.bias": True, "clip": None, "x.y": 3}
    assert name_of(values) == "adam, lr=1e-07, batch.size=full, model.bias=True, null, x.y=3"
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


@pytest.mark.parametrize(
    ("metric", "known", "chooser"),
    [
        *(("test/r2", ["test/r2", "val/loss", "val/r2"], "val/r2"), ("test/r2", ["test/r2", "val/loss"], "val/loss")),
        *(("train/loss", ["train/loss", "val/loss"], "train/loss"), ("test/mae", ["test/mae"], "train/loss")),
    ],
)
def test_settings_are_chosen_by_validation_where_there_is_any(metric: str, known: list[str], chooser: str) -> None:
    assert chooser_of(metric, known) == chooser


def test_more_seeds_go_before_fewer_that_diverged_and_those_before_the_mean() -> None:
    def best(*runs: Any) -> str:
        return best_settings(settings_of(runs), ["optimizer"], "val/loss")[0].name

    fewer, more = runs_of(0.1, [1.0]), runs_of(0.2, [None, 5.0])
    assert best(*fewer, *more) == best(*more, *fewer) == "lr=0.2"
    assert best(*runs_of(0.1, [1.0, None]), *runs_of(0.2, [7.0, 9.0])) == "lr=0.2"
    assert best(*runs_of(0.1, [None]), *runs_of(0.2, [None])) == "lr=0.1"
    silent = run_of(hparams={"optimizer.lr": 0.1}, metrics={"val/loss": None})
    assert best(silent, *runs_of(0.2, [9.0])) == "lr=0.2"


def test_the_best_of_a_table_is_of_the_first_monitor_and_nothing_is_last() -> None:
    bests: list[Any] = [None, ("val/r2", 0.5), ("val/r2", 0.7), ("val/loss", 9.0), ("val/r2", None)]
    runs = [
        run_of(seed=seed, best=best and {"step": 1, "monitor": best[0], "value": best[1]})
        for seed, best in enumerate(bests)
    ]
    diverged = run_of(seed=9, best={"step": 1, "monitor": "val/r2", "value": 5.0}, status="diverged")
    (row,) = table_of(settings_of([*runs, diverged]), "train/loss", 0.01).iter_rows(named=True)
    assert row["best val/r2 mean"] == pytest.approx(0.6)
    assert row["best val/r2 deviation"] == pytest.approx(0.02**0.5)
    assert "best val/loss mean" in table_of(settings_of(runs[:1]), "train/loss", 0.01).columns
    silent = run_of(hparams={"optimizer.lr": 0.5}, metrics={"val/loss": None})
    table = table_of(settings_of([silent, *runs_of(0.2, [3.0]), *runs_of(0.3, [2.0])]), "val/loss", 0.01)
    assert table["val/loss mean"].to_list() == [2.0, 3.0, None]


def test_a_loss_of_rounding_is_no_optimum_to_measure_a_target_by() -> None:
    for loss, steps in ((1e-12, 10), (2e-12, 20)):
        reached = to_target(run_of([1.0, 0.01, 0.0], optimum=OPTIMUM | {"loss": loss}), 0.01)
        assert reached is not None and (reached["steps"], reached["apart"]) == (steps, 10)
    assert to_target(run_of([]), 0.01) is None
