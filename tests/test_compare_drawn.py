"""Tests every label, line and point of a comparison's figures, from hand-written curves."""

from collections.abc import Sequence
from math import nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import drawn, frame, lines
from matplotlib.figure import Figure
from test_compare_by_hand import LOSS, OPTIMUM, compare, run_of, runs_of, write

from descent.compare.extra import Curve
from descent.compare.plots import CLIPPED, curve_over, heat_map, learning_rates, new_axes
from descent.compare.runs import Run
from descent.compare.settings import settings_of
from descent.config.metric import Metric
from regression.comparison import EXCESS, paths

WIDE = {"size": (7.5, 4.0), "spines": ["left", "bottom"]}
BLUE, RED, GREEN = "#4477aa", "#ee6677", "#228833"
R2 = Metric("val/r2", "max")
BAND = "band: range over seeds"


def rates(*runs: tuple[float, Sequence[float]], **given: Any) -> list[Run]:
    return [run_of(excess, hparams={"optimizer.lr": lr}, **given) for lr, excess in runs]


def figure_of(figure: Figure | None) -> Any:
    assert figure is not None
    return figure


def test_the_loss_above_the_optimum_is_a_mean_with_the_range_of_the_seeds() -> None:
    first = run_of([16.0, 4.0, 1.0, 0.0], every=10)
    runs = [first, run_of([4.0, 1.0], every=20, seed=1), run_of([99.0, 99.0], seed=2, status="diverged")]
    runs += [run_of([7.0], seed=3), *rates((0.2, [9.0, 3.0]), (0.3, [5.0]), (0.4, []))]
    runs += rates((0.5, [8.0, 9.0]), status="diverged")
    figure = figure_of(curve_over(settings_of(runs), EXCESS, "steps"))
    assert frame(figure) == {
        **{
            "title": f"training loss above the optimum over optimizer steps; line: geometric mean, {BAND}",
            **WIDE,
        },
        **{"labels": ("optimizer steps", "training loss above the optimum"), "scales": ("linear", "log")},
        "legend": ("", ["lr=0.1", "lr=0.2"]),
    }
    (axes,) = figure.axes
    assert lines(axes) == [
        *(
            (
                "lr=0.1",
                BLUE,
                "-",
                "None",
                [(0, pytest.approx(8)), (10, pytest.approx(sqrt(8))), (20, pytest.approx(1))],
            ),
        ),
        *(("lr=0.2", RED, "-", "None", [(0, pytest.approx(9)), (10, pytest.approx(3))]),),
    ]
    (band,) = axes.collections
    assert {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices} == {
        *((0, 4), (10, 2), (20, 1)),
        *((0, 16), (10, 4)),
    }
    assert band.get_facecolor()[0].tolist() == pytest.approx([0x44 / 255, 0x77 / 255, 0xAA / 255, 0.2])


@pytest.mark.parametrize(("number", "title"), [(12, ""), (13, "the best 12 of 13")])
def test_the_best_twelve_settings_are_drawn(number: int, title: str) -> None:
    runs = rates(*((0.5 + k, [2.0, 1.0]) for k in range(number)))
    figure = figure_of(curve_over(settings_of(runs), EXCESS, "samples"))
    assert len(lines(figure.axes[0])) == 12
    assert frame(figure)["legend"] == (title, [f"lr={0.5 + k}" for k in range(12)])
    assert frame(figure)["labels"][0] == "samples seen"


def test_without_a_curve_there_is_no_figure() -> None:
    runs = [*rates((0.1, []), (0.2, [])), *rates((0.3, [2.0, 1.0]), status="diverged")]
    settings = settings_of(runs)
    assert [curve_over(settings, curve, "steps") for curve in (EXCESS, CLIPPED)] == [None, None]
    assert paths(settings) is None


def test_sensitivity_to_the_rate_is_a_line_for_each_optimizer_that_has_two_rates() -> None:
    runs = [
        *(*runs_of(0.2, [4.0, None], optimizer="sgd"), *runs_of(0.1, [2.0, 4.0], optimizer="sgd")),
        *(*runs_of(0.3, [5.0], optimizer="a$"), *runs_of(0.1, [7.0], first_seed=7, optimizer="a$")),
        *(*runs_of(0.1, [1.0], optimizer="one"), *runs_of(0.2, [None], optimizer="c")),
        *runs_of(0.1, [6.0], optimizer="c"),
        run_of(hparams={"optimizer": "lbfgs", "optimizer.lr": None}, metrics={"val/loss": 1.0}),
    ]
    every = settings_of(runs)
    figure = figure_of(learning_rates(every, [every[-2], every[0]], LOSS))
    assert frame(figure) == {
        **{"title": "val/loss over the learning rate; crosses: runs that diverged", **WIDE},
        **{"labels": ("learning rate", "val/loss"), "scales": ("log", "log")},
        "legend": ("x: diverged", ["c", "sgd", r"a\$"]),
    }
    found = lines(figure.axes[0])
    crosses = [line[1:] for line in found if line[3] == "x"]
    assert [(color, points[0][0], pytest.approx(points[0][1])) for color, _, _, points in crosses] == [
        *((BLUE, 0.2, 0.97), (RED, 0.2, 0.935))
    ]
    (across, up), *_ = [
        line.get_transform().transform((0.2, 0.5)) for line in figure.axes[0].lines if line.get_marker() == "x"
    ]
    assert (across, up) == tuple(figure.axes[0].get_xaxis_transform().transform((0.2, 0.5)))
    assert [line for line in found if line[3] == "o"] == [
        ("c", BLUE, "-", "o", [(0.1, 6.0), (0.2, pytest.approx(nan, nan_ok=True))]),
        ("sgd", RED, "-", "o", [(0.1, 3.0), (0.2, 4.0)]),
        (r"a\$", GREEN, "-", "o", [(0.1, 7.0), (0.3, 5.0)]),
    ]


def test_where_only_the_rate_differs_the_line_has_the_optimizers_name_and_r2_a_linear_scale() -> None:
    runs = [run_of(hparams={"optimizer.lr": lr}, metrics={"val/r2": lr, "val/loss": 0.0}) for lr in (0.1, 0.2)]
    every = settings_of(runs)
    r2, zero = (figure_of(learning_rates(every, every, metric)) for metric in (R2, LOSS))
    assert frame(r2)["legend"] == ("", ["sgd"])
    assert frame(r2)["scales"] == ("log", "linear") == frame(zero)["scales"]  # log(0) does not exist
    assert learning_rates(every[:1], every[:1], R2) is None


def test_lines_of_rates_end_at_twelve_and_crosses_of_eight_lines_stand_in_rows() -> None:
    runs = [run for k in range(13) for lr in (0.1, 0.2) for run in runs_of(lr, [1.0, None], optimizer=f"o{k:02}")]
    every = settings_of(runs)
    figure = figure_of(learning_rates(every, every, LOSS))
    assert frame(figure)["legend"][1] == [f"o{k:02}" for k in range(12)]
    heights = [points[0][1] for _, _, _, marker, points in lines(figure.axes[0]) if marker == "x"]
    assert heights[::2] == [pytest.approx(0.97 - 0.035 * (k % 8)) for k in range(12)]


def grid(cells: dict[tuple[str, int | None], Any], metric: str = "val/loss") -> list[Run]:
    return [
        run_of(
            hparams={"optimizer": optimizer, "batch.size": size},
            metrics={metric: value},
            status="completed" if value is not None else "diverged",
        )
        for (optimizer, size), value in cells.items()
    ]


def test_the_heat_map_has_its_sizes_in_order_and_light_cells_where_the_loss_is_low() -> None:
    values = {("sgd", None): 1000.0, ("sgd", 16): 10.0, ("sgd", 128): 0.0, ("adam", 8): 0.1, ("adam", 16): 12.345}
    figure = figure_of(heat_map(settings_of(grid(values)), LOSS, LOSS))
    axes, bar = figure.axes
    assert frame(figure) == {
        "title": "val/loss by optimizer and batch size, of each cell's best setting by val/loss",
        **{"size": (7.5, pytest.approx(1.9)), "spines": ["left", "bottom"], "labels": ("batch size", "optimizer")},
        **{"scales": ("linear", "linear"), "legend": None},
    }
    assert [text.get_text() for text in axes.get_xticklabels()] == ["8", "16", "128", "full"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["adam", "sgd"]
    assert [(text.get_text(), text.get_position(), text.get_color()) for text in axes.texts] == [
        *(
            ("0.1", (0, 0), "black"),
            ("12.3", (1, 0), "white"),
            ("no run", (2, 0), "black"),
            ("no run", (3, 0), "black"),
        ),
        *(("no run", (0, 1), "black"), ("10", (1, 1), "black"), ("0", (2, 1), "black"), ("1e+03", (3, 1), "white")),
    ]
    (image,) = axes.images
    shades = [[-1.0, np.log10(12.345), nan, nan], [nan, 1.0, nan, 3.0]]
    np.testing.assert_allclose(image.get_array().filled(nan), shades)
    assert image.get_cmap().name == "viridis_r"
    assert bar.get_ylabel() == "log10 of val/loss"


def test_the_heat_map_of_r2_is_linear_and_dark_where_it_is_low() -> None:
    values = {("sgd", None): 0.5, ("sgd", 16): -1.0, ("adam", 16): 0.75, ("adam", None): None}
    figure = figure_of(heat_map(settings_of(grid(values, "val/r2")), R2, R2))
    axes, bar = figure.axes
    assert bar.get_ylabel() == "-val/r2"
    np.testing.assert_allclose(axes.images[0].get_array().filled(nan), [[-0.75, nan], [1.0, -0.5]])
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        *(("0.75", "black"), ("diverged", "black"), ("-1", "white"), ("0.5", "black"))
    ]


def test_a_setting_without_the_choosing_metric_or_with_a_diverged_seed_is_not_chosen() -> None:
    runs = grid({("sgd", 8): 5.0, ("sgd", None): 5.0, ("adam", None): 5.0})
    for lr, values in ((0.2, [None]), (0.3, [1.0, "diverged"])):
        for seed, value in enumerate(values):
            status, metrics = ("diverged", {}) if value == "diverged" else ("completed", {"val/loss": value})
            hparams = {"optimizer": "sgd", "batch.size": 8, "optimizer.lr": lr}
            runs.append(run_of(seed=seed, hparams=hparams, metrics=metrics, status=status))
    figure = figure_of(heat_map(settings_of(runs), LOSS, LOSS))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no run", "5", "5", "5"]


@pytest.mark.parametrize("cells", [[("sgd", 8), ("adam", 8)], [("sgd", 8), ("sgd", 16)]], ids=str)
def test_a_heat_map_needs_two_optimizers_and_two_sizes(cells: list[tuple[str, int | None]]) -> None:
    assert heat_map(settings_of(grid(dict.fromkeys(cells, 1.0))), LOSS, LOSS) is None


def test_a_cell_of_the_heat_map_says_why_it_has_no_number() -> None:
    cells = grid({("sgd", 8): 5.0, ("sgd", 16): None, ("adam", 8): 5.0})
    cells.append(run_of(hparams={"optimizer": "adam", "batch.size": 16}, metrics={"val/loss": None}))
    figure = figure_of(heat_map(settings_of(cells), LOSS, LOSS))
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "no value", "5", "diverged"]


def test_a_heat_map_in_which_all_diverged_is_drawn() -> None:
    cells: list[tuple[str, int | None]] = [("sgd", 8), ("sgd", None), ("adam", 8), ("adam", None)]
    figure = figure_of(heat_map(settings_of(grid(dict.fromkeys(cells))), LOSS, LOSS))
    assert [text.get_text() for text in figure.axes[0].texts] == ["diverged"] * 4


def test_the_clipped_fraction_is_the_mean_and_the_range_of_the_seeds_of_every_setting_that_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clipping(seed: int, limit: float | None, *values: float) -> None:
        hparams = {"clip": "norm" if limit else "no$ne", "clip.gradient_clip_val": limit}
        curves = {"grad/clipped": [*zip((5, 10), values, strict=True)]} if values else {}
        write(tmp_path / f"{limit}-{seed}", curves, seed=seed, hparams=hparams)

    clipping(0, None, 0.125, 0.25)
    clipping(0, 1.0, 0.5, 0.75)
    clipping(1, 1.0, 1.0, 0.25)
    clipping(2, 1.0)
    monkeypatch.setattr("descent.compare.plots.MOST_LINES", 1)  # runs without clipping do not count
    with drawn() as figures:
        compare([tmp_path], x="steps")
    (figure,) = [figure for figure, _ in figures if "clipped" in figure.get_suptitle()]
    assert frame(figure) == {
        **{
            "title": f"fraction of the logged steps clipped so far over optimizer steps; line: mean, {BAND}",
            **WIDE,
        },
        **{
            "labels": ("optimizer steps", "fraction of the logged steps clipped so far"),
            "scales": ("linear", "linear"),
        },
        "legend": ("", ["norm"]),
    }
    (axes,) = figure.axes
    assert lines(axes) == [("norm", BLUE, "-", "None", [(5.0, 0.75), (10.0, 0.5)])]
    (band,) = axes.collections
    assert {(x, y) for x, y in band.get_paths()[0].vertices} == {(5, 0.5), (5, 1.0), (10, 0.25), (10, 0.75)}


@pytest.mark.parametrize("last", [0.0, 0.25])
@pytest.mark.parametrize("x", [None, "steps"])
def test_a_figure_of_clipping_that_never_acted_is_a_note_instead(
    last: float, x: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit, fractions in ((None, []), (1.0, [(5, 0.0), (10, 0.0)]), (2.0, [(5, 0.0), (10, last)])):
        curves = {"grad/clipped": fractions} if limit else {}
        write(tmp_path / str(limit), curves, hparams={"clip": "norm", "clip.gradient_clip_val": limit})
    out = compare([tmp_path], x=x)
    note = "clipping never acted at a logged step of the ranked settings"
    assert (out / "clipped.png").exists() == (last > 0)
    assert (note in capsys.readouterr().out) == (note in (out / "report.html").read_text()) == (last == 0)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_clipping_is_not_mentioned_if_no_run_has_its_curve(
    limit: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", hparams={"clip.gradient_clip_val": limit})
    compare([tmp_path], x="steps")
    assert "clipping" not in capsys.readouterr().out.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ([{}, {}], ["samples", "gradient_evaluations"]),
        ([{}, {"samples": 100}], ["gradient_evaluations"]),
        ([{}, {"steps": 50, "samples": 4000, "gradient_evaluations": 50}], ["samples", "gradient_evaluations"]),
        ([{}, {"steps": 50, "samples": 8000, "gradient_evaluations": 50}], ["gradient_evaluations"]),
        ([{}, {"gradient_evaluations": 300}], ["samples"]),
        ([{"gradient_evaluations": 300}, {"gradient_evaluations": 300}], ["samples"]),  # three each step
        ([{}, {"steps": 0, "samples": 0, "gradient_evaluations": 0}], ["samples", "gradient_evaluations"]),
        ([{"samples": 100, "gradient_evaluations": 300}, {}], []),
    ],
    ids=str,
)
def test_an_axis_on_which_all_curves_look_as_over_steps_is_left_out(
    given: list[dict[str, Any]], left_out: list[str]
) -> None:
    every = "steps", "samples", "gradient_evaluations", "seconds"  # 8000 samples in 100 steps, unless given
    assert new_axes([run_of(**result) for result in given]) == [axis for axis in every if axis not in left_out]


@pytest.mark.parametrize("x", ["steps", "samples", "gradient_evaluations", "seconds"])
def test_an_axis_that_is_asked_for_is_drawn_whatever_it_shows(x: str, tmp_path: Path) -> None:
    points = [(0, 1.0), (50, 50.0), (100, 100.0)]
    write(tmp_path / "run", {"optimum/excess_loss": points, "grad/evaluations": points[1:]})
    out = compare([tmp_path], x=x)
    assert [path.stem for path in out.glob("*.png")] == [f"excess_over_{x}"]
    out = compare([tmp_path])
    assert {path.stem for path in out.glob("*.png")} == {"excess_over_steps", "excess_over_seconds"}


def test_a_title_speaks_of_means_and_bands_only_where_a_line_is_of_several_seeds() -> None:
    one = rates((0.1, [2.0, 1.0]), (0.2, [4.0, 1.0]))
    diverged = run_of([9.0, 9.0], seed=1, status="diverged")
    for runs in (one, [*one, diverged]):
        figure = figure_of(curve_over(settings_of(runs), EXCESS, "steps"))
        assert frame(figure)["title"] == "training loss above the optimum over optimizer steps"
        assert len(figure.axes[0].collections) == 0
    figure = figure_of(curve_over(settings_of([*one, run_of([3.0, 2.0], seed=2)]), EXCESS, "steps"))
    assert frame(figure)["title"].endswith(f"; line: geometric mean, {BAND}")
    assert len(figure.axes[0].collections) == 1


@pytest.mark.parametrize(
    ("mode", "values", "x", "caption"),
    [
        (
            *("min", [2.0, 1.0], "steps"),
            "Lower is better. A straight line on this logarithmic axis means that each step shrinks the value by the "
            "same factor.",
        ),
        (
            *("min", [2.0, -1.0], "gradient_evaluations"),
            "Lower is better. The further left a line improves, the fewer gradient evaluations it needs.",
        ),
        (
            *("max", [1.0, 2.0], "seconds"),
            "Higher is better. The further left a line improves, the fewer seconds it needs.",
        ),
    ],
)
def test_the_caption_of_a_curve_says_which_values_are_better_and_what_its_slope_means(
    mode: str, values: list[float], x: str, caption: str
) -> None:
    run = run_of()
    steps = np.array([0, 10])
    run.curves["a"] = steps, np.array(values)
    run.curves.update(dict.fromkeys(("grad/evaluations", "train/seconds"), (steps, steps / 10.0)))
    assert figure_of(curve_over(settings_of([run]), Curve("a", mode, "a"), x)).get_label() == caption
    own = Curve("a", mode, "a", caption="What I say.")
    assert figure_of(curve_over(settings_of([run]), own, x)).get_label() == "What I say."


def test_the_caption_over_the_learning_rate_says_which_values_are_better() -> None:
    runs = [run_of(hparams={"optimizer.lr": lr}, metrics={"val/r2": lr, "val/loss": lr}) for lr in (0.1, 0.2)]
    every = settings_of(runs)
    captions = [figure_of(learning_rates(every, every, metric)).get_label() for metric in (R2, LOSS)]
    assert [caption.split(".")[0] for caption in captions] == ["Higher is better", "Lower is better"]


FLAT = [[2.0, 0.0], [0.0, 1.0]]


def moving(lr: float, weights: dict[str, Sequence[float]], optimum: dict[str, Any] | None = None, **given: Any) -> Run:
    optimum = OPTIMUM | {"weight": [1.0], "bias": 2.0, "hessian": FLAT} | (optimum or {})
    run = run_of(hparams={"optimizer.lr": lr}, optimum=optimum, **given)
    for tag, values in weights.items():
        run.curves[f"parameters/{tag}"] = np.arange(len(values)), np.array(values)
    return run


def test_paths_are_of_the_first_run_of_each_setting_that_did_not_diverge() -> None:
    line = {"bias": (0.0, 5.0), "weight_x_1": (0.0, 3.0)}  # the bias comes last, whatever the order of the tags
    runs = [
        moving(0.1, {"bias": (7.0, 7.0), "weight_x_1": (7.0, 7.0)}, status="diverged"),
        *(moving(0.1, line, seed=1), moving(0.1, {"bias": (8.0, 8.0), "weight_x_1": (8.0, 8.0)}, seed=2)),
        moving(0.2, line, status="diverged"),
        *(moving(0.3, line | {"weight_x_2": (1.0, 1.0)}), moving(0.4, {"bias": (1.0, 1.0)})),
        *(moving(0.5, line, {"bias": None}), moving(0.6, line, {"hessian": [[1.0]]})),
        *(moving(0.7, line, {"bias": None, "weight": [1.0, None]}), moving(0.8, line, {"hessian": None})),
        *(
            moving(0.9, line, {"hessian": [[1.0, None], [0.0, 1.0]]}),
            moving(1.0, {"bias": (1, 2), "weight_x_1": (3, 4)}),
        ),
        moving(1.1, line, {"hessian": [[1.0, 0.0], [None, 1.0]]}),
    ]
    without = run_of(hparams={"optimizer.lr": 1.2}, optimum=None)
    figure = figure_of(paths(settings_of([*runs, without])))
    assert frame(figure)["title"] == "Paths over the contours of the training loss, one run of each setting"
    assert frame(figure)["labels"] == ("weight x 1", "bias")
    assert [(label, points) for label, _, _, _, points in lines(figure.axes[0])] == [
        *(("lr=0.1", [(0.0, 0.0), (3.0, 5.0)]), ("lr=1", [(3.0, 1.0), (4.0, 2.0)]), ("least squares", [(1.0, 2.0)]))
    ]


def test_at_most_twelve_paths_are_drawn_and_two_weights_are_a_path_without_a_bias() -> None:
    weights = {"weight_a": (0.0, 1.0), "weight_b": (0.0, 2.0)}
    runs = [moving(0.5 + k, weights, {"weight": [1.0, 2.0], "bias": None}) for k in range(13)]
    figure = figure_of(paths(settings_of(runs)))
    assert frame(figure)["labels"] == ("weight a", "weight b")
    assert frame(figure)["legend"][1] == [*(f"lr={0.5 + k}" for k in range(12)), "least squares"]
