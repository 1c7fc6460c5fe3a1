"""Tests the exact text of the console."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import config_of, needs_sweep

from descent.config.hparams import flat_hparams
from descent.run.console import print_choices, print_line, print_result
from descent.run.result import Result
from regression.callbacks.parameters import Parameters
from regression.callbacks.predictions import Predictions
from regression.callbacks.to_optimum import ToOptimum

TWO = Result(
    status="completed",
    seed=0,
    command="",
    metrics={
        **{"train/loss": 1.23456789, "val/loss": 2.0, "test/loss": 1 / 3, "val/mae": 0.5, "test/mae": 0.25},
        **{"val/r2": 0.9, "test/r2": 0.8, "optimum/distance": 1.0},
    },
    monitor={"metric": "val/loss", "mode": "min"},
    best={"step": 1234, "metric": "val/loss", "value": 1.0},
    **{"steps": 1, "epochs": 1000, "seconds": 1.239},
    entries={
        "parameters": {"weight": [1.0, -2.5], "bias": 0.125},
        "true_parameters": {"weight": [1.5, -2.0], "bias": 0.0},
        "optimum": {"weight": [1.25, -2.25], "bias": 0.0625, "loss": 0.75},
        "predictions": [
            {"input": [1.0, 2.5], "before": 0.0, "after": 3.5},
            {"input": [1e6, -2], "before": 1e-7, "after": 123456.789},
        ],
        "features": ["[a]", "b"],
        "terms": ["[a]", "b"],
        "rows": {"train": 8000, "val": 1000, "test": 999},
    },
    callbacks=[Parameters(), ToOptimum(), Predictions([])],
)


def changed(entries: dict[str, Any], **fields: Any) -> Result:
    """``TWO`` with entries of callbacks and fields replaced."""
    return replace(TWO, entries=TWO.entries | entries, **fields)


PREDICTIONS = """\

 prediction at   before training    after
 ────────────────────────────────────────
 1, 2.5                        0      3.5
 1e+06, -2                 1e-07   123457

"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """The output, without the trailing spaces of tables."""
    written = capsys.readouterr()
    assert written.err == ""
    return "".join(f"{line.rstrip()}\n" for line in written.out.splitlines())


def test_several_options_of_a_group_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of("callbacks=[swa,lr_monitor]")
    print_choices(config, Path("logs/x"))
    row = next(line for line in shown(capsys).splitlines() if line.startswith(" callbacks"))
    assert [option for option in ("swa", "lr_monitor") if option not in row] == []
    assert flat_hparams(config)["callbacks"] == config.choices["callbacks"] == "swa,lr_monitor"


def test_schedulers_in_sequence_are_shown_by_their_names_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_choices(config_of("scheduler=warmup_cosine"), Path("logs/x"))
    row = next(line for line in shown(capsys).splitlines() if line.startswith(" scheduler"))
    parts = "LinearLR(start_factor=0.1, total_iters=10), CosineAnnealingLR(T_max=null)"
    assert f"schedulers={parts}  milestones=[10]" in row


def test_a_monitor_of_ones_own_and_trainer_keys_that_change_training_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = "monitor.metric=val/acc", "monitor.mode=max", "trainer.accumulate_grad_batches=2"
    print_choices(config_of(*given, "trainer.limit_train_batches=0.5"), Path("r"))
    rows = [line.split(maxsplit=2) for line in shown(capsys).splitlines() if line]
    assert ["monitor", "val/acc", "mode=max"] in rows
    (trainer,) = [row[2] for row in rows if row[0] == "trainer"]
    assert trainer.endswith("max_epochs=20  accumulate_grad_batches=2  limit_train_batches=0.5")


@needs_sweep  # for the experiment
def test_the_settings_are_shown_group_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    print_choices(config_of("experiment=paths", "optimizer=adam", "callbacks=none", "seed=7"), Path("logs/[x]"))
    assert shown(capsys) == (
        """
 experiment   paths
 data         synthetic     num_samples=1000  num_features=2  noise_std=0.5  condition_number=10  outlier_fraction=0  val_fraction=0  test_fraction=0  standardize=false  seed=0
 model        linear        loss=mse  bias=false  init_weight=-1
 optimizer    adam          lr=0.1
 scheduler    none
 batch        full          shuffle=false
 clip         none
 stopping     none          min_delta=0
 trainer      default       accelerator=auto  precision=32-true  max_epochs=100
 callbacks    none
 logger       tensorboard
 seed         7

logs/[x]

"""  # noqa: E501  # a line of the console
    )


def test_every_rule_of_stopping_is_shown_and_values_above_60_letters_are_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    rules = {
        **{"patience": 3, "min_delta": 0.5, "gradient_norm": 1e-5, "loss_change": 0.125},
        **{"max_samples": 5, "max_gradient_evaluations": 6, "max_seconds": 7.5},
    }
    rows = f"data.inputs=[{','.join(['[1]'] * 11)},[10]]", f"data.targets=[{','.join(['100'] * 12)}]"
    rows = *rows, "data.max_rows=2"
    overrides = [
        "debug=profiler",
        "data=line",
        *rows,
        "stopping=converged",
        "batch=full",
        "optimizer=lbfgs",
        "trainer.max_steps=9",
    ]
    print_choices(config_of(*overrides, *(f"stopping.{key}={value}" for key, value in rules.items())), Path("r"))
    assert [line.split(maxsplit=2) for line in shown(capsys).splitlines() if line] == [
        ["debug", "profiler"],
        [
            *("data", "line"),
            "inputs=[[1], [1], [1], [1], [1], [1], [1], [1], [1], [1], [1], [..."
            "  targets=[100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100]"
            "  val_fraction=0  test_fraction=0  standardize=false  seed=0  max_rows=2",
        ],
        ["model", "linear", "loss=mse  bias=true"],
        ["optimizer", "lbfgs", "lr=1  line_search_fn=strong_wolfe"],
        ["scheduler", "none"],
        ["batch", "full", "shuffle=false"],
        ["clip", "none"],
        ["stopping", "converged", "  ".join(f"{key}={value}" for key, value in rules.items())],
        ["trainer", "default", "accelerator=auto  precision=32-true  max_epochs=10000  max_steps=9"],
        ["callbacks", "regression"],
        ["logger", "tensorboard"],
        ["seed", "0"],
        ["r"],
    ]


def test_a_completed_run_is_shown_with_parameters_metrics_and_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(TWO, Path("logs/[r]"))
    assert shown(capsys) == (
        f"""
 parameter       learned   least squares   true
 ──────────────────────────────────────────────
 weight of [a]         1            1.25    1.5
 weight of b        -2.5           -2.25     -2
 bias              0.125          0.0625      0

rows: train 8,000, val 1,000, test 999
least-squares loss: 0.75

 metric               train   val       test   value
 ───────────────────────────────────────────────────
 loss               1.23457     2   0.333333
 mae                          0.5       0.25
 r2                           0.9        0.8
 optimum/distance                                  1

test: with the best checkpoint (val/loss 1 at step 1,234); the others: with the last weights

{PREDICTIONS}completed after 1 step, 1,000 epochs, 1.24 s
logs/[r]

"""
    )


def test_what_a_run_has_not_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"weight": [1.0, 2.0], "bias": None}
    result = changed(
        {"true_parameters": None, "optimum": None, "predictions": [], "parameters": parameters},
        status="diverged",
        reason="the training loss [x] is not finite",
        metrics={"train/loss": 4.0},
        **{"steps": 2, "epochs": 1},
    )
    print_result(result, Path("r"))
    assert shown(capsys) == (
        """
 parameter       learned
 ───────────────────────
 weight of [a]         1
 weight of b           2

rows: train 8,000, val 1,000, test 999

 metric   train
 ──────────────
 loss         4

diverged after 2 steps, 1 epoch, 1.24 s
the training loss [x] is not finite
r

"""
    )


def test_a_training_metric_of_the_last_epoch_is_labelled_as_such(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = {"train/loss": 4.0, "train/acc": 0.5, "val/loss": 2.0}
    others = "during the last epoch, while the weights changed; the others: with the last weights"
    print_result(changed({}, metrics=metrics, of_last_epoch=["train/loss", "train/acc"]), Path("r"))
    assert f"\ntrain/loss, train/acc: {others}\n" in shown(capsys)


def test_a_training_metric_of_the_last_batch_is_labelled_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["train/loss", "train/acc"]
    result = changed({}, metrics=dict.fromkeys(names, 4.0), of_last_epoch=names, of_one_batch=["train/acc"])
    print_result(result, Path("r"))
    mean = "train/loss: during the last epoch, while the weights changed"
    last = "train/acc: of one batch, the last that logged it; on_epoch=True gives the mean"
    assert f"\n{mean}; {last}; the others: with the last weights\n" in shown(capsys)


@pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
def test_a_best_value_that_is_not_finite_is_not_shown(value: float | None, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(changed({}, best={"step": 3, "metric": "val/loss", "value": value}), Path("r"))
    assert "test: with the best checkpoint (step 3); the others" in shown(capsys)


@pytest.mark.parametrize(
    ("metrics", "lines"),
    [
        ({"val/acc": 0.5, "lr-Adam": 0.1}, [" metric    val   value", " acc       0.5", " lr-Adam           0.1"]),
        (
            {"count/tokens": 7.0, "train": 2.0},
            [" metric         value", " count/tokens       7", " train              2"],
        ),
    ],
)
def test_a_metric_of_no_split_has_a_column_of_its_own(
    metrics: dict[str, float], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(replace(TWO, metrics=metrics, callbacks=[]), Path("r"))
    table = shown(capsys).split("\n\n")[0].splitlines()
    assert [line for line in table if line and "─" not in line] == lines


def test_a_run_that_has_no_best_checkpoint_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(replace(TWO, best=None, stopped="its budget of 5 samples is spent"), Path("r"))
    found = shown(capsys)
    assert "best checkpoint" not in found
    assert (
        "\ncompleted after 1 step, 1,000 epochs, 1.24 s, stopped early: its budget of 5 samples is spent\nr\n" in found
    )


def test_a_run_that_has_nothing_is_shown_by_its_ending_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(Result("interrupted", 0, "", "interrupted by SIGINT"), Path("r"))
    assert shown(capsys) == "interrupted after 0 steps, 0 epochs, 0.00 s\ninterrupted by SIGINT\nr\n\n"


@pytest.mark.parametrize(("features", "left_out"), [(20, []), (21, [["...", "and", "1", "more"]])])
def test_of_many_parameters_the_first_twenty_are_shown(
    features: int, left_out: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    count = range(1, features + 1)
    parameters = {"weight": [k / 4 for k in count], "bias": 0.5}
    few = {"true_parameters": None, "optimum": None, "terms": [f"x_{k}" for k in count]}
    print_result(changed({"parameters": parameters, **few}), Path("r"))
    table = [line.split() for line in shown(capsys).split("\n\n")[0].splitlines()[3:]]
    weights = [["weight", "of", f"x_{k}", f"{k / 4:g}"] for k in range(1, 21)]
    assert table == [*weights, *left_out, ["bias", "0.5"]]


def test_a_run_of_a_sweep_is_a_line_and_its_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    ending = "completed after 1 step, 1,000 epochs, 1.24 s"
    losses = "  train/loss 1.23457  val/loss 2  test/loss 0.333333\n"
    print_line(TWO)
    assert shown(capsys) == f"{ending}{losses}{PREDICTIONS}"
    print_line(changed({"predictions": []}, stopped="its budget of 5 samples is spent"))
    assert shown(capsys) == f"{ending}, stopped early: its budget of 5 samples is spent{losses}"


def test_a_run_of_a_sweep_shows_the_metric_that_decides_first(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {**TWO.metrics, "test/r2": 0.8}
    for metric, value in (("val/r2", "  val/r2 0.9  test/r2 0.8"), ("val/acc", "")):
        print_line(replace(TWO, metrics=metrics, monitor={"metric": metric, "mode": "max"}, callbacks=[]))
        losses = "  train/loss 1.23457  val/loss 2  test/loss 0.333333\n"
        assert shown(capsys) == f"completed after 1 step, 1,000 epochs, 1.24 s{value}{losses}"


def test_a_narrow_console_cuts_no_path_and_no_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = "a reason of quite a lot of words that no narrow console has on one line"
    long = Path("logs/runs/" + "a b/" * 30)
    result = replace(TWO, metrics={}, callbacks=[], reason=words, stopped=words)
    print_result(result, long)
    assert shown(capsys) == (
        f"completed after 1 step, 1,000 epochs, 1.24 s, stopped early: {words}\n{words}\n{long}\n\n"
    )
    print_line(result)
    assert shown(capsys).count("\n") == 1
    print_choices(config_of(), long)
    assert shown(capsys).endswith(f"\n{long}\n\n")


def test_the_settings_groups_and_the_ending_stand_out_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_choices(config_of(), Path("r/1"))
    print_result(replace(TWO, metrics={}, callbacks=[], reason="1 reason"), Path("r/1"))
    written = capsys.readouterr().out
    assert "\x1b[1mmodel" in written and "\x1b[36mlinear" in written
    assert "\x1b[1mcompleted after 1 step, 1,000 epochs, 1.24 s\x1b[0m\n1 reason\nr/1\n" in written
