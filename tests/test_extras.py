"""Tests that a missing optional library only disables the part that needs it, with the install command."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, config_of, needs_compare
from test_resume import SMALL

from descent.errors import UserError, extra
from descent.training.build import build_data


def hide(library: str, monkeypatch: pytest.MonkeyPatch, *own: str) -> None:
    """Makes later imports behave as if the library were not installed; unloads ``own``, so that they import again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == library or name in own]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)


def test_without_matplotlib_a_run_completes_and_names_the_extra(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hide("matplotlib", monkeypatch, "descent.drawing")
    with caplog.at_level(logging.WARNING):
        result = run(*SMALL, "figures=true", run_dir=tmp_path / "r")
    assert result.status == "completed"
    (said,) = [record.getMessage() for record in caplog.records if "matplotlib" in record.getMessage()]
    assert said == "note: figures=true needs matplotlib: pip install -c constraints.txt -e '.[figures]'"
    assert not (tmp_path / "r/figures").exists()


def test_without_scikit_learn_the_diabetes_data_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("sklearn", monkeypatch)
    data: Any = build_data(config_of("data=diabetes"))
    with pytest.raises(UserError) as raised:
        data.setup()
    assert str(raised.value) == "data=diabetes needs sklearn: pip install -c constraints.txt -e '.[diabetes]'"


@needs_compare
def test_without_matplotlib_a_comparison_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("matplotlib", monkeypatch, "descent.drawing", "descent.compare.ranking")
    said = r"^compare.py needs matplotlib: pip install .*'\.\[figures\]'$"
    with pytest.raises(UserError, match=said), extra("figures", "compare.py"):
        import descent.compare.ranking  # noqa: F401


@pytest.mark.parametrize(("in_sweeps", "figures"), [("false", False), ("true", True)])
def test_sweeps_draw_figures_only_with_in_sweeps(in_sweeps: str, figures: bool, tmp_path: Path) -> None:
    from descent.run.train import train

    config = config_of(*SMALL, "figures=true", f"+callbacks.figures.in_sweeps={in_sweeps}")
    train(config, tmp_path / "job", in_sweep=True)
    assert (tmp_path / "job/figures/predicted.png").exists() == figures
