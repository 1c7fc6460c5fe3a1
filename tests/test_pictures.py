"""Compares the figures of a run with rows and lines written by hand."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import config_of
from drawn import drawn, frame, lines
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from descent.drawing import legend, look, new_figure, png_of
from descent.run.train import train
from regression.plots import fit_over_data, paths_over_contours, predicted_against_actual

X, Y = np.array([3.0, 1.0, 2.0]), np.array([5.0, 2.0, 4.0])
AT_THE_EDGES = ["left", "bottom"]
QUIET = ("trainer.enable_progress_bar=false", "batch=full")


def test_the_fit_shows_the_rows_and_each_curve() -> None:
    ends = np.array([1.0, 3.0])
    curves = {"learned": (ends, 2.0 * ends + 1.0), "least squares": (ends, 1.5 * ends + 0.5)}
    figure = fit_over_data(X, Y, curves, ("a$b", "c$d"))
    assert frame(figure) == {
        **{"title": "", "size": (6.0, 4.0), "labels": (r"a\$b", r"c\$d"), "scales": ("linear", "linear")},
        **{"legend": ("", ["training rows", "learned", "least squares"]), "spines": AT_THE_EDGES},
    }
    assert lines(figure.axes[0]) == [
        ("training rows", "#999999", "None", ".", [(3.0, 5.0), (1.0, 2.0), (2.0, 4.0)]),
        ("learned", "#4477aa", "-", "None", [(1.0, 3.0), (3.0, 7.0)]),
        ("least squares", "#ee6677", "-", "None", [(1.0, 2.0), (3.0, 5.0)]),
    ]


def test_predictions_are_plotted_against_targets_with_a_diagonal_over_the_whole_range() -> None:
    parts = {"one": (Y, Y + 3.0), "other": (np.array([0.5, 6.0]), np.array([-1.0, 6.5]))}
    figure = predicted_against_actual(parts, "p$")
    axes = figure.axes[0]
    assert frame(figure) == {
        **{"title": "", "size": (5.0, 5.0), "labels": (r"actual p\$", r"predicted p\$")},
        **{"scales": ("linear", "linear"), "legend": ("", ["equal", "one", "other"]), "spines": AT_THE_EDGES},
    }
    assert axes.get_aspect() == 1.0
    assert lines(axes) == [
        ("equal", "#bbbbbb", "-", "None", [(-1.0, -1.0), (8.0, 8.0)]),
        ("one", "#4477aa", "None", ".", [(5.0, 8.0), (2.0, 5.0), (4.0, 7.0)]),
        ("other", "#ee6677", "None", ".", [(0.5, -1.0), (6.0, 6.5)]),
    ]


def contours(figure: Figure) -> tuple[list[float], list[Any]]:
    found: Any = figure.axes[0].collections[0]
    return list(found.levels), [path.vertices for path in found.get_paths()]


def test_paths_lie_over_the_contours_of_the_loss_around_the_optimum() -> None:
    hessian, center = [[2.0, 0.0], [0.0, 8.0]], [1.0, -1.0]
    ways = {"a$": np.array([[0.0, 0.0], [0.5, -0.5]]), "b": np.array([[3.0, 0.0], [1.0, 1.0]])}
    figure = paths_over_contours(ways, center, hessian, ("v$", "w$"))
    axes = figure.axes[0]
    assert frame(figure) == {
        **{"title": "", "size": (7.0, 5.0), "labels": (r"v\$", r"w\$"), "scales": ("linear", "linear")},
        **{"legend": ("", [r"a\$", "b", "least squares"]), "spines": AT_THE_EDGES},
    }
    assert lines(axes) == [
        (r"a\$", "#4477aa", "-", ".", [(0.0, 0.0), (0.5, -0.5)]),
        ("b", "#ee6677", "-", ".", [(3.0, 0.0), (1.0, 1.0)]),
        ("least squares", "#000000", "None", "*", [(1.0, -1.0)]),
    ]
    levels, curves = contours(figure)
    # the grid extends the longer range, 0 to 3, by 15% and is as high as wide, around 0 between -1 and 1
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, right, bottom, top) == (*map(pytest.approx, (-0.45, 3.45, -1.95, 1.95)),)
    assert axes.get_aspect() == 1.0
    highest = 0.5 * (2.0 * 2.45**2 + 8.0 * 2.95**2)  # at the corner farthest from the optimum
    assert levels[0] == pytest.approx(highest * 1e-4)
    assert levels[-1] == pytest.approx(highest)
    assert len(levels) == 13
    for level, points in zip(levels[-5:-1], curves[-5:-1], strict=True):
        v, w = points.T
        assert v.min() >= -0.45 - 1e-9 and v.max() <= 3.45 + 1e-9
        assert w.min() >= -1.95 - 1e-9 and w.max() <= 1.95 + 1e-9
        assert (v - 1) ** 2 + 4 * (w + 1) ** 2 == pytest.approx(level, rel=0.01)
    assert curves[-3][:, 0].max() - curves[-3][:, 0].min() > 1


def test_contours_follow_the_correlation_in_the_hessian() -> None:
    figure = paths_over_contours({"a": np.array([[-1.0, -1.0]])}, [0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]], ("v", "w"))
    levels, curves = contours(figure)
    v, w = curves[8].T
    assert v**2 + v * w + w**2 == pytest.approx(levels[8], rel=0.05)


def test_a_path_without_movement_or_curvature_is_drawn() -> None:
    still = paths_over_contours({"a": np.array([[1.0, 0.0]])}, [1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], ("v", "w"))
    (levels, _) = contours(still)
    assert levels[-1] == pytest.approx((0.65 * (1e-3 + 1e-9)) ** 2)  # at 1, a thousandth
    flat = paths_over_contours({"a": np.array([[0.0, 0.0], [1.0, 1.0]])}, [0.0, 0.0], [[0.0] * 2] * 2, ("v", "w"))
    assert len(flat.axes[0].collections) == 0
    assert [label for label, *_ in lines(flat.axes[0])] == ["a", "least squares"]


def test_the_first_24_lines_have_different_looks_in_this_order() -> None:
    colors = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000"]
    expected = [(color, style) for style in ("-", "--", ":") for color in colors]
    looks = [look(number) for number in range(25)]
    assert [(found["color"], found["linestyle"]) for found in looks] == [*expected, expected[0]]
    assert looks[24] == looks[0]


@pytest.mark.parametrize("first", [0, 8, 16])
def test_each_line_of_a_style_leaves_an_edge_of_those_below_it(first: int) -> None:
    widths = [look(first + number)["linewidth"] for number in range(8)]
    edges = [(below - above) / 2 / 72 * 110 for below, above in pairwise(widths)]  # in pixels of the report
    assert min(edges) > 0.25
    assert widths[-1] / 72 * 110 > 1  # the last is wider than a pixel


def test_a_line_below_another_with_the_same_points_is_seen() -> None:
    figure, axes = new_figure(3, 2)
    axes.set_axis_off()
    for number in range(2):
        axes.plot([0, 1], [0, 0], **look(number))
    pixels = plt.imread(io.BytesIO(png_of(figure, 200)))[:, 300, :3]
    red, _, blue = pixels.T
    assert (blue > red + 0.2).any() and (red > blue + 0.2).any()  # the first is blue, the second is red


def test_contours_fill_the_height_of_their_figure_however_long_the_path_is() -> None:
    for end in ([100.0, 30.0], [30.0, 100.0]):
        figure = paths_over_contours({"a": np.array([[0.0, 0.0], end])}, end, [[1.0, 0.0], [0.0, 2.0]], ("v", "w"))
        figure.draw_without_rendering()
        box = figure.axes[0].get_window_extent()
        assert box.width == pytest.approx(box.height)
        assert box.height > 0.8 * figure.bbox.height


def test_parameters_of_different_scales_have_axes_of_their_own() -> None:
    path = np.array([[0.0, 0.0], [100.0, 2e5]])
    (axes,) = paths_over_contours({"a": path}, [100.0, 2e5], [[1.0, 0.0], [0.0, 1.0]], ("weight", "bias")).axes
    assert axes.get_aspect() == "auto"
    assert axes.get_xlim() == pytest.approx((-15, 115)) and axes.get_ylim() == pytest.approx((-3e4, 2.3e5))


def test_a_png_has_the_given_size_and_takes_names_in_any_script() -> None:
    figure, axes = new_figure(3, 2)
    axes.set(xlabel="\u0b95\U0001f600")  # matplotlib's fonts lack these characters
    height, width, _ = plt.imread(io.BytesIO(png_of(figure, 50))).shape
    assert (width, height) == (150, 100)
    assert not plt.get_fignums()  # pyplot would keep the figures


def test_a_legend_is_beside_the_axes_and_inside_the_figure() -> None:
    figure, axes = new_figure()
    legend(axes, "nothing")
    assert axes.get_legend() is None
    axes.plot([1, 2], label="a name that is rather long")
    legend(axes, "title")
    figure.draw_without_rendering()
    found = axes.get_legend()
    assert found is not None
    box, inner = found.get_window_extent(), axes.get_window_extent()
    assert inner.x1 < box.x0 and box.x1 <= figure.bbox.x1
    assert (box.y0 + box.y1) / 2 == pytest.approx((inner.y0 + inner.y1) / 2, abs=1)
    assert {text.get_fontsize() for text in found.get_texts()} == {8.0}


ROWS = ("data=line", "data.inputs=[[1],[2],[3],[5],[8]]", "data.targets=[3,5,7,12,15]", "data.val_fraction=0.4")


@pytest.mark.parametrize("bias", [True, False])
def test_a_run_draws_predictions_fit_and_path_in_the_datas_own_units(bias: bool, tmp_path: Path) -> None:
    config = config_of(
        *QUIET, *ROWS, f"model.bias={str(bias).lower()}", "trainer.max_epochs=3", "data.standardize=true"
    )
    with drawn() as figures:
        result = train(config, tmp_path)
    assert result.parameters is not None and result.optimum is not None
    (weight,), own_bias = result.parameters["weight"], result.parameters["bias"] or 0.0
    assert [dpi for _, dpi in figures] == [100] * len(figures)
    predicted, fit, *path = [figure.axes[0] for figure, _ in figures]
    _, training, validation = lines(predicted)
    assert (training[0], validation[0]) == ("training rows", "validation rows")
    rows = {3.0: 1.0, 5.0: 2.0, 7.0: 3.0, 12.0: 5.0, 15.0: 8.0}  # target: input
    assert sorted(round(actual, 3) for *_, points in (training, validation) for actual, _ in points) == [*rows]
    assert (len(training[4]), len(validation[4])) == (3, 2)
    for actual, answer in (*training[4], *validation[4]):
        assert answer == pytest.approx(weight * rows[round(actual, 3)] + own_bias, abs=1e-5)
    assert predicted.get_xlabel() == "actual y"

    drawn_rows, learned, best = lines(fit)
    assert [rows[round(y, 3)] for _, y in drawn_rows[4]] == [pytest.approx(x) for x, _ in drawn_rows[4]]
    assert [y for _, y in drawn_rows[4]] == [y for y, _ in training[4]]
    assert [label for label, *_ in (learned, best)] == ["learned", "least squares"]
    assert {(line[4][0][0], line[4][-1][0]) for line in (learned, best)} == {  # from the smallest to the largest input
        (min(x for x, _ in drawn_rows[4]), max(x for x, _ in drawn_rows[4]))
    }
    for line, (w, b) in ((learned, (weight, own_bias)), (best, (result.optimum["weight"][0], result.optimum["bias"]))):
        assert line[4] == [(x, pytest.approx(w * x + (b or 0.0))) for x, _ in line[4]]
    assert (fit.get_xlabel(), fit.get_ylabel()) == ("x_1", "y")

    assert len(path) == (1 if bias else 0)
    for axes in path:
        way, star = lines(axes)
        assert way[0] == "this run"
        assert way[4][-1] == (pytest.approx(weight), pytest.approx(own_bias))
        assert len(way[4]) == 4 and way[4][0] != way[4][-1]
        assert star[4] == [(result.optimum["weight"][0], result.optimum["bias"])]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("weight of x_1", "bias")
    names = ["fit", "path", "predicted"] if bias else ["fit", "predicted"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [f"{name}.png" for name in names]

    events = EventAccumulator(str(tmp_path), size_guidance={IMAGES: 0})
    events.Reload()
    assert sorted(events.Tags()[IMAGES]) == [f"figures/{name}" for name in names]
    for name in names:
        (image,) = events.Images(f"figures/{name}")
        png = (tmp_path / f"figures/{name}.png").read_bytes()
        height, width, _ = plt.imread(io.BytesIO(png)).shape
        assert (image.encoded_image_string, image.width, image.height, image.step) == (png, width, height, 3)


def test_two_weights_without_a_bias_have_a_path_and_no_fit(tmp_path: Path) -> None:
    with drawn() as figures:
        train(config_of(*QUIET, "data=two_features", "model.bias=false", "trainer.max_epochs=2"), tmp_path)
    _, (path, _) = figures
    axes = path.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weight of x_1", "weight of x_2")
    assert lines(axes)[1][4] == [(pytest.approx(1.0), pytest.approx(1.0))]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["path.png", "predicted.png"]


@pytest.mark.parametrize(("rows", "shown"), [(2000, 2000), (2001, 1001), (4001, 1334)])
def test_only_every_second_or_third_of_many_rows_is_drawn(rows: int, shown: int, tmp_path: Path) -> None:
    fractions = ("data.val_fraction=0", "data.test_fraction=0")
    with drawn() as figures:
        train(config_of(*QUIET, f"data.num_samples={rows}", *fractions, "trainer.max_epochs=1"), tmp_path)
    ((figure, _),) = figures
    _, training = lines(figure.axes[0])  # there are no validation rows
    assert len(training[4]) == shown


def test_a_lengthened_run_is_drawn_again(tmp_path: Path) -> None:
    for epochs in (1, 3):
        with drawn() as figures:
            config = config_of(*QUIET, *ROWS, f"trainer.max_epochs={epochs}")
            train(config, tmp_path, resume=epochs > 1, longer=epochs > 1)
        way, _ = lines(figures[-1][0].axes[0])
        assert len(way[4]) == epochs + 1
    events = EventAccumulator(str(tmp_path), size_guidance={IMAGES: 0})
    events.Reload()
    assert events.Images("figures/path")[-1].step == 3


@pytest.mark.parametrize(
    ("without", "names", "labels", "note"),
    [
        ("optimum", ["fit", "predicted"], ["training rows", "learned"], ""),
        ("parameters", [], [], "note: Figures failed: figures=true needs callbacks.parameters"),
    ],
)
def test_figures_without_another_callback_show_what_is_known(
    without: str, names: list[str], labels: list[str], note: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    csv = f"+logger={{csv: {{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: '{tmp_path}/csv'}}}}"
    with drawn() as figures:
        train(config_of(*QUIET, *ROWS, csv, f"~callbacks.{without}", "trainer.max_epochs=1"), tmp_path / "run")
    directory = tmp_path / "run/figures"
    assert sorted(path.stem for path in directory.glob("*")) == names
    if names:
        assert [label for label, *_ in lines(figures[1][0].axes[0])] == labels
    assert [line for line in caplog.messages if "Figures" in line] == ([note] if note else [])


def test_each_row_of_two_features_has_its_own_prediction(tmp_path: Path) -> None:
    rows = ("data=line", "data.inputs=[[1,10],[2,-3],[3,5],[5,0]]", "data.targets=[3,5,7,12]", "data.val_fraction=0")
    with drawn() as figures:
        result = train(config_of(*QUIET, *rows, "trainer.max_epochs=1"), tmp_path)
    assert result.parameters is not None
    (one, other), bias = result.parameters["weight"], result.parameters["bias"]
    (figure, _), *_ = figures
    inputs = {3.0: (1, 10), 5.0: (2, -3), 7.0: (3, 5), 12.0: (5, 0)}
    points = lines(figure.axes[0])[1][4]
    assert sorted(round(actual, 3) for actual, _ in points) == [*inputs]
    for actual, predicted in points:
        first, second = inputs[round(actual, 3)]
        assert predicted == pytest.approx(one * first + other * second + bias, abs=1e-5)
