"""Tests the progress bar's updates, length and last line."""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm
from conftest import Listener, config_of
from lightning.pytorch import Callback
from test_resume import SignalAt

from descent.run.train import train

LINE = (
    *("data=line", "batch=full", "trainer=float64", "model.init_weight=0", "model.init_bias=0", "figures=false"),
    *("optimizer.lr=0.05", "data.standardize=true", "trainer.log_every_n_steps=10"),
)
POINTS = [*range(1, 21), 30, 40]  # after each of the first 20 epochs (one step each) and every 10 steps


def losses_in_own_units(steps: int) -> list[float]:
    """Returns the loss before each step of gradient descent from 0 on y = 2 x; in standardised units y = x."""
    x = (np.array([1.0, 2, 3, 4]) - 2.5) / np.sqrt(1.25)
    weight, losses = 0.0, []
    for _ in range(steps):
        losses.append(float(np.mean((weight * x - x) ** 2)) * 4 * 1.25)
        weight -= 0.05 * 2 * float(np.mean((weight * x - x) * x))
    return losses


class Bars:
    """Records the bars' arguments and updates."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.moved: list[tuple[int, str | None]] = []


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bars]:
    bars = Bars()
    make, move = tqdm.tqdm.__init__, tqdm.tqdm.update

    def made(self: Any, *args: Any, **options: Any) -> None:
        bars.made.append(options)
        make(self, *args, **options)

    def moved(self: Any, n: int = 1) -> Any:
        done = move(self, n)
        bars.moved.append((self.n, self.postfix))
        return done

    monkeypatch.setattr(tqdm.tqdm, "__init__", made)
    monkeypatch.setattr(tqdm.tqdm, "update", moved)
    yield bars


@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
def test_the_bar_moves_at_logged_steps_and_shows_the_loss_in_own_units(
    callbacks: list[Callback], bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_of(*LINE, "trainer.max_epochs=44"), tmp_path / "r", callbacks=callbacks)
    assert bars.made == [
        {"total": 44, "initial": 0, "desc": "Training", "unit": "step", "mininterval": 10.0, "dynamic_ncols": True}
    ]
    losses = losses_in_own_units(44)
    shown = [(step, f"loss={losses[step - 1]:.4g}") for step in POINTS]
    assert bars.moved == [*shown, (44, shown[-1][1])]
    out, err = capsys.readouterr()
    assert out == ""
    last = err.split("\r")[-1]
    assert re.fullmatch(
        rf"Training: 100%\|█+\| 44/44 \[\d\d:\d\d<00:00, +[\d.]+k?step/s, {re.escape(shown[-1][1])}\]\n", last
    ), last


def test_the_bar_of_a_resumed_run_starts_at_its_step(bars: Bars, tmp_path: Path) -> None:
    config = config_of(*LINE, "trainer.max_epochs=60", "trainer.max_steps=44")
    train(config, tmp_path / "r", callbacks=[SignalAt(12)])
    train(config, tmp_path / "r", resume=True)
    assert [(bar["initial"], bar["total"]) for bar in bars.made] == [(0, 44), (12, 44)]
    positions = [position for position, _ in bars.moved]
    assert positions == [*POINTS, 44]


def test_the_bar_ends_at_the_earliest_limit(bars: Bars, tmp_path: Path) -> None:
    ends = {
        "trainer.max_steps=7": 7,
        "stopping.max_gradient_evaluations=6": 6,
        "stopping.max_samples=17": 5,  # four rows a step
        "stopping.max_seconds=1000": 9,
    }
    for number, end in enumerate(ends):
        train(config_of(*LINE, "trainer.max_epochs=9", end), tmp_path / str(number))
    assert [bar["total"] for bar in bars.made] == list(ends.values())


@pytest.mark.parametrize(
    ("rule", "may"),
    [("stopping=patience", True), ("stopping=converged", True), ("stopping.max_seconds=99", True), ("seed=1", False)],
)
def test_the_bar_says_that_a_run_may_stop_early_and_ends_at_its_last_step(
    rule: str, may: bool, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(config_of(*LINE, "trainer.max_epochs=3000", rule), tmp_path / "r")
    assert (result.steps < 3000) == (rule in ("stopping=patience", "stopping=converged"))
    assert [bar["desc"] for bar in bars.made] == ["Training, may stop early" if may else "Training"]
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%|" in last and f" {result.steps}/{result.steps} " in last


@pytest.mark.parametrize("ending", ["diverged", "interrupted"])
def test_the_bar_of_a_run_that_ends_early_is_closed_at_its_position(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["optimizer.lr=1e9"] if ending == "diverged" else ["trainer.max_epochs=30"]
    callbacks = [SignalAt(3)] if ending == "interrupted" else []
    assert train(config_of(*LINE, *options), tmp_path / "r", callbacks=callbacks).status == ending
    err = capsys.readouterr().err
    assert not tqdm.tqdm._instances  # type: ignore[attr-defined]
    assert "Training:" in err and err.endswith("]\n")


def test_on_a_terminal_the_bar_updates_up_to_ten_times_a_second(
    bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(config_of(*LINE, "trainer.max_epochs=2"), tmp_path / "r")
    assert [bar["mininterval"] for bar in bars.made] == [0.1]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_note_during_training_has_its_own_line(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Notes(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            logging.getLogger("mine").warning("note: one")
            logging.getLogger("mine").warning("note: two")

    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    logging.root.addHandler(console)
    handlers = [*logging.root.handlers]
    train(config_of(*LINE, "trainer.max_epochs=1"), tmp_path / "r", callbacks=[Notes()])
    assert logging.root.handlers == handlers
    logging.root.removeHandler(console)
    before, _, after = capsys.readouterr().err.partition("note: one\n")
    assert re.fullmatch(r"\rTraining: +0%.*step/s[^\n]*" + (r"\r +\r" if is_terminal else r"\n"), before)
    assert re.match(r"\r *\rnote: two\n" if is_terminal else "note: two\n", after)


def test_a_run_without_a_bar_can_print_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Notes(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            logging.getLogger("mine").warning("note: one")

    make = tqdm.tqdm.__init__
    monkeypatch.setattr(tqdm.tqdm, "__init__", lambda *args, **options: make(*args, **{**options, "disable": True}))
    assert train(config_of(*LINE, "trainer.max_epochs=1"), tmp_path / "r", callbacks=[Notes()]).status == "completed"
    assert "Training" not in capsys.readouterr().err


def test_an_error_before_training_shows_no_bar(tmp_path: Path, bars: Bars) -> None:
    class Fails(Callback):
        def on_fit_start(self, *_: Any) -> None:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(config_of(*LINE), tmp_path / "r", callbacks=[Fails()])
    assert bars.made == []
