"""Tests the exact text of a comparison's console, page and tables, from hand-written results."""

import base64
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from drawn import drawn
from test_compare_by_hand import compare, write

from descent.errors import UserError

ADAM = "[b]<am>"  # neither rich nor a browser may interpret it
FAST = {"optimum/excess_loss": [(0, 4.0), (10, 0.02), (30, 0.01)]}
SLOW = {"optimum/excess_loss": [(0, 4.0), (60, 0.5), (100, 0.005)], "grad/evaluations": [(20, 60), (100, 300)]}
NEVER = {"optimum/excess_loss": [(0, 4.0), (100, 0.5)]}
RUNS: list[tuple[str, float, int, float | None, Any]] = [
    *(("sgd", 0.1, 0, 1.0, {}), ("sgd", 0.1, 1, 3.0, FAST), ("sgd", 0.5, 0, 0.123456, NEVER)),
    *((ADAM, 0.1, 0, 0.25, SLOW), (ADAM, 0.1, 1, None, {})),
]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SGD at two rates; Adam, where one seed diverged; and a run that has not ended."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for optimizer, lr, seed, loss, curves in RUNS:
        above = {} if loss is None else {"optimum/excess_loss": loss / 100}
        write(
            Path("a & b") / f"{optimizer[:3]}{lr}-{seed}",
            curves,
            seed=seed,
            samples=800,
            gradient_evaluations=300 if curves is SLOW else 100,
            status="diverged" if loss is None else "completed",
            reason="too large" if loss is None else None,
            hparams={"optimizer": optimizer, "optimizer.lr": lr, "batch.size": 8},
            metrics={"val/loss": loss, "test/loss": loss and 2 * loss, **above},
            best={"step": 9, "monitor": "val/loss", "value": loss and loss / 2},
        )
    write(Path("a & b/stopped"), status="interrupted")
    return Path("a & b")


RANKED = "ranked by the share of runs that diverged, then by the others' mean of"
MEDIANS = "medians are over the runs that reached it"


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_all_that_is_written_of_a_ranking(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([study]) == study / "compare"
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert [line.rstrip() for line in printed.splitlines()] == [
        "",
        "                                               above       at       steps",
        " setting           diverged   val/loss   the optimum   target   to target",
        " ────────────────────────────────────────────────────────────────────────",
        " sgd, lr=0.5              0     0.1235        0.0012      0/1",
        " sgd, lr=0.1              0      2 ± 1          0.02      2/2          40",
        " [b]<am>, lr=0.1          1       0.25        0.0025      1/2         100",
        "",
        f"{RANKED} val/loss after the last step, the smallest first",
        f"target: a training loss at most 1% above the optimum's; {MEDIANS}",
        "steps to the target are known to within the distance of the logged points: 40 to 50",
        "left out: a & b/stopped: interrupted",
        "tables and figures: a & b/compare/report.html",
    ]
    assert table(study / "compare/settings.csv") == [
        [
            *("setting", "runs", "diverged", "chosen by", "reported", "val/loss mean", "val/loss deviation"),
            *("above the optimum", "best val/loss mean", "best val/loss deviation", "at target", "missed"),
            *("steps to target", "samples to target", "gradient_evaluations to target", "seconds to target"),
            "steps between points",
        ],
        ["sgd, lr=0.5", "1", "0", "", "val/loss", "0.123456", "", "0.00123456", "0.061728", "", "0", "1", *[""] * 5],
        [
            *("sgd, lr=0.1", "2", "0", "", "val/loss", "2.0", "1.4142135623730951", "0.02", "1.0"),
            *("0.7071067811865476", "2", "0", "40.0", "320.0", "40.0", "0.4", "50.0"),
        ],
        [
            *("[b]<am>, lr=0.1", "2", "1", "", "val/loss", "0.25", "", "0.0025", "0.125", "", "1", "1"),
            *("100.0", "800.0", "300.0", "1.0", "40.0"),
        ],
    ]
    outcome = ["100", "100", "800"]
    assert table(study / "compare/runs.csv") == [
        [
            *("run", "status", "reason", "stopped", "seed", "steps", "epochs", "samples", "gradient_evaluations"),
            *("seconds", "train/loss", "val/loss", "test/loss", "optimum/excess_loss"),
            *("optimizer", "optimizer._target_", "optimizer.lr", "batch", "batch.size", "scheduler"),
        ],
        *(
            [
                *(f"a & b/{optimizer[:3]}{lr}-{seed}", "diverged" if loss is None else "completed"),
                *("too large" if loss is None else "", "", str(seed), *outcome),
                *("300" if curves is SLOW else "100", "1.0", "1.0"),
                *(("", "", "") if loss is None else (f"{loss}", f"{2 * loss}", f"{loss / 100}")),
                *(optimizer, "torch.optim.SGD", str(lr), "full", "8", "none"),
            ]
            for optimizer, lr, seed, loss, curves in [*RUNS[3:], *RUNS[:3]]
        ),
    ]


FOUND = "chosen for each optimizer: the setting with the most seeds, then the best by val/loss"
REPORTED = "reported: test/loss, on rows not used to choose, at the checkpoint with the best val/loss"
FRESH = "a setting with seeds that were not used to choose it is measured on those seeds only"
FINE = "steps to the target are known to within the distance of the logged points: 10 to 40"


def test_all_that_is_written_of_the_best_of_each(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"target: a training loss at most 2.5% above the optimum's; {MEDIANS}"
    notes = [f"{RANKED} test/loss, the smallest first", FOUND, REPORTED, FRESH, target, FINE]
    compare([study], ["optimizer"], "samples", target=0.025)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "                                                above       at       steps",
        " setting           diverged   test/loss   the optimum   target   to target",
        " ─────────────────────────────────────────────────────────────────────────",
        " sgd, lr=0.1              0           6          0.03      1/1          10",
        " [b]<am>, lr=0.1          1         0.5        0.0025      1/2         100",
        "",
        *notes,
        "left out: a & b/stopped: interrupted",
        "tables and figures: a & b/compare/report.html",
    ]
    out = study / "compare"
    page = (out / "report.html").read_text(encoding="utf-8")
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    assert not re.search(r"<|url|@import", style)
    pictures = {
        name: base64.b64encode((out / f"{name}.png").read_bytes()).decode()
        for name in ("excess_over_samples", "learning_rates")
    }
    assert len(list(out.glob("*.png"))) == 2
    assert page.replace(style, "").split("\n") == [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<title>Comparison</title><style></style>",
        "<h1>5 runs, 3 settings: the best of each optimizer</h1>",
        "".join(f"<p>{note}</p>" for note in notes).replace("'", "&#x27;") + "<div><table><tr>",
        "<th>setting</th><th>runs</th><th>diverged</th><th>test/loss</th><th>above the optimum</th>"
        "<th>at target</th><th>steps to target</th></tr>",
        "<tr><td>sgd, lr=0.1</td><td>1</td><td>0</td><td>6</td><td>0.03</td><td>1/1</td><td>10</td></tr>",
        "<tr><td>[b]&lt;am&gt;, lr=0.1</td><td>2</td><td>1</td><td>0.5</td><td>0.0025</td><td>1/2</td><td>100</td>"
        "</tr>",
        "</table></div><p>settings.csv has all columns, and runs.csv has a row for each run.</p>",
        '<figure><img alt="training loss above the optimum over samples seen" '
        f'src="data:image/png;base64,{pictures["excess_over_samples"]}"><figcaption>Lower is better. '
        "A straight line on this logarithmic axis means that each sample shrinks the value by the same factor."
        "</figcaption></figure>",
        '<figure><img alt="val/loss over the learning rate; crosses: runs that diverged" '
        f'src="data:image/png;base64,{pictures["learning_rates"]}"><figcaption>Lower is better. '
        "A line that stays good over a wide range belongs to a setting whose learning rate is easy to choose."
        "</figcaption></figure>",
        "<h2>Left out</h2><ul><li>a &amp; b/stopped: interrupted</li></ul>",
        "</html>",
    ]


def test_a_comparison_of_one_setting_says_no_more_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("first", "second")):
        write(Path(name), {"optimum/excess_loss": []}, optimum=None, best=None, seed=seed)
    assert compare([Path("second"), Path("first")]) == Path("second/compare")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        " setting    train/loss",
        " ─────────────────────",
        " all runs        1 ± 0",
        "",
        "ranked by the mean of train/loss after the last step, the smallest first",
        "tables and figures: second/compare/report.html",
    ]
    page = Path("second/compare/report.html").read_text()
    assert "Left out" not in page and "<p></p>" not in page and "<figure>" not in page
    assert [row[0] for row in table(Path("second/compare/runs.csv"))] == ["run", "first", "second"]


AT = "at the checkpoint with the best"


@pytest.mark.parametrize(
    ("group", "metric", "monitors", "expected"),
    [
        ((), "val/loss", ["val/loss", None], []),
        ((), "test/loss", ["val/loss", None], [f"reported: test/loss, on rows not used to choose, {AT} val/loss"]),
        ((), "test/loss", [None, None], ["reported: test/loss, on rows not used to choose"]),
        (
            ("optimizer", "batch"),
            "test/loss",
            ["val/r2", "train/loss"],
            [
                "chosen for each optimizer and batch: the setting with the most seeds, then the best by val/loss",
                f"reported: test/loss, on rows not used to choose, {AT} train/loss or val/r2",
                FRESH,
            ],
        ),
        (("optimizer",), "val/loss", [None, None], [FOUND, "reported: val/loss, on the rows used to choose", FRESH]),
    ],
)
def test_the_notes_say_what_chose_and_what_is_reported(
    group: Sequence[str],
    metric: str,
    monitors: list[str | None],
    expected: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, monitor in enumerate(monitors):
        best = monitor and {"step": 1, "monitor": monitor, "value": 1.0}
        hparams = {"optimizer.lr": number + 0.5}
        metrics = {"val/loss": 1.0, "test/loss": 1.0}
        write(tmp_path / str(number), NEVER, best=best, hparams=hparams, metrics=metrics)
    compare([tmp_path], group, "steps", metric=metric)
    printed = capsys.readouterr().out.splitlines()
    assert [
        line for line in printed if line.startswith(("chosen", "reported", "a setting with seeds", "steps to the"))
    ] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.0}, "--target must be a positive number, got 0.0"),
        ({"target": -1.0}, "--target must be a positive number, got -1.0"),
        ({"target": float("inf")}, "--target must be a positive number, got inf"),
        ({"target": float("nan")}, "--target must be a positive number, got nan"),
        ({"metric": "loss"}, "--metric must be one of train/loss, val/loss, got 'loss'"),
        ({"group": ["seed"]}, "--group must be hyperparameters that differ (optimizer.lr), got 'seed'"),
        ({"group": ["optimizer", "x"]}, "--group must be hyperparameters that differ (optimizer.lr), got 'x'"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_is_refused_with_the_rule(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for lr in (0.1, 0.2):
        write(tmp_path / str(lr), hparams={"optimizer.lr": lr}, metrics={"val/loss": 1.0})
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        compare([tmp_path], **arguments)
    assert not (tmp_path / "compare").exists()


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "run")
    (tmp_path / "compare").write_text("mine")
    with pytest.raises(UserError, match=f"^cannot write {tmp_path}/compare: File exists$"):
        compare([tmp_path])


@pytest.mark.parametrize("error", [OverflowError("x"), ValueError("x")], ids=repr)
def test_a_figure_that_cannot_be_drawn_is_reported_and_the_others_are_drawn(
    error: Exception, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any) -> None:
        raise error

    monkeypatch.setattr("descent.compare.ranking.learning_rates", broken)
    out = compare([study], x="steps")
    assert capsys.readouterr().err == "note: learning_rates cannot be drawn: x\n"
    assert (out / "report.html").is_file()
    assert (out / "excess_over_steps.png").is_file() and not (out / "learning_rates.png").exists()


def test_the_figures_have_the_reports_resolution_and_order(study: Path) -> None:
    with drawn() as figures:
        compare([study])
    assert [dpi for _, dpi in figures] == [110] * 4
    assert [figure.axes[0].get_xlabel() for figure, _ in figures] == [
        *("optimizer steps", "gradient evaluations", "seconds of training", "learning rate")
    ]


def test_settings_with_different_budgets_are_noted(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, path in enumerate(sorted(study.rglob("result.json"))):
        result = json.loads(path.read_text())
        result["hparams"] |= {"trainer.max_epochs": 20 if number else 3, "trainer.max_steps": 100 if number else None}
        path.write_text(json.dumps(result))
    compare([study])
    printed = " ".join(capsys.readouterr().out.split())
    note = "the settings had different budgets: trainer.max_epochs is 3, 20; trainer.max_steps is 100, null"
    assert note in printed
    assert note in (study / "compare/report.html").read_text(encoding="utf-8")
