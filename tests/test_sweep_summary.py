"""Compares the full summary of a sweep with results written by hand."""

import csv
from pathlib import Path
from typing import Any

import pytest

from descent.run.result import Result, read_result
from descent.sweep.summary import summarize


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "82")
    monkeypatch.chdir(tmp_path)


def write(name: str, status: Any = "completed", reason: str | None = None, **given: Any) -> None:
    run_dir = Path("my sweep") / name
    run_dir.mkdir(parents=True)
    Result(status, seed=0, command="", reason=reason, **given).write(run_dir)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_sweep_without_a_finite_monitor_has_no_order(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("lr=1", "lr=2"):
        write(name, metrics={"train/loss": 1.0, "val/loss": None})  # type: ignore[dict-item]
    summarize(Path("my sweep"))
    lines = printed(capsys)
    assert "note: no completed run has a finite val/loss, so the order is by name" in lines
    assert not [line for line in lines if line.startswith("best first")]


def test_the_summary_and_its_csv_are_these(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"steps": 1234567, "epochs": 20, "samples": 99, "seconds": 1.2345}
    both = {"train/loss": 1.0, "val/loss": 2.0}
    write("a[b]=1,clip=no,lr=1", metrics=both, hparams={"optimizer.lr": 1.0, "clip": "no"}, **counts)
    write("a[b]=2,clip=no,lr=1", metrics={"train/loss": 3.0, "val/loss": 0.123456789}, seconds=0.006)
    write("a[b]=2,clip=no,lr=9", "diverged", "the training loss [1] is too large", metrics={"train/loss": None})  # type: ignore[dict-item]
    write("a[b]=3,clip=no,lr=1", metrics={"train/loss": 1.5, "test/loss": 7.0})
    write("a[b]=4,clip=no,lr=1", "failed", "it broke")
    write("a[b]=5,clip=no,lr=1", metrics={"train/loss": 1e-9, "val/loss": None})  # type: ignore[dict-item]
    write("broken")
    Path("my sweep/broken/result.json").write_text("[]")
    Path("my sweep/empty").mkdir()
    runs = summarize(Path("my sweep"))
    assert printed(capsys) == [
        "left out: my sweep/broken/result.json must be the result of a run, a JSON object, got []",
        "",
        " run                      val/loss   train/loss   test/loss       steps   seconds",
        " ────────────────────────────────────────────────────────────────────────────────",
        " a[b]=2, lr=1              0.12346            3                       0      0.01",
        " a[b]=3, lr=1                               1.5           7           0      0.00",
        " a[b]=1, lr=1                    2            1               1,234,567      1.23",
        " a[b]=2, lr=9                                                         0      0.00",
        " (diverged)",
        " a[b]=4, lr=1 (failed)                                                0      0.00",
        " a[b]=5, lr=1                             1e-09                       0      0.00",
        "",
        "best first by val/loss after the last step; test/* are from the best checkpoint",
        "a[b]=2,clip=no,lr=9 diverged: the training loss [1] is too large",
        "a[b]=4,clip=no,lr=1 failed: it broke",
        "6 runs in my sweep, as a table in summary.csv",
        "python scripts/compare.py 'my sweep'   compares them",
        "tensorboard --logdir 'my sweep'   shows their curves and hyperparameters",
    ]
    names = [f"a[b]={part}" for part in ("1,clip=no,lr=1", "2,clip=no,lr=1", "2,clip=no,lr=9", "3,clip=no,lr=1")]
    names += ["a[b]=4,clip=no,lr=1", "a[b]=5,clip=no,lr=1"]
    assert [(path, result) for path, result in runs] == [
        (Path("my sweep") / name, read_result(Path("my sweep") / name)) for name in names
    ]
    with Path("my sweep/summary.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            [
                *("run", "status", "reason", "steps", "epochs", "samples", "seconds"),
                *("train/loss", "val/loss", "optimizer.lr", "clip", "test/loss"),
            ],
            [names[0], "completed", "", "1234567", "20", "99", "1.2345", "1.0", "2.0", "1.0", "no", ""],
            [names[1], "completed", "", "0", "0", "0", "0.006", "3.0", "0.123456789", "", "", ""],
            [names[2], "diverged", "the training loss [1] is too large", *["0"] * 3, "0.0", *[""] * 5],
            [names[3], "completed", "", "0", "0", "0", "0.0", "1.5", "", "", "", "7.0"],
            [names[4], "failed", "it broke", "0", "0", "0", "0.0", *[""] * 5],
            [names[5], "completed", "", "0", "0", "0", "0.0", "1e-09", "", "", "", ""],
        ]


def test_a_single_run_has_its_full_name_and_a_sweep_may_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    write("seed=1,lr=2", metrics={"val/loss": 0.0})
    summarize(Path("my sweep"))
    assert printed(capsys)[1:] == [
        " run            val/loss   steps   seconds",
        " ─────────────────────────────────────────",
        " seed=1, lr=2          0       0      0.00",
        "",
        "1 run in my sweep, as a table in summary.csv",
        "python scripts/compare.py 'my sweep'   compares them",
    ]
    Path("none").mkdir()
    assert summarize(Path("none")) == []
    assert capsys.readouterr().out.endswith("0 runs in none, as a table in summary.csv\n")
    assert Path("none/summary.csv").read_text() == "\n"


@pytest.mark.parametrize("number", [30, 31])
def test_the_best_30_are_shown(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(number):
        write(f"k={k:02}", metrics={"val/loss": float(number - k)})
    summarize(Path("my sweep"))
    lines = printed(capsys)
    shown = [line.split()[0] for line in lines if line.startswith(" k=")]
    assert shown == [f"k={k:02}" for k in range(number - 1, number - 31, -1)]
    assert ("the best 30 of 31" in lines) == (number == 31)


def test_runs_of_the_same_overrides_have_their_full_names(capsys: pytest.CaptureFixture[str]) -> None:
    write("a,b")
    write("b,a")
    summarize(Path("my sweep"))
    assert [line.split("  ")[0] for line in printed(capsys) if line.startswith((" a,b", " b,a"))] == [" a,b", " b,a"]


def test_a_metric_that_differs_in_kind_between_runs_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    notes = []
    for name, kind in (("a", "mse"), ("b", "mse"), ("c", "mae")):
        write(f"k={name}", metrics={"val/loss": 1.0, "val/mae": 1.0}, quantities={"loss": kind})
        summarize(Path("my sweep"))
        notes.append([line for line in printed(capsys) if line.startswith("note")])
    assert notes == [[], [], ["note: val/loss is mae in some runs and mse in others, so the order is meaningless"]]


def test_runs_with_other_code_than_most_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(15):
        write(f"k={number:02}", metrics={"val/loss": 1.0}, code={"mine": "old" if number < 7 else "new"})
    summarize(Path("my sweep"))
    (note,) = [line for line in printed(capsys) if line.startswith("note")]
    assert note == ("note: the code of mine differs between runs; unlike most: k=00; k=01; k=02; k=03; k=04; 2 more")


@pytest.mark.parametrize("better", [0.5, 0.05])
def test_a_run_with_the_best_earlier_checkpoint_is_noted(better: float, capsys: pytest.CaptureFixture[str]) -> None:
    for name, last, value in (("k=a", 0.1, 0.1), ("k=b", 3.0, better), ("k=c", 2.0, None)):
        best = {"step": 1200, "metric": "val/loss", "value": value}
        write(name, metrics={"val/loss": last}, best=best, monitor={"metric": "val/loss", "mode": "min"})
    summarize(Path("my sweep"))
    lines = printed(capsys)
    assert "best first by val/loss after the last step" in lines
    notes = [line for line in lines if line.startswith("note")]
    assert notes == ["note: best checkpoint: k=b, val/loss 0.05 at step 1,200"] * (better < 0.1)


def test_mode_max_sorts_the_largest_first_then_by_name_and_nan_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("k=a", 0.5), ("k=b", 0.9), ("k=c", float("nan")), ("k=d", 0.9)):
        write(name, metrics={"val/acc": value}, monitor={"metric": "val/acc", "mode": "max"})
    summarize(Path("my sweep"))
    shown = [line.split()[0] for line in printed(capsys) if line.startswith(" k=")]
    assert shown == ["k=b", "k=d", "k=a", "k=c"]


def test_runs_with_long_names_are_told_apart_by_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    fixed = ["name=x", "monitor.metric=val/iou", "data.path=/some/where", "trainer.max_epochs=3"]
    for seed in (0, 1):
        overrides = [*fixed, "model.hidden=[8,8]", f"seed={seed}"]
        write(f"data.path=_some_where,model.hidden=_8_8,monitor-{seed}234567", metrics={"val/loss": float(seed)})
        run_dir = Path("my sweep") / f"data.path=_some_where,model.hidden=_8_8,monitor-{seed}234567"
        (run_dir / ".hydra").mkdir()
        (run_dir / ".hydra/overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    summarize(Path("my sweep"))
    lines = printed(capsys)
    assert [line.split()[0] for line in lines if line.startswith(" seed=")] == ["seed=0", "seed=1"]
    (run_dir / ".hydra/overrides.yaml").write_text("[")
    summarize(Path("my sweep"))
    assert "monitor-1234567" in capsys.readouterr().out
