"""Tests what a comparison reads from runs: their results, data and directories."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from test_compare_by_hand import LOSS, OPTIMUM, result_of, run_of, runs_of

from descent.compare.checks import why_not_comparable
from descent.compare.extra import Curve
from descent.compare.runs import Run, read_runs
from descent.compare.settings import best_settings, settings_of
from descent.compare.tables import table_of, to_target
from descent.errors import UserError
from regression.comparison import EXCESS, problem

REQUIRED = (
    *("status", "reason", "stopped", "checksum", "metrics", "hparams", "seed", "steps", "gradient_evaluations"),
    *("epochs", "samples", "seconds"),
)


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in result_of(monitor=None).items() if key not in keys}


def test_every_result_has_what_a_comparison_reads_and_may_have_more() -> None:
    for key in REQUIRED:
        assert why_not_comparable(without(key)) == f"its result.json is broken ({key} is missing)"
    assert why_not_comparable(without(*{*without()} - {*REQUIRED})) is None
    assert why_not_comparable(result_of(best={"metric": "val/loss"}, hparams={"x": None})) is None
    assert why_not_comparable(result_of() | {"hparams": {}, "metrics": {}}) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(({"metrics": {"a": value}}, "metrics/a must be ") for value in (-1e300, 1e300)),
        *(({"hparams": {"a": value}}, "hparams/a must be ") for value in (-1e300, -(2**63))),
        *(({"hparams": {"optimizer.lr": value}}, "hparams/optimizer.lr must be ") for value in (1e300, -1)),
        ({"hparams": {"batch.size": 2**63}}, "hparams/batch.size must be "),
        ({"predictions": [float("nan")]}, "Out of range float values"),
        ({"features": ["\ud800"]}, "'utf-8' codec can't encode"),
        ({"reason": 1}, "reason must be "),
        ({"stopped": ["x"]}, "stopped must be "),
        ({"checksum": True}, "checksum must be "),
    ],
    ids=str,
)
def test_a_value_of_no_result_is_refused(given: dict[str, Any], words: str) -> None:
    reason = why_not_comparable(result_of(**given))
    assert reason is not None and reason.startswith(f"its result.json is broken ({words}")


def test_a_result_that_is_nested_too_deep_is_broken() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    reason = why_not_comparable(result_of() | {"predictions": deep})
    assert reason is not None and reason.startswith("its result.json is broken (maximum recursion depth exceeded")


def test_an_optimum_is_read_without_what_is_not_known_of_it_and_not_without_its_weight() -> None:
    assert problem({"optimum": {"weight": [1.0]}, "rows": {}, "hparams": {}}) is None
    broken = "its result.json is broken (optimum/weight: Field required, got {'loss': 1.0})"
    assert problem({"optimum": {"loss": 1.0}}) == broken


READING = {
    **{"batch_size": 8, "shuffle": True, "num_workers": 2, "pin_memory": True, "persistent_workers": True},
    **{"prefetch_factor": 2, "drop_last": True},
}


def test_data_without_a_checksum_are_told_apart_by_their_settings_and_not_by_how_they_are_read() -> None:
    reading = {f"data.{key}": value for key, value in READING.items()}
    reading |= {f"data.loader.{key}": value for key, value in READING.items()}
    hparams = {"data": "mine", "data.a": {"b": 1, "c": {"d": 2}, "e": {}}, **reading, "database.x": 1}
    run = Run(Path("run"), result_of(checksum=None, hparams=hparams))
    assert run.data == {"data": "mine", "data.a.b": 1, "data.a.c.d": 2, "data.a.e": {}}
    assert Run(Path("run"), result_of(checksum=0, hparams=hparams)).data == {"checksum": 0}


def write(run_dir: Path, **given: Any) -> None:
    """Writes a run without curves."""
    run_dir.mkdir(parents=True)
    (run_dir / "result.json").write_text(json.dumps(result_of(**given)))


def test_most_runs_are_of_the_same_data_whatever_the_order_of_their_settings(tmp_path: Path) -> None:
    for name, seed, data in (
        *(("a1", 0, {"data.x": 1}), ("a2", 1, {"data.x": 1})),
        *(("b1", 2, {"data.x": 2, "data.y": 3}), ("b2", 3, {"data.x": 2, "data.y": 3})),
        ("b3", 4, {"data.y": 3, "data.x": 2}),
        ("b4", 5, {"data.y": 3, "data.x": 2}),
        ("c1", 6, {"data.x": 2, "data.y": 3, "data.z": 4}),
        ("c2", 7, {"data.x": 1}),
    ):
        write(tmp_path / name, seed=seed, checksum=None, hparams=data)
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["b1", "b2", "b3", "b4"]
    differ = {"a1": "data.x, data.y", "a2": "data.x, data.y", "c1": "data.z", "c2": "data.x, data.y"}
    assert left_out == [f"{tmp_path}/{name}: another data set (by its {keys})" for name, keys in differ.items()]


def test_of_runs_with_one_config_and_seed_the_newest_is_compared(tmp_path: Path) -> None:
    for number, (name, given) in enumerate(
        (
            *(("a", {}), ("b", {"seconds": 2.0}), ("c", {"seconds": 3.0}), ("seed", {"seed": 1})),
            *(("rate", {"hparams": {"optimizer.lr": 0.3}}), ("digest", {"config_digest": "1"})),
        )
    ):
        write(tmp_path / name, **given)  # type: ignore[arg-type]
        seconds = {"b": 100}.get(name, number)  # "b" is the newest
        os.utime(tmp_path / name / "result.json", (seconds, seconds))
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["b", "digest", "rate", "seed"]
    assert left_out == [f"{tmp_path}/{n}: {tmp_path}/b is newer, with the same config and seed" for n in ("a", "c")]


def test_runs_that_differ_in_the_progress_bar_alone_are_repetitions(tmp_path: Path) -> None:
    for number, name in enumerate(("with", "without")):
        write(tmp_path / name, hparams={"trainer.enable_progress_bar": not number})
        os.utime(tmp_path / name / "result.json", (number, number))
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["without"] and len(left_out) == 1


def test_runs_are_found_at_any_depth_and_named_as_they_were_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("b", "b/again/c", "a/deep/er")):
        write(Path(name), seed=seed)
    runs, left_out = read_runs([Path("b"), tmp_path, Path()])
    assert left_out == []
    assert {str(run.path): run.result["seed"] for run in runs} == {
        **{"b": 0, "b/again/c": 1, f"{tmp_path}/a/deep/er": 2},
    }
    write(Path("other/copy"), seed=1)
    assert read_runs([tmp_path])[1] == [f"{tmp_path}/other/copy: a copy of {tmp_path}/b/again/c"]
    with pytest.raises(UserError, match=f"^{re.escape(f'DIR must be a directory, got {tmp_path}/b/result.json')}$"):
        read_runs([tmp_path, tmp_path / "b/result.json"])


def test_the_keys_of_the_groups_are_named_first_and_in_their_order() -> None:
    hparams = ({"a.x": 1, "a.y": 1, "a.z": 1}, {"a.x": 1, "a.y": 2, "a.z": 3}, {"a.x": 2, "a.y": 2, "a.z": 2})
    runs = [run_of(hparams=own) for own in hparams]
    assert settings_of(runs, ["a.z", "a.y"])[1].name == "a.z=3, a.y=2, a.x=1"
    assert settings_of(runs, ["a.y"])[1].name == "a.y=2, a.x=1, a.z=3"


def test_a_setting_without_a_value_is_chosen_by_no_order() -> None:
    (silent,) = runs_of(0.1, [5.0])
    silent.result["metrics"]["val/loss"] = None
    half = [*runs_of(0.2, [9.0]), *runs_of(0.2, [9.0])]
    half[0].result["metrics"]["val/loss"] = None
    for runs in ([silent, *half], [*half, silent]):
        assert best_settings(settings_of(runs), ["optimizer"], LOSS)[0].name == "lr=0.2"


def test_settings_of_the_same_mean_stay_in_their_order_and_those_without_one_are_last() -> None:
    runs = [run for lr in (0.3, 0.1, 0.2) for run in runs_of(lr, [1.0])]
    table = table_of(settings_of([*runs_of(0.9, [None]), *runs]), LOSS, EXCESS)
    assert table["setting"].to_list() == ["lr=0.3", "lr=0.1", "lr=0.2", "lr=0.9"]


def test_a_target_beyond_single_precision_is_reached_at_once() -> None:
    (tag,) = run_of([4.0, 1.0]).curves
    reached = to_target(run_of([4.0, 1.0]), Curve(tag, "min", "x", target=1e200))
    assert reached is not None and (reached["steps"], reached["apart"]) == (0, 0)


@pytest.mark.parametrize(("loss", "steps"), [(1e-7, 20), (1e-5, 30)])
def test_whether_an_optimums_loss_is_rounding_is_relative_to_the_first_excess(loss: float, steps: int) -> None:
    # 1% of the first excess is 1e4; 1% of a loss above rounding is below the third point, 1e4
    run = run_of([1e6, 1e5, 1e4, 1e-8], optimum=OPTIMUM | {"loss": loss})
    assert (to_target(run, EXCESS) or {})["steps"] == steps
