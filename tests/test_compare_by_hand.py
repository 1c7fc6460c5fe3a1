"""Tests comparisons of hand-written results, chosen so that likely mistakes give other answers."""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import needs_sweep
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from descent.compare import ranking
from descent.compare.checks import why_not_comparable
from descent.compare.runs import Run, read_runs
from descent.compare.settings import best_settings, settings_of
from descent.compare.tables import runs_table, table_of, to_target
from descent.config.metric import Metric
from descent.errors import UserError
from descent.run.result import Result, read_result
from regression.comparison import EXCESS, EXTRA, contraction_of, paths, problem

ROWS = 80
LOSS = Metric("val/loss", "min")
compare = partial(ranking.compare, extra=EXTRA)  # as scripts/compare.py does
OPTIMUM = {
    **{"loss": 1.0, "weight": [1.0], "bias": None, "hessian": None},
    **{"condition_number": 4.0, "max_stable_lr": 0.5, "best_lr": 0.4, "contraction": 0.6, "unique": True},
}


def result_of(seed: int = 0, status: str = "completed", **given: Any) -> dict[str, Any]:
    """``result.json`` of full-batch SGD, 100 steps; ``metrics`` and ``hparams`` are merged, other keys replaced."""
    hparams = {"optimizer": "sgd", "optimizer._target_": "torch.optim.SGD", "optimizer.lr": 0.1}
    hparams |= {"batch": "full", "batch.size": None, "seed": seed, "scheduler": "none"}
    result: dict[str, Any] = {
        **{"status": status, "reason": None, "stopped": None, "seed": seed, "checksum": 1, "rows": {"train": ROWS}},
        **{"steps": 100, "epochs": 100, "samples": 100 * ROWS, "gradient_evaluations": 100, "seconds": 1.0},
        **{"optimum": OPTIMUM, "best": {"step": 9, "monitor": "val/loss", "value": 1.0}},
        **{"features": ["x_1"], "target": "y", "predictions": [], "parameters": {"weight": [1.0], "bias": None}},
        "metrics": {"train/loss": 1.0} | given.pop("metrics", {}),
        "hparams": hparams | given.pop("hparams", {}),
    }
    return copy.deepcopy(result | given)


def run_of(excess: Sequence[float] = (), every: int = 10, **given: Any) -> Run:
    """A run whose ``optimum/excess_loss`` has a point every ``every`` steps."""
    run = Run(Path("run"), result_of(**given))
    steps = np.arange(len(excess)) * every
    run.__dict__["curves"] = {"optimum/excess_loss": (steps, np.array(excess, dtype=float))}
    return run


def runs_of(lr: float, losses: Sequence[float | None], first_seed: int = 0, **hparams: Any) -> list[Run]:
    """A run for each validation loss; ``None``: it diverged."""
    return [
        run_of(
            seed=first_seed + number,
            status="completed" if loss is not None else "diverged",
            hparams={"optimizer.lr": lr, **hparams},
            metrics={"val/loss": loss},
        )
        for number, loss in enumerate(losses)
    ]


# Rates with the validation losses of their seeds, and the best rate.
CHOICES: dict[str, tuple[dict[float, list[float | None]], float]] = {
    "the mean and not the last seed": ({0.1: [9.0, 1.0], 0.2: [2.0, 2.0], 0.3: [1.0, 9.0]}, 0.2),
    "the mean and not the best seed": ({0.1: [0.1, 9.0], 0.2: [3.0, 3.0]}, 0.2),
    "no diverged seed": ({0.1: [1.0, None], 0.2: [2.0, 2.0], 0.3: [None, 1.0]}, 0.2),
    "the first of equals": ({0.3: [3.0, 1.0], 0.1: [2.0, 2.0], 0.2: [1.0, 3.0]}, 0.3),
}


@needs_sweep
@pytest.mark.parametrize("what", CHOICES)
def test_the_best_rate_of_an_optimizer_is_chosen(what: str, tmp_path: Path) -> None:
    from descent.sweep.tuning import best_of_each

    losses, best = CHOICES[what]
    runs = [run for lr, values in losses.items() for run in runs_of(lr, values)]
    (chosen,) = best_settings(settings_of(runs), ["optimizer"], LOSS)
    assert chosen.values["optimizer.lr"] == best
    jobs = []
    for lr, values in losses.items():
        for seed, loss in enumerate(values):
            jobs.append(["optimizer=sgd", f"optimizer.lr={lr}", f"seed={seed}"])
            status = "diverged" if loss is None else "completed"
            run_dir = tmp_path / f"optimizer.lr={lr},optimizer=sgd,seed={seed}"
            run_dir.mkdir()
            metrics = {} if loss is None else {"val/loss": loss}
            Result(status, seed=seed, command="", metrics=metrics).write(run_dir)  # type: ignore[arg-type]
    (repeated,) = best_of_each("optimizer", "val/loss", tmp_path, jobs, {"seed"})
    assert repeated == ("optimizer=sgd", f"optimizer.lr={best}")


def test_a_run_that_is_there_twice_does_not_choose_its_setting() -> None:
    runs = [*runs_of(0.1, [5.0]), *runs_of(0.1, [5.0]), *runs_of(0.2, [1.0])]
    (chosen,) = best_settings(settings_of(runs), ["optimizer"], LOSS)
    assert chosen.values["optimizer.lr"] == 0.2


def test_what_a_sweep_repeated_is_measured_on_the_seeds_that_did_not_choose_it() -> None:
    # seeds 0 and 1 chose the rate 0.1, which is worse on the others
    runs = [*runs_of(0.1, [1.0, 1.0, 5.0, 7.0]), *runs_of(0.2, [2.0, 2.0])]
    chosen = best_settings(settings_of(runs), ["optimizer"], LOSS)
    row = table_of(chosen, LOSS, EXCESS, "val/loss").row(0, named=True)
    assert (row["setting"], row["runs"], row["val/loss mean"]) == ("lr=0.1", 2, 6.0)
    assert (row["chosen by"], row["reported"]) == ("val/loss", "val/loss")


def test_the_mean_is_of_the_seeds_that_did_not_diverge_and_fewer_of_those_rank_first() -> None:
    runs = [*runs_of(0.1, [1.0, None, 2.0]), *runs_of(0.2, [8.0, 9.0, 10.0])]
    table = table_of(settings_of(runs), LOSS, EXCESS)
    assert table["setting"].to_list() == ["lr=0.2", "lr=0.1"]
    assert table["val/loss mean"].to_list() == [9.0, 1.5]
    assert table["diverged"].to_list() == [0, 1]


def falls_at(point: int) -> list[float]:
    """Excess losses that are first within a hundredth of the optimum's loss, 1, at index ``point``."""
    return [1.0] * point + [0.01] * (10 - point)


def test_medians_are_the_middle_of_three_and_of_those_that_came_to_the_target() -> None:
    every = [run_of(falls_at(point), seed=seed) for seed, point in enumerate((9, 1, 3))]
    missed = run_of([1.0] * 10, seed=3)
    diverged = run_of(falls_at(1), seed=4, status="diverged")
    row = table_of(settings_of([*every, missed, diverged]), Metric("train/loss", "min"), EXCESS).row(0, named=True)
    assert (row["at target"], row["missed"], row["diverged"]) == (3, 2, 1)
    assert row["steps to target"] == 30
    assert row["samples to target"] == 30 * ROWS
    row = table_of(settings_of(every[:2]), Metric("train/loss", "min"), EXCESS).row(0, named=True)
    assert row["steps to target"] == (90 + 10) / 2  # of two, their mean


def test_the_steps_between_the_points_before_the_target_are_reported() -> None:
    fine, coarse = run_of(falls_at(4), every=5), run_of(falls_at(4), every=25, seed=1)
    for runs, expected in (([fine], 5), ([coarse], 25), ([fine, coarse], 25)):
        assert table_of(settings_of(runs), Metric("train/loss", "min"), EXCESS)["steps between points"].to_list() == [
            expected
        ]
    assert (to_target(run_of(falls_at(0)), EXCESS) or {})["apart"] == 0


@pytest.mark.parametrize(
    ("optimal", "reached"),
    [(100.0, 1), (1.0, 3), (0.0, 2), (None, 2)],  # a loss that is not finite is null
)
def test_the_target_is_a_fraction_of_the_optimums_loss_or_of_the_first_excess_where_that_is_0(
    optimal: float | None, reached: int
) -> None:
    run = run_of([4.0, 1.0, 0.04, 0.01, 0.0], optimum=OPTIMUM | {"loss": optimal})
    assert (to_target(run, EXCESS) or {})["steps"] == 10 * reached


def halving(**given: Any) -> Run:
    return run_of([0.25**k for k in range(12)], every=1, **given)  # the distance is halved each step


def test_the_contraction_is_known_of_sgd_on_all_rows_at_a_fixed_rate() -> None:
    for free in ({}, {"scheduler": None}, {"batch.size": ROWS}, {"clip.gradient_clip_val": None}):
        predicted, measured, settled = contraction_of(halving(hparams=free)) or (0.0, 0.0, False)
        assert settled
        assert measured == pytest.approx(0.5)
        assert predicted == pytest.approx(max(abs(1 - 0.1 * 4.0), abs(1 - 0.1 * 1.0)))  # L = 2 / 0.5, m = L / 4


@pytest.mark.parametrize(
    "hparams",
    [
        *({"scheduler": "cosine"}, {"clip.gradient_clip_val": 1.0}, {"batch.size": ROWS - 1}),
        *({"optimizer._target_": "torch.optim.Adam"}, {"optimizer.weight_decay": 0.1}, {"optimizer.lr": None}),
    ],
    ids=str,
)
def test_no_contraction_is_predicted_unless_it_is_full_batch_sgd_at_a_constant_rate(hparams: dict[str, Any]) -> None:
    assert contraction_of(halving(hparams=hparams)) is None


def test_no_contraction_is_predicted_where_it_is_not_known_whether_a_batch_is_all_rows() -> None:
    for rows in ({"train": None}, {}, None):
        assert contraction_of(halving(rows=rows, hparams={"batch.size": ROWS})) is None


def test_no_contraction_is_predicted_without_curvature_or_of_a_run_that_diverged() -> None:
    for optimum in (None, OPTIMUM | {"max_stable_lr": None, "condition_number": 1.0}):  # inf is written as null
        assert contraction_of(halving(optimum=optimum)) is None
    assert contraction_of(halving(status="diverged")) is None


def test_a_column_whose_first_fraction_comes_late_keeps_it() -> None:
    every: list[Run] = []
    for number in range(151):
        value = number if number < 150 else 0.5
        losses: list[float | None] = [value] if number < 150 else [value, 1.0]  # the first deviation comes late too
        every += runs_of(value, losses, **{"optimizer.beta": value, "clip": "none" if number < 150 else "norm"})
    table = runs_table(every)
    for column in ("val/loss", "optimizer.lr", "optimizer.beta"):
        assert table[column].to_list() == [*map(float, range(150)), 0.5, {"val/loss": 1.0}.get(column, 0.5)]
    settings = table_of(settings_of(every), LOSS, EXCESS)
    (late,) = settings.filter(pl.col("val/loss deviation").is_not_null()).iter_rows(named=True)
    assert (late["val/loss mean"], late["val/loss deviation"]) == (0.75, pytest.approx(0.125**0.5))


def write(run_dir: Path, curves: dict[str, Sequence[tuple[int, float]]] | None = None, **given: Any) -> None:
    """Writes the result of ``run_of``, and the points that a comparison needs, as TensorBoard events."""
    run_dir.mkdir(parents=True)
    (run_dir / "result.json").write_text(json.dumps(result_of(**given)))
    writer = EventFileWriter(str(run_dir))
    every = {"optimum/excess_loss": [(0, 4.0), (50, 0.005), (100, 0.001)]}
    every |= {"train/seconds": [(0, 0.0), (100, 1.0)], "grad/evaluations": [(0, 0), (50, 50), (100, 100)]}
    for tag, points in (every | (curves or {})).items():
        for step, value in points:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=step, wall_time=float(step), summary=summary))
    writer.close()


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Two optimizers with two rates each; test rows would choose other rates and rank the optimizers otherwise."""
    losses = {("sgd", 0.1): (1.0, 4.0), ("sgd", 0.2): (2.0, 3.0), ("adam", 0.1): (1.5, 6.0), ("adam", 0.2): (9.0, 1.0)}
    for (optimizer, lr), (val, test) in losses.items():
        hparams = {"optimizer": optimizer, "optimizer.lr": lr}
        metrics = {"val/loss": val, "test/loss": test, "val/r2": 1 - val, "test/r2": 1 - test}
        write(tmp_path / f"{optimizer}{lr}", hparams=hparams, metrics=metrics)
    return tmp_path


@pytest.mark.parametrize(
    ("metric", "chosen_by", "reported", "values"),
    [
        ("", "val/loss", "test/loss", [4.0, 6.0]),
        ("test/loss", "val/loss", "test/loss", [4.0, 6.0]),
        ("test/r2", "val/r2", "test/r2", [-3.0, -5.0]),
        ("val/loss", "val/loss", "val/loss", [1.0, 1.5]),
    ],
)
def test_validation_rows_choose_and_test_rows_are_reported(
    metric: str, chosen_by: str, reported: str, values: list[float], tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = compare([tuned], ["optimizer"], "steps", metric=metric)
    table = pl.read_csv(out / "settings.csv")
    assert table["setting"].to_list() == ["sgd, lr=0.1", "adam, lr=0.1"]
    assert table[f"{reported} mean"].to_list() == values
    assert set(table["chosen by"]) == {chosen_by} and set(table["reported"]) == {reported}
    printed, page = capsys.readouterr().out, (out / "report.html").read_text()
    rows = (
        "rows not used to choose, at the checkpoint with the best val/loss" if "test" in reported else "the rows used"
    )
    for text in (printed, page):
        assert f"then the best by {chosen_by}" in text
        assert f"reported: {reported}, on {rows}" in text
        assert "known to within the distance of the logged points: 50" in text


def test_without_a_group_nothing_is_chosen_and_validation_rows_rank(tuned: Path) -> None:
    table = pl.read_csv(compare([tuned], x="steps") / "settings.csv")
    assert table["val/loss mean"].to_list() == [1.0, 1.5, 2.0, 9.0]
    assert set(table["chosen by"]) == {None}


def test_runs_without_test_rows_are_reported_by_the_rows_that_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr, loss in ((0.1, 2.0), (0.2, 1.0)):
        write(tmp_path / str(lr), hparams={"optimizer.lr": lr}, metrics={"val/loss": loss})
    table = pl.read_csv(compare([tmp_path], ["optimizer"], "steps") / "settings.csv")
    assert table["val/loss mean"].to_list() == [1.0]
    assert "reported: val/loss, on the rows used to choose" in capsys.readouterr().out


JUNK: list[Any] = [
    *(None, "x", "", 0, -1, 1.5, 10**30, True, [], [None], {}, {"a": 1}, "a\nb"),
    *(float("nan"), float("inf"), 1e308, "\ud800"),
    *([None, 1.0], ["x", 1.0], [[None, 1.0], [1.0, 1.0]], [["x", 1.0], [1.0, 1.0]]),
]


def places(node: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        place
        for key, value in node.items()
        for place in ((*above, key), *(places(value, (*above, key)) if isinstance(value, dict) else ()))
    ]


def test_anything_anywhere_in_a_result_is_refused_in_a_line_or_compared() -> None:
    flat = OPTIMUM | {"weight": [1.0, 2.0], "hessian": [[2.0, 0.0], [0.0, 1.0]]}
    good = run_of(falls_at(3), seed=1, metrics={"val/loss": 1.0}, optimum=flat)
    good.curves.update({f"parameters/weight_{i}": good.curve(EXCESS.tag) for i in (1, 2)})
    refused = 0
    for place in places(good.result):
        for junk in [*JUNK, "missing"]:
            result = copy.deepcopy(good.result)
            node = result
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = junk
            if junk == "missing":
                del node[place[-1]]
            reason = why_not_comparable(result) or problem(result)
            if reason is not None:
                refused += 1
                assert len(reason.encode().splitlines()) == 1
                continue
            run = replace(good, result=result)
            run.__dict__["curves"] = good.curves
            settings = settings_of([run, good])
            chosen = best_settings(settings, ["optimizer"], LOSS)
            assert table_of(settings, LOSS, EXCESS).write_csv().encode()
            assert table_of(chosen, LOSS, EXCESS).write_csv().encode()
            assert runs_table([run, good]).write_csv().encode()
            contraction_of(run)
            if place[0] == "optimum":
                paths(settings)
    assert refused > 200


BROKEN = {
    **{
        "truncated": '{"status": "comp',
        "empty": "",
        "null": "null",
        "list": "[]",
        "text": '"completed"',
        "number": "3",
    },
    **{"object": "{}", "deep": "[" * 100_000, "nan": '{"status": NaN}', "status": '{"status": []}'},
}


def test_a_result_that_breaks_a_rule_of_its_reader_is_left_out_in_the_readers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(run_dir: Path) -> dict[str, Any]:
        if run_dir.name == "bad":
            raise UserError(f"{run_dir / 'result.json'} must have a status")
        return read_result(run_dir)

    monkeypatch.setattr("descent.compare.runs.read_result", read)
    for name in ("good", "bad"):
        write(tmp_path / name)
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["good"]
    assert left_out == [f"{tmp_path / 'bad'}: {tmp_path / 'bad/result.json'} must have a status"]


def test_a_comparison_names_every_file_that_is_no_result_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "good", metrics={"val/loss": 1.0})
    spoil: dict[str, Callable[[Path], object]] = {
        name: lambda path, text=text: path.write_text(text)  # type: ignore[misc]
        for name, text in BROKEN.items()
    }
    spoil["bytes"] = lambda path: path.write_bytes(b"\xff\xfe\x00")
    spoil["directory"] = lambda path: (path.unlink(), path.mkdir())
    for name, do in spoil.items():
        shutil.copytree(tmp_path / "good", tmp_path / name)
        do(tmp_path / name / "result.json")
    events = tmp_path / "events"
    shutil.copytree(tmp_path / "good", events)
    next(events.glob("events.out*")).write_bytes(b"\x00\xff" * 500)
    runs, left_out = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["good"]
    assert len(left_out) == len(spoil) + 1
    compare([tmp_path], x="steps")
    printed = capsys.readouterr().out
    for name in (*spoil, "events"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"left out: {tmp_path / name}"))
        assert name == "events" or "result.json" in line
