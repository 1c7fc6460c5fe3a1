"""Tests the note on a monitored metric that is better in the other direction."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run, needs_fast
from torchmetrics import MeanAbsoluteError, R2Score

from descent.errors import note_once
from descent.training.metric_direction import note_direction


@pytest.fixture(autouse=True)
def once_each() -> None:
    note_once.cache_clear()


def note(name: str, mode: Any, value: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    note_direction(SimpleNamespace(_results={f"validation_step.{name}": SimpleNamespace(value=value)}), name, mode)  # type: ignore[arg-type]
    return caplog.messages


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        pytest.param("val/quality", R2Score(), "max", marks=needs_fast),  # which gives access to logged metrics
        pytest.param("val/quality", MeanAbsoluteError(), "min", marks=needs_fast),
        ("val/top_acc", torch.tensor(1.0), "max"),
        ("val/loss", torch.tensor(1.0), "min"),
        ("val/dice_loss", torch.tensor(1.0), "min"),
        # the torchmetric knows better than the name
        pytest.param("val/accuracy", MeanAbsoluteError(), "min", marks=needs_fast),
    ],
)
def test_the_wrong_mode_is_noted_and_the_right_one_is_not(
    name: str, value: Any, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert note(name, right, value, caplog) == []
    wrong = "min" if right == "max" else "max"
    taken, better = ("largest", "smaller") if wrong == "max" else ("smallest", "larger")
    assert note(name, wrong, value, caplog) == [
        f"note: monitor.mode={wrong}: the {taken} {name} counts as best; {better} is usually better:"
        f" monitor.mode={right}"
    ]
    assert note(name, wrong, value, caplog) == []  # said once


def test_a_metric_of_unknown_direction_gets_no_note(caplog: pytest.LogCaptureFixture) -> None:
    for mode in ("min", "max"):
        assert note("val/other", mode, torch.tensor(1.0), caplog) == []


def test_a_run_notes_the_wrong_mode(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run("monitor.metric=val/r2", "monitor.mode=min", "data.num_samples=60", "trainer.max_epochs=2")
    assert [line for line in caplog.messages if "monitor.mode" in line] == [
        "note: monitor.mode=min: the smallest val/r2 counts as best; larger is usually better: monitor.mode=max"
    ]
