"""Tests what a comparison's figures show, by their lines and texts, from hand-written results."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import drawn, frame, lines
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_compare_by_hand import LOSS, compare, run_of, runs_of, write

from descent.compare import ranking
from descent.compare.extra import Curve, Extra
from descent.compare.plots import curve_over, heat_map, learning_rates
from descent.compare.settings import Setting, settings_of
from descent.config.metric import Metric
from regression.comparison import EXCESS


def axes_of(figure: Figure | None) -> Axes:
    assert figure is not None
    return figure.axes[0]


def points_of(axes: Axes) -> list[list[tuple[float, float]]]:
    """The points of each line that has more than one."""
    lines = ([(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)] for line in axes.lines)
    return [line for line in lines if len(line) > 1]


def test_the_curve_of_a_setting_is_the_geometric_mean_as_far_as_all_its_seeds_go() -> None:
    long, short = run_of([16.0, 8.0, 4.0, 2.0]), run_of([4.0, 2.0], seed=1)
    (line,) = points_of(axes_of(curve_over(settings_of([long, short]), EXCESS, "steps")))
    assert line == [(0.0, pytest.approx(8.0)), (10.0, pytest.approx(4.0))]


def test_the_mean_of_seeds_that_were_logged_at_different_steps_is_of_those_that_all_of_them_have_come_to() -> None:
    early, late = run_of([4.0, 4.0, 4.0], every=10), run_of([16.0, 16.0], every=10, seed=1)
    steps, values = late.curves["optimum/excess_loss"]
    late.curves["optimum/excess_loss"] = steps + 5, values  # at 5 and 15
    (line,) = points_of(axes_of(curve_over(settings_of([early, late]), EXCESS, "steps")))
    assert line == [(step, pytest.approx(8.0)) for step in (5.0, 10.0, 15.0)]


def test_learning_rates_are_compared_by_the_seeds_that_all_of_them_have() -> None:
    runs = [*runs_of(0.1, [1.0, 3.0, 50.0]), *runs_of(0.2, [4.0, 6.0]), *runs_of(0.4, [8.0, None, 2.0])]
    axes = axes_of(learning_rates(settings_of(runs), settings_of(runs), LOSS))
    (line,) = points_of(axes)
    assert line == [(0.1, 2.0), (0.2, 5.0), (0.4, 8.0)]
    (cross,) = (line for line in axes.lines if line.get_marker() == "x")
    assert cross.get_xdata() == [0.4]


def test_a_cell_of_the_heat_map_is_the_reported_metric_of_the_setting_that_was_chosen_by_the_other() -> None:
    runs = []
    for optimizer, size, losses in (
        ("sgd", 8, {0.1: (1.0, 40.0), 0.2: (2.0, 30.0)}),  # validation chooses the first rate, a test the second
        ("sgd", None, {0.1: (3.0, 20.0)}),
        ("adam", 8, {0.1: (5.0, None)}),
    ):
        for lr, (val, test) in losses.items():
            metrics = {"val/loss": val, "test/loss": test}
            status = "completed" if test is not None else "diverged"
            hparams: dict[str, Any] = {"optimizer": optimizer, "batch.size": size, "optimizer.lr": lr}
            runs.append(run_of(hparams=hparams, metrics=metrics, status=status))
    axes = axes_of(heat_map(settings_of(runs), LOSS, Metric("test/loss", "min")))
    columns, rows = (
        [text.get_text() for text in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    cells = {(rows[int(t.get_position()[1])], columns[int(t.get_position()[0])]): t.get_text() for t in axes.texts}
    assert cells == {
        **{("sgd", "8"): "40", ("sgd", "full"): "20"},
        **{("adam", "8"): "diverged", ("adam", "full"): "no run"},
    }


def test_the_lines_of_a_figure_come_in_the_order_of_the_ranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr("descent.compare.ranking.png_of", lambda figure, dpi: figures.append(figure) or b"")
    for lr, loss in ((0.1, 2.0), (0.2, 3.0), (0.3, 1.0)):
        write(tmp_path / str(lr), hparams={"optimizer.lr": lr}, metrics={"val/loss": loss})
    compare([tmp_path], x="steps")
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["lr=0.3", "lr=0.1", "lr=0.2"]


def test_a_cell_of_the_heat_map_chosen_by_r2_is_of_the_setting_with_the_largest() -> None:
    runs = []
    for optimizer, size in (("sgd", 8), ("sgd", None), ("adam", 8), ("adam", None)):
        for lr, (val, test) in {0.1: (0.5, 0.2), 0.2: (0.9, 0.7), 0.3: (-1.0, 0.1)}.items():
            hparams: dict[str, Any] = {"optimizer": optimizer, "batch.size": size, "optimizer.lr": lr}
            runs.append(run_of(hparams=hparams, metrics={"val/r2": val, "test/r2": test}))
    axes = axes_of(heat_map(settings_of(runs), Metric("val/r2", "max"), Metric("test/r2", "max")))
    assert [text.get_text() for text in axes.texts] == ["0.7"] * 4


def test_no_figure_of_an_earlier_comparison_stays(tmp_path: Path) -> None:
    earlier = ("excess_over_seconds", "learning_rates", "heat_map", "paths", "clipped", "contraction")
    (tmp_path / "compare").mkdir()
    for name in earlier:
        (tmp_path / f"compare/{name}.png").write_bytes(b"earlier")
    write(tmp_path / "run", hparams={"batch.size": 8}, metrics={"val/loss": 1.0})
    out = compare([tmp_path], x="steps")
    assert [path.name for path in out.glob("*.png")] == ["excess_over_steps.png"]


def test_the_report_says_the_target_in_percent(tmp_path: Path) -> None:
    write(tmp_path / "run", metrics={"val/loss": 1.0})
    page = (compare([tmp_path], x="steps", target=0.05) / "report.html").read_text()
    assert "at most 5% above the optimum" in page


def test_names_are_written_as_they_are_and_points_that_are_not_finite_are_left_out() -> None:
    runs = [run_of(hparams={"optimizer": optimizer}) for optimizer in ("s$", "other")]
    for run, last in zip(runs, (-1.0, float("inf")), strict=True):
        run.curves["a"] = np.arange(5) * 10, np.array([np.nan, 1.0, np.inf, 3.0, last])
    figure = curve_over(settings_of(runs), Curve("a", "max", "a$b$"), "steps")
    assert figure is not None
    written = frame(figure)
    assert written["title"] == "a$b$ over optimizer steps"
    assert (written["labels"], written["legend"]) == (("optimizer steps", r"a\$b\$"), ("", [r"s\$", "other"]))
    figure.draw_without_rendering()  # the title is not parsed as mathematics
    found = [points for *_, points in lines(figure.axes[0])]
    assert found == [[(10.0, 1.0), (30.0, 3.0), (40.0, -1.0)], [(10.0, 1.0), (30.0, 3.0)]]


def test_a_run_of_a_seed_that_is_not_shared_has_no_cross() -> None:
    runs = [*runs_of(0.1, [1.0]), *runs_of(0.2, [2.0, None])]
    figure = learning_rates(settings_of(runs), settings_of(runs), LOSS)
    assert figure is not None
    assert frame(figure)["legend"] == ("", ["sgd"])
    assert [line[3:] for line in lines(figure.axes[0])] == [("o", [(0.1, 1.0), (0.2, 2.0)])]


def test_a_heat_map_of_r2_chosen_by_the_loss_says_both_and_has_the_direction_of_r2() -> None:
    runs = []
    for optimizer, size, r2 in (("sgd", 8, 0.5), ("sgd", None, 0.25), ("adam", 8, 0.75), ("adam", None, 1.0)):
        for lr, loss in ((0.1, 1.0), (0.2, 2.0)):
            hparams: dict[str, Any] = {"optimizer": optimizer, "batch.size": size, "optimizer.lr": lr}
            runs.append(run_of(hparams=hparams, metrics={"val/loss": loss, "val/r2": r2 * loss}))
    figure = heat_map(settings_of(runs), LOSS, Metric("val/r2", "max"))
    assert figure is not None
    axes, bar = figure.axes
    assert frame(figure)["title"] == "val/r2 by optimizer and batch size, of each cell's best setting by val/loss"
    assert bar.get_ylabel() == "-val/r2"
    assert axes.images[0].get_array().tolist() == [[-0.75, -1.0], [-0.5, -0.25]]  # type: ignore[union-attr]
    assert axes.get_aspect() == "auto"
    texts = {(t.get_horizontalalignment(), t.get_verticalalignment(), t.get_fontsize()) for t in axes.texts}
    assert texts == {("center", "center", 8.0)}


def test_a_comparison_chooses_the_cells_by_validation_and_shows_a_projects_figures_of_the_best_settings(
    tmp_path: Path,
) -> None:
    for number, (optimizer, size, lr) in enumerate(
        (("sgd", 8, 0.1), ("sgd", None, 0.1), ("adam", 8, 0.1), ("adam", None, 0.1), ("sgd", 8, 0.2))
    ):
        hparams = {"optimizer": optimizer, "batch.size": size, "optimizer.lr": lr}
        write(tmp_path / str(number), hparams=hparams, metrics={"val/loss": 5.0 - number, "test/loss": 1.0 + number})
    seen: list[list[str]] = []

    def own(settings: Sequence[Setting]) -> Figure:
        seen.append([setting.name for setting in settings])
        return Figure(figsize=(1, 1))  # without a title or a caption

    extra = Extra(figures={"one": own, "other": own, "none": lambda settings: None})
    with drawn() as figures:
        out = ranking.compare([tmp_path], ["optimizer"], "steps", extra=extra)
    assert [figure.get_suptitle() for figure, _ in figures] == [
        "val/loss over the learning rate; crosses: runs that diverged",
        "test/loss by optimizer and batch size, of each cell's best setting by val/loss",
        *("", ""),
    ]
    assert [text.get_text() for text in figures[1][0].axes[0].texts] == ["3", "4", "5", "2"]
    assert seen == [["adam, lr=0.1, batch.size=full", "sgd, lr=0.2, batch.size=8"]] * 2
    page = (out / "report.html").read_text()
    titles = re.findall('<img alt="([^"]*)"', page)
    assert titles == [*(figure.get_suptitle().replace("'", "&#x27;") for figure, _ in figures[:2]), "one", "other"]
    assert (page.count("<figure>"), page.count("<figcaption>")) == (4, 2)
    assert sorted(path.stem for path in out.glob("*.png")) == ["heat_map", "learning_rates", "one", "other"]
