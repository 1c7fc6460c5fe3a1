"""Tests comparisons of runs with different models and losses."""

from pathlib import Path

import pytest
from conftest import Run
from drawn import drawn, lines

from descent.compare.ranking import compare
from descent.errors import UserError
from regression.comparison import EXTRA

SHORT = ("data=line", "batch=full", "trainer.max_epochs=4", "trainer.log_every_n_steps=1", "optimizer.lr=0.001")


def test_runs_of_different_models_are_compared_and_each_figure_has_those_that_have_something_for_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, options in {
        "line": ("model=linear",),
        "parabola": ("model=polynomial", "model.bias=false"),
        "perceptron": ("model=mlp",),
    }.items():
        run(*SHORT, *options, run_dir=tmp_path / name)
    with drawn() as figures:
        compare([tmp_path], x="steps", extra=EXTRA)
    assert "cannot be drawn" not in capsys.readouterr().err
    titles = {figure.get_suptitle().split(",")[0].split(";")[0]: figure.axes[0] for figure, _ in figures}
    shown = {title: len([line for line in lines(axes) if line[0]]) for title, axes in titles.items()}
    assert shown["training loss above the optimum over optimizer steps"] == 2
    assert shown["train/loss over optimizer steps"] == 3
    assert (
        shown["Paths over the contours of the training loss"] == 2
    )  # one model's path and the star: the other has other parameters


def test_runs_of_different_losses_are_compared_only_by_what_is_the_same_in_all(run: Run, tmp_path: Path) -> None:
    options = *SHORT, "data.inputs=[[1],[2],[3],[4],[5],[6],[7]]", "data.targets=[1,2,3,5,6,7,9]"
    for loss in ("mse", "mae"):
        run(*options, "data.val_fraction=0.3", f"model.loss={loss}", run_dir=tmp_path / loss)
    with pytest.raises(UserError) as raised:
        compare([tmp_path], extra=EXTRA)
    shared = "not comparable across model.loss (mae, mse); use --metric val/mae"
    assert str(raised.value) == f"val/loss is {shared}"
    assert compare([tmp_path], metric="val/mae", extra=EXTRA) == tmp_path / "compare"
    assert compare([tmp_path / "mae"], extra=EXTRA) == tmp_path / "mae/compare"
