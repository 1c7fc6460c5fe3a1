"""Tests comparisons and summaries of a project other than regression: a classifier, by accuracy."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import needs_sweep
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from descent.compare.extra import Curve, Extra
from descent.compare.plots import scale_of
from descent.compare.ranking import compare
from descent.errors import UserError
from regression.comparison import EXTRA

ACCURACY = {"metric": "val/acc", "mode": "max"}
CURVE = [(0, 0.1), (40, 0.5), (80, 0.9)]


def write(run_dir: Path, accuracy: float | None, curve: list[tuple[int, float]] | None = None, **given: Any) -> None:
    """Writes ``result.json`` and the points of ``val/acc`` for a run of 80 steps and 640 samples.

    Its data have no checksum, and its batch size and learning rate are unknown.
    """
    run_dir.mkdir(parents=True)
    loss = None if accuracy is None else accuracy + 1  # the best by accuracy is the worst by loss
    found = {"val/acc": accuracy, "train/acc": 1.0, "test/acc": None if accuracy is None else accuracy - 0.01}
    hparams = {"data._target_": "digits.Digits", "model._target_": "digits.Net", "model.width": 8}
    result: dict[str, Any] = {
        **{"status": "completed", "reason": None, "stopped": None, "seed": 0, "monitor": ACCURACY},
        **{"steps": 80, "epochs": 2, "samples": 640, "gradient_evaluations": 80, "seconds": 1.0},
        **{"best": {"step": 80, "metric": "val/acc", "value": accuracy}, "rows": {}, "checksum": None},
        **{"features": [], "target": "", "predictions": [], "parameters": None, "optimum": None},
        "metrics": found | {"val/loss": loss, "val/f1": accuracy} | given.pop("metrics", {}),
        "hparams": hparams | given.pop("hparams", {}),
    }
    (run_dir / "result.json").write_text(json.dumps(result | given))
    writer = EventFileWriter(str(run_dir))
    for step, value in curve or CURVE:
        for tag, point in (("val/acc", value), ("val/f1", value / 2), ("train/seconds", step / 80)):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=point)])
            writer.add_event(Event(step=step, wall_time=float(step), summary=summary))
    writer.close()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three widths; the best accuracy is neither the first nor the last."""
    for width, accuracy in ((4, 0.7), (8, 0.9), (16, 0.8)):
        write(tmp_path / f"width={width}", accuracy, hparams={"model.width": width})
    return tmp_path


def table_in(out: Path) -> pl.DataFrame:
    return pl.read_csv(out / "settings.csv")


def ranking(out: Path) -> list[str]:
    return table_in(out)["setting"].to_list()


def figures_in(out: Path) -> set[str]:
    return {path.stem for path in out.glob("*.png")}


BEST_FIRST = [f"model.width={width}" for width in (8, 16, 4)]


@pytest.mark.parametrize(("metric", "mode"), [("", ""), ("val/acc", ""), ("test/acc", ""), ("val/f1", "max")])
def test_the_largest_accuracy_is_first(metric: str, mode: str, study: Path) -> None:
    out = compare([study], metric=metric, mode=mode)
    assert ranking(out) == BEST_FIRST
    assert table_in(out)[f"{metric or 'val/acc'} mean"].is_sorted(descending=True)


def test_the_mode_that_is_given_ranks_another_metric(study: Path) -> None:
    assert ranking(compare([study], metric="val/loss", mode="min")) == [*reversed(BEST_FIRST)]
    assert ranking(compare([study], metric="val/loss", mode="max")) == BEST_FIRST


def test_a_metric_of_which_nobody_says_what_is_best_is_refused_in_a_line(study: Path) -> None:
    with pytest.raises(UserError, match=r"--metric val/loss must come with --mode min or --mode max") as error:
        compare([study], metric="val/loss")
    assert "acc (max)" in str(error.value) and "\n" not in str(error.value)
    assert not (study / "compare").exists()


def test_with_a_group_validation_chooses_and_the_same_of_the_test_is_reported(tmp_path: Path) -> None:
    for depth, width, val, test in ((1, 4, 0.9, 0.5), (1, 8, 0.8, 0.7), (2, 4, 0.6, 0.95)):
        hparams = {"model.depth": depth, "model.width": width}
        write(tmp_path / f"{depth}-{width}", val, hparams=hparams, metrics={"test/acc": test})
    table = table_in(compare([tmp_path], ["model.depth"]))
    assert table["test/acc mean"].to_list() == [0.95, 0.5]
    assert set(table["chosen by"]) == {"val/acc"}
    assert table["best val/acc mean"].to_list() == [0.6, 0.9]


def test_figures_and_columns_are_of_the_metric_and_of_nothing_that_the_runs_do_not_have(study: Path) -> None:
    for extra in (Extra(), EXTRA):  # the example's figures are for its own runs only
        out = compare([study], extra=extra)
        assert figures_in(out) == {f"metric_over_{axis}" for axis in ("steps", "seconds")}
        for axis in ("samples", "gradient_evaluations"):  # as many each step, so that its figure looks like steps
            assert figures_in(compare([study], x=axis, extra=extra)) == {f"metric_over_{axis}"}
        titles = ["setting", "runs", "diverged", "chosen by", "reported", "val/acc mean", "val/acc deviation"]
        assert table_in(out).columns == [*titles, "best val/acc mean", "best val/acc deviation"]


def test_the_curve_of_an_accuracy_is_its_mean_on_an_axis_that_is_not_logarithmic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def png_of(figure: Figure, dpi: int) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr("descent.compare.ranking.png_of", png_of)
    for seed, last in enumerate((0.5, 0.9)):
        write(tmp_path / str(seed), last, [(0, 0.1), (80, last)], seed=seed)
    compare([tmp_path], x="samples")
    (axes,) = drawn[0].axes
    (line,) = axes.lines
    assert np.asarray(line.get_xydata()) == pytest.approx(np.array([[0, 0.1], [640, 0.7]]))
    assert (axes.get_ylabel(), axes.get_yscale()) == ("val/acc", "linear")


def test_what_a_class_gets_by_interpolation_is_no_setting_of_its_own(tmp_path: Path) -> None:
    for lr, size in ((0.1, 8), (0.2, 8), (0.1, 16)):
        optimizer = {"_target_": "torch.optim.SGD", "lr": lr}
        hparams = {"optimizer": "sgd", "optimizer.lr": lr, "batch.size": size, "model.optimizer": optimizer}
        hparams |= {"data.batch_size": size, "callbacks.mine.optimizer": optimizer, "logger.mine.rate": lr}
        write(tmp_path / f"{lr}-{size}", lr + size, hparams=hparams)
    out = compare([tmp_path])
    assert ranking(out) == ["lr=0.1, batch.size=16", "lr=0.2, batch.size=8", "lr=0.1, batch.size=8"]
    assert "learning_rates" in figures_in(out)


def test_a_curve_that_begins_at_its_target_is_as_fine_as_its_first_point(tmp_path: Path) -> None:
    write(tmp_path / "run", 0.9, [(40, 0.8), (80, 0.9)])
    assert table_in(compare([tmp_path], target=0.8))["steps between points"].to_list() == [40]


def test_the_time_to_an_accuracy_is_that_of_the_first_point_at_or_above_it(tmp_path: Path) -> None:
    write(tmp_path / "fast", 0.9, [(0, 0.1), (20, 0.75), (80, 0.9)], hparams={"model.width": 4})
    write(tmp_path / "slow", 0.8, [(0, 0.1), (20, 0.74), (80, 0.8)], hparams={"model.width": 8})
    write(tmp_path / "never", 0.7, [(0, 0.1), (80, 0.74)], hparams={"model.width": 16})
    table = table_in(compare([tmp_path], target=0.75))
    assert table["steps to target"].to_list() == [20, 80, None]
    assert table["samples to target"].to_list() == [160, 640, None]
    assert table["seconds to target"].to_list() == [0.25, 1.0, None]
    assert table["gradient_evaluations to target"].to_list() == [20, 80, None]  # one each step, so without a curve
    assert table["missed"].to_list() == [0, 0, 1]
    assert table["steps between points"].to_list() == [20, 60, None]


def test_the_target_may_be_of_another_metric_than_the_reported_one(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"target_metric": "val/acc", "target": 0.9}
    out = compare([study], metric="val/f1", mode="max", **arguments)
    assert table_in(out)["steps to target"].to_list() == [80, 80, 80]
    assert "target: val/acc of at least 0.9" in capsys.readouterr().out
    assert "target: val/acc of at least 0.9" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_metric": "val/acc"}, "--target must be a value of val/acc, got null"),
        ({"target": float("nan")}, "--target must be a number, got nan"),
        ({"target": 0.9, "metric": "val/loss", "mode": "min"}, "--target-metric must be one that has a curve"),
        ({"target": 0.9, "target_metric": "val/f1"}, "--metric val/f1 must come with --mode"),
        ({"metric": "val/accuracy"}, "--metric must be one of test/acc, train/acc, val/acc, val/f1, val/loss, got"),
    ],
    ids=str,
)
def test_a_target_or_metric_that_cannot_be_is_refused(arguments: dict[str, Any], message: str, study: Path) -> None:
    with pytest.raises(UserError, match=message):
        compare([study], **arguments)


def test_runs_of_different_monitors_are_compared_by_what_is_given_only(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(study / "other", 0.85, monitor={"metric": "val/loss", "mode": "min"}, hparams={"model.width": 32})
    some: list[dict[str, Any]] = [{}, {"metric": "val/acc"}, {"mode": "max"}]
    for given in some:
        with pytest.raises(
            UserError,
            match=rf"--metric and --mode.*: val/acc \(max\) in {study}/width=16, val/loss \(min\) in {study}/other$",
        ):
            compare([study], **given)
    assert ranking(compare([study], metric="val/acc", mode="max"))[1] == "model.width=32"
    assert "the runs' monitors differ: val/acc, val/loss" in capsys.readouterr().out


def test_runs_without_a_checksum_belong_together_by_the_settings_of_their_data(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(study / "augmented", 0.99, hparams={"data.augment": True})
    write(study / "batches", 0.6, hparams={"data.batch_size": 64, "data.num_workers": 2})  # the same rows
    out = compare([study])
    assert ranking(out)[0].startswith("model.width=8") and len(ranking(out)) == 4
    printed = capsys.readouterr().out
    assert f"left out: {study / 'augmented'}: another data set (by its data.augment)" in printed
    assert "runs without a checksum of their data are compared if their data settings are the same" in printed


def test_a_run_without_an_event_file_is_ranked_and_in_no_curve(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("descent.compare.ranking.png_of", lambda figure, dpi: drawn.append(figure) or b"")
    note = "runs without a TensorBoard event file, in the tables but not in the figures of curves: "
    compare([study], x="steps", target=0.9)
    assert note not in capsys.readouterr().out
    events = next((study / "width=8").glob("events.out*"))
    events.unlink()  # of the best run
    table = table_in(compare([study], x="steps", target=0.9))
    assert table["setting"].to_list() == BEST_FIRST
    assert table["at target"].to_list() == [0, 1, 1] and table["missed"].to_list() == [0, 0, 0]
    assert [line.get_label() for line in drawn[-1].axes[0].lines] == BEST_FIRST[1:]
    printed = capsys.readouterr().out
    assert f"{note}1\n" in printed and "left out" not in printed
    assert "0/0" not in printed  # it has no share
    assert [line.split()[-2] for line in printed.splitlines() if "1/1" in line] == ["1/1", "1/1"]
    assert "runs without a curve of val/acc, which neither reached the target nor missed it: 1\n" in printed
    write(study / "diverged", None, status="diverged", hparams={"model.width": 32})
    next((study / "diverged").glob("events.out*")).unlink()
    assert table_in(compare([study], x="steps", target=0.9))["missed"].to_list() == [0, 0, 0, 1]
    assert "nor missed it: 1\n" in capsys.readouterr().out
    shutil.rmtree(study / "diverged")
    events.write_bytes(b"")
    assert ranking(compare([study])) == BEST_FIRST[1:]
    assert "width=8: its event file is broken: it has no points\n" in capsys.readouterr().out


def test_an_event_file_below_a_runs_directory_is_another_loggers_and_no_run(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(study / "width=8", study / "width=8/lightning_logs/version_0")
    (study / "width=8/lightning_logs/version_0/result.json").unlink()
    assert ranking(compare([study])) == BEST_FIRST
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "first"), [("max", "model.width=16"), ("min", "model.width=4")])
def test_a_run_without_the_metric_ranks_like_a_diverged_one_and_is_not_called_diverged(
    mode: str, first: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(study / "again", None, hparams={"model.width": 8}, seed=1)  # not finite at the end
    ranked = "ranked by the share of runs that {}, then by the others' mean of val/acc after the last step, the"
    assert ranking(compare([study], metric="val/acc", mode=mode))[::2] == [first, "model.width=8"]
    printed = capsys.readouterr().out
    assert ranked.format("have no val/acc") in printed
    assert "runs that did not diverge and have no val/acc: 1\n" in printed
    write(study / "diverged", None, status="diverged", hparams={"model.width": 4}, seed=1)
    compare([study], ["model.width"], metric="test/acc", mode=mode)
    printed = capsys.readouterr().out
    names = "test/acc", "val/acc"
    assert [printed.count(f"runs that did not diverge and have no {name}: 1\n") for name in names] == [1, 1]
    compare([study / "diverged", study / "width=8"], metric="val/acc", mode=mode)
    assert ranked.format("diverged") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("samples", "arguments", "said"),
    [
        *((640, {}, False), (630, {}, True), (630, {"x": "samples"}, True), (630, {"x": "steps"}, False)),
        *((0, {}, False), (320, {}, False)),
    ],
)
def test_samples_that_are_an_average_are_labelled_as_such(
    samples: int, arguments: dict[str, Any], said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", 0.9, samples=samples)
    write(tmp_path / "other", 0.8, samples=1280, hparams={"model.width": 4})
    compare([tmp_path], **arguments)
    note = "some batches are smaller: the samples axis uses the average batch size"
    assert (note in capsys.readouterr().out) == said


def test_a_copy_of_a_run_does_not_count(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(study / "width=8", study / "copied")
    assert table_in(compare([study]))["runs"].to_list() == [1, 1, 1]
    assert f"left out: {study / 'width=8'}: a copy of {study / 'copied'}" in capsys.readouterr().out


@needs_sweep
def test_the_summary_ranks_by_the_monitor_and_names_what_did_not_complete(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from descent.sweep.summary import summarize

    write(study / "width=64", None, status="diverged", reason="it is not finite", hparams={"model.width": 64})
    (study / "width=128/.hydra").mkdir(parents=True)
    summarize(study)
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if "val/acc" in line)
    assert lines[header].split() == ["run", "val/acc", "train/acc", "test/acc", "steps", "seconds"]
    rows = [line.split()[0] for line in lines[header + 2 : header + 6]]
    assert rows == ["width=8", "width=16", "width=4", "width=64"]
    assert "width=64 diverged: it is not finite" in lines
    assert f"left out: {study / 'width=128'} has no result.json" in lines


def test_a_projects_own_curve_is_drawn_and_that_of_a_metric_that_is_asked_for_beside_it(study: Path) -> None:
    extra = Extra(curve=Curve("val/f1", "max", "F1", "f1", target=0.4))
    out = compare([study], x="steps", extra=extra)
    assert figures_in(out) == {"f1_over_steps"}
    assert table_in(out)["steps to target"].to_list() == [80] * 3
    assert figures_in(compare([study], x="steps", metric="val/acc", extra=extra)) == {
        "f1_over_steps",
        "metric_over_steps",
    }
    assert figures_in(compare([study], x="seconds", extra=extra)) == {"f1_over_seconds"}


def test_only_the_split_is_no_part_of_a_metrics_name(tmp_path: Path) -> None:
    write(tmp_path / "run", 0.9, metrics={"teacher/acc": 0.1})
    with pytest.raises(UserError, match="--metric teacher/acc must come with --mode"):
        compare([tmp_path], metric="teacher/acc")


@pytest.mark.parametrize(
    ("mode", "values", "scale"),
    [
        *(("min", [0.0, 2.0, float("nan")], "log"), ("min", [-1.0, 2.0], "linear"), ("max", [1.0, 2.0], "linear")),
        *(("min", [0.0], "linear"), ("min", [], "linear")),
    ],
)
def test_an_axis_is_logarithmic_for_what_is_best_near_0_and_never_negative(
    mode: str, values: list[float], scale: str
) -> None:
    assert scale_of(mode, values) == scale
