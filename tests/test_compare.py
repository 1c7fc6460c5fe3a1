"""Compares comparisons with numbers read from the runs themselves."""

import base64
import io
import json
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from conftest import Run, config_of
from test_resume import SignalAt
from test_train import events

from descent.compare import ranking
from descent.compare.plots import curve_over
from descent.compare.runs import read_runs
from descent.compare.settings import best_settings, settings_of
from descent.compare.tables import table_of, to_target
from descent.config.metric import Metric
from descent.errors import UserError
from descent.run.result import read_result
from descent.run.train import train
from regression.comparison import EXCESS, EXTRA, contraction_of, problem


class Page(HTMLParser):
    """Reads the cells and images of a page, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.images: list[bytes] = []
        self.titles: list[str] = []
        self.captions: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            kind, _, data = (dict(attrs)["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            self.images.append(base64.b64decode(data, validate=True))
            self.titles.append(dict(attrs)["alt"] or "")
        elif tag != "meta":  # a meta tag is not closed
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "figcaption":
            self.captions.append(data)


LOSS, R2 = Metric("val/loss", "min"), Metric("val/r2", "max")
compare = partial(ranking.compare, extra=EXTRA)  # as scripts/compare.py does
SMALL = ("data.num_samples=100", "data.num_features=1", "trainer.enable_progress_bar=false", "trainer.max_epochs=30")
RATES = ("0.02", "0.2", "2.0")  # the last one diverges


def made(directory: Path, *overrides: str) -> None:
    train(config_of(*SMALL, "figures=false", *overrides), directory)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two optimizers, three rates, two seeds, and runs that do not belong in the comparison."""
    study = tmp_path_factory.mktemp("study")
    for rate in RATES:
        for seed in (0, 1):
            made(study / f"{rate}-{seed}", "batch=full", f"optimizer.lr={rate}", f"seed={seed}")
    made(study / "lbfgs", "batch=full", "optimizer=lbfgs")
    made(study / "mini", "batch=mini", "optimizer.lr=0.02")
    made(study / "other", "data.seed=5")
    (study / "broken").mkdir()
    (study / "broken/result.json").write_text("{")
    made(study / "interrupted")
    text = (study / "interrupted/result.json").read_text()
    (study / "interrupted/result.json").write_text(text.replace('"completed"', '"interrupted"'))
    made(study / "killed")
    (study / "killed/result.json").unlink()
    return study


def test_runs_that_cannot_be_compared_are_named_and_left_out(study: Path) -> None:
    runs, left_out = read_runs([study])
    assert len(runs) == 8
    reasons = {
        "other": "another data set",
        "broken": "result.json",
        "interrupted": "interrupted",
        "killed": "not finished, it has no result.json",
    }
    assert len(left_out) == len(reasons)
    for name, reason in reasons.items():
        (line,) = (line for line in left_out if line.startswith(f"{study / name}: "))
        assert reason in line.removeprefix(f"{study / name}: ")


def test_the_table_has_means_and_deviations_over_seeds(study: Path) -> None:
    runs, _ = read_runs([study])
    table = table_of(settings_of(runs), LOSS, EXCESS)
    row = table.row(by_predicate=pl.col("setting") == "sgd, lr=0.2, full", named=True)
    losses = [read_result(study / f"0.2-{seed}")["metrics"]["val/loss"] for seed in (0, 1)]
    assert row["val/loss mean"] == pytest.approx(statistics.fmean(losses))
    assert row["val/loss deviation"] == pytest.approx(statistics.stdev(losses))
    assert (row["runs"], row["diverged"], row["at target"], row["missed"]) == (2, 0, 2, 0)
    worst = table.row(-1, named=True)
    assert (worst["setting"], worst["runs"], worst["diverged"], worst["missed"]) == ("sgd, lr=2, full", 2, 2, 2)
    assert worst["val/loss mean"] is None


def test_settings_differ_in_what_was_varied_and_not_in_the_seed(study: Path) -> None:
    runs, _ = read_runs([study])
    settings = settings_of(runs)
    assert sorted(len(setting.runs) for setting in settings) == [1, 1, 2, 2, 2]
    assert all("seed" not in setting.values for setting in settings)


def test_a_group_is_shown_by_the_setting_with_the_most_runs_and_then_the_lowest_loss(study: Path) -> None:
    runs, _ = read_runs([study])
    chosen = best_settings(settings_of(runs), ["optimizer"], LOSS)
    assert sorted(setting.name for setting in chosen) == ["lbfgs, lr=1, full", "sgd, lr=0.2, full"]
    by_r2 = best_settings(settings_of(runs), ["optimizer"], R2)
    assert [setting.name for setting in by_r2] == [setting.name for setting in chosen]


def test_a_metric_of_which_more_is_better_ranks_from_above(study: Path) -> None:
    runs, _ = read_runs([study])
    r2 = [value for value in table_of(settings_of(runs), R2, EXCESS)["val/r2 mean"] if value is not None]
    assert r2 == sorted(r2, reverse=True)


def test_the_target_is_reached_at_the_first_point_below_it(study: Path) -> None:
    runs, _ = read_runs([study])
    (run,) = (run for run in runs if run.path.name == "0.2-0")
    limit = 0.01 * run.result["optimum"]["loss"]
    points = [point for point in events(run.path).Scalars("optimum/excess_loss") if point.value <= limit]
    reached = to_target(run, EXCESS)
    assert reached is not None
    assert reached["steps"] == reached["gradient_evaluations"] == points[0].step
    assert reached["samples"] == 80 * points[0].step
    (slow,) = (run for run in runs if run.path.name == "0.02-0")
    assert to_target(slow, replace(EXCESS, target=1e-9)) is None


def test_lbfgs_is_charged_for_every_gradient(study: Path) -> None:
    runs, _ = read_runs([study])
    (run,) = (run for run in runs if run.path.name == "lbfgs")
    reached = to_target(run, EXCESS)
    assert reached is not None
    assert reached["gradient_evaluations"] > reached["steps"]
    axis = run.axis("gradient_evaluations", run.curve(EXCESS.tag)[0])
    assert axis[0] == 0
    assert axis[-1] == run.result["gradient_evaluations"]


def test_the_report_is_one_file_with_every_figure_in_it(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = compare([study])
    assert out == study / "compare"
    page = (out / "report.html").read_text()
    figures = {path.stem for path in out.glob("*.png")}
    assert figures == {
        *(f"excess_over_{axis}" for axis in ("steps", "samples", "gradient_evaluations", "seconds")),
        *("learning_rates", "heat_map", "paths", "contraction"),
    }
    assert "://" not in page
    read = Page()
    read.feed(page)
    assert read.open == []
    assert sorted(read.images) == sorted((out / f"{name}.png").read_bytes() for name in figures)
    for image in read.images:
        height, width, _ = plt.imread(io.BytesIO(image)).shape
        assert min(height, width) > 100
    table = pl.read_csv(out / "settings.csv")
    titles = ["setting", "runs", "diverged", "val/loss", "above the optimum", "at target", "steps to target"]
    assert read.rows[0] == titles
    assert [row[:3] for row in read.rows[1:]] == [
        [name, str(count), str(without)] for name, count, without in table.select(titles[:3]).iter_rows()
    ]
    means = [f"{value:.4g}" if value is not None else "" for value in table["val/loss mean"]]
    assert [row[3].split(" ±")[0] for row in read.rows[1:]] == means
    assert "settings.csv has all columns" in page
    assert len(read.captions) == len(read.titles) == len(figures)
    for title, caption in zip(read.titles, read.captions, strict=True):
        assert caption.endswith(".") and caption.count(". ") <= 1  # one sentence or two
        assert title not in caption
    assert "another data set" in page
    printed = capsys.readouterr().out
    assert "left out:" in printed
    runs = pl.read_csv(out / "runs.csv", infer_schema_length=None)
    assert len(runs) == 8
    assert {"optimizer.lr", "val/loss", "seed", "status"} <= set(runs.columns)


def test_a_rerun_of_the_comparison_does_not_compare_itself(study: Path) -> None:
    compare([study])
    assert len(read_runs([study])[0]) == 8
    assert len(read_runs([study, study / "../" / study.name])[0]) == 8


@pytest.mark.parametrize(
    "broken",
    [
        *({key: value} for key in ("metrics", "steps", "seconds") for value in (None, "x", [1])),
        *({key: value} for key in ("checksum", "rows") for value in ("x", [1])),
        *({key: "x"} for key in ("optimum", "best", "gradient_evaluations", "status", "hparams")),
        *({"metrics": {"val/loss": "low"}}, {"rows": {"train": "many"}}, {"steps": 31}),
    ],
    ids=str,
)
def test_a_run_with_a_broken_result_is_named_and_not_compared(
    broken: dict[str, object], study: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        shutil.copytree(study / f"0.2-{seed}", tmp_path / str(seed))
    path = tmp_path / "1/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | broken))
    runs, left_out = read_runs([tmp_path], problem)
    assert [run.path.name for run in runs] == ["0"]
    assert len(left_out) == 1 and left_out[0].startswith(f"{tmp_path / '1'}: ")


def test_a_damaged_event_file_is_named(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "0.2-0", tmp_path / "0")
    shutil.copytree(study / "0.2-1", tmp_path / "1")
    events_file = next((tmp_path / "1").glob("events.out*"))
    events_file.write_bytes(events_file.read_bytes()[:3000])
    _, left_out = read_runs([tmp_path])
    assert re.fullmatch(rf"{tmp_path}/1: its event file is broken: it ends at step \d+ of 30", left_out[0])


def test_runs_that_all_diverged_are_compared_and_foreign_files_kept(tmp_path: Path) -> None:
    for rate in ("10", "100"):
        made(tmp_path / rate, "batch=full", f"optimizer.lr={rate}")
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare/mine.png").write_bytes(b"mine")
    out = compare([tmp_path])
    assert pl.read_csv(out / "settings.csv")["diverged"].to_list() == [1, 1]
    assert (out / "learning_rates.png").is_file()
    assert (out / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": ["optimzer"]}, "--group must be hyperparameters that differ"),
        ({"metric": "val/accuracy"}, "--metric must be one of"),
    ],
)
def test_an_unknown_name_is_refused(study: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare([study], **arguments)  # type: ignore[arg-type]


def test_a_directory_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DIR must hold finished runs"):
        compare([tmp_path])
    with pytest.raises(UserError, match="DIR must be a directory"):
        compare([tmp_path / "none"])


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("nesterov", 0.3)])
def test_measured_contraction_is_the_predicted_one(optimizer: str, lr: float, run: Run, tmp_path: Path) -> None:
    long = ("data.num_features=4", "trainer.max_epochs=300", "trainer.log_every_n_steps=1")
    run("batch=full", f"optimizer={optimizer}", f"optimizer.lr={lr}", "trainer=float64", *long)
    (found,) = read_runs([tmp_path])[0]
    predicted, measured, settled = contraction_of(found) or (0.0, 0.0, False)
    assert settled
    assert measured == pytest.approx(predicted, rel=1e-5)


def test_standardisation_and_bias_make_no_other_data_set(tmp_path: Path) -> None:
    for flag in ("true", "false"):
        made(tmp_path / f"standardize-{flag}", f"data.standardize={flag}", "trainer.max_epochs=1")
        made(tmp_path / f"bias-{flag}", f"model.bias={flag}", "trainer.max_epochs=1", "seed=1")
    made(tmp_path / "split", "data.val_fraction=0.2", "trainer.max_epochs=1")
    runs, left_out = read_runs([tmp_path])
    assert len(runs) == 4
    assert left_out == [f"{tmp_path / 'split'}: another data set (by its checksum)"]


def test_a_diverged_seed_is_a_miss_and_takes_nothing_from_the_others(study: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(study / f"0.2-{seed}", tmp_path / str(seed))
    result = tmp_path / "1/result.json"
    result.write_text(result.read_text().replace('"completed"', '"diverged"'))
    runs, _ = read_runs([tmp_path])
    (setting,) = settings_of(runs)
    row = table_of([setting], LOSS, EXCESS).row(0, named=True)
    assert (row["runs"], row["diverged"], row["at target"], row["missed"]) == (2, 1, 1, 1)
    assert row["val/loss mean"] == read_result(tmp_path / "0")["metrics"]["val/loss"]
    drawn = curve_over([setting], EXCESS, "steps")
    assert drawn is not None
    (line,) = drawn.axes[0].lines
    assert np.max(line.get_xdata()) == 30


def test_the_time_that_a_run_lay_idle_does_not_count(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def clock() -> float:  # every call takes a second
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    stopped = run("trainer.max_epochs=4", callbacks=[SignalAt(30)], run_dir=tmp_path / "r")
    assert stopped.status == "interrupted"
    spent, idle = now - 1000.0, 1e6
    now += idle
    result = run("trainer.max_epochs=4", run_dir=tmp_path / "r", resume=True)
    total = now - 1000.0 - idle
    (found,) = read_runs([tmp_path])[0]
    points = found.axis("seconds", found.curve(EXCESS.tag)[0])
    assert list(points) == sorted(points)
    assert 0 < points[1] < spent < points[-1] < total
    assert spent / 2 < result.seconds < total
