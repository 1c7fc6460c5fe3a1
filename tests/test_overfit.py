"""Tests the verdict of debug=overfit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Run

from descent.run.cli import load_config
from descent.run.console import print_line
from descent.training.overfit import Overfit

PERFECT = "data=line", "data.inputs=[[1],[2],[3]]", "data.targets=[1,2,30]", "data.val_fraction=0"


def said(result: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_line(result)
    return [line for line in capsys.readouterr().out.splitlines() if "learned" in line]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (["optimizer.lr=0.05"], "the rows were learned: train/loss 2.5 -> "),
        (["optimizer.lr=1e-5", "trainer.max_epochs=3"], "the rows were not learned: train/loss 2.5 -> 2.499, "),
    ],
)
def test_the_verdict_says_whether_the_rows_were_learnt_and_gives_both_losses(
    given: list[str], verdict: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    start = "model.init_weight=0", "model.init_bias=0", "data.standardize=false"
    result = run("debug=overfit", "trainer.max_epochs=400", *PERFECT, *start, *given)
    (line,) = said(result, capsys)
    assert line.startswith(verdict)  # (1 + 4) / 2


def test_a_run_that_ends_before_its_loss_stops_falling_is_said_to_need_more_epochs(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    few = run("debug=overfit", "stopping.max_epochs=3", "optimizer.lr=1e-5", *PERFECT)
    (line,) = said(few, capsys)
    assert "not 99% less: allow more epochs (stopping.max_epochs), or check model, " in line
    stuck = run("debug=overfit", "stopping.patience=2", "stopping.min_delta=1", "optimizer.lr=1e-5", *PERFECT)
    (line,) = said(stuck, capsys)
    assert "not 99% less: check model, " in line and stuck.stopped


def test_a_projects_default_of_few_epochs_does_not_cut_it_off(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    with (tmp_path / "conf/train.yaml").open("a") as file:
        file.write("\nstopping: { max_epochs: 3, patience: 5 }\n")
    config = load_config(tmp_path / "conf", ["debug=overfit"], tmp_path / "run")
    assert (config.trainer.max_epochs, config.stopping.patience) == (1000, 50)


def test_a_resumed_run_keeps_its_first_loss_and_a_run_without_one_has_no_verdict() -> None:
    begun, resumed = Overfit(), Overfit()
    begun.first = 2.0
    resumed.load_state_dict(begun.state_dict())
    assert [*resumed.tables({"metrics": {"train/loss": 0.02}})] == ["the rows were learned: train/loss 2 -> 0.02"]
    assert [*resumed.tables({"metrics": {}})] == [*Overfit().tables({"metrics": {"train/loss": 1.0}})] == []
