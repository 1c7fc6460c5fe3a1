"""What a sweep leaves behind: a table of its runs, on the console and as ``summary.csv``."""

import csv
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from descent.result import read_result

METRICS = ("train/loss", "val/loss", "test/loss")


class Summary(Callback):
    """Hydra calls it after the last job of a sweep, whatever sweeper and launcher ran the jobs."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweep_dir = Path(config.hydra.sweep.dir)
        runs = [
            (path.parent, read_result(path.parent)) for path in sorted(sweep_dir.glob("*/result.json"))
        ]
        write_summary(sweep_dir, runs)
        print_summary(sweep_dir, runs)


def write_summary(sweep_dir: Path, runs: list[tuple[Path, dict[str, Any]]]) -> None:
    """``summary.csv``: a row a run, with its directory, outcome, hyperparameters and metrics."""
    rows = [
        {"run": run.name}
        | {k: result[k] for k in ("status", "reason", "steps", "epochs", "samples", "seconds")}
        | result["metrics"]
        | result["hparams"]
        for run, result in runs
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (sweep_dir / "summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def print_summary(sweep_dir: Path, runs: list[tuple[Path, dict[str, Any]]]) -> None:
    """The runs, best validation (or training) loss first."""
    table = Table("run", "status", box=SIMPLE_HEAD, pad_edge=False)
    for column in (*METRICS, "steps", "seconds"):
        table.add_column(column, justify="right")
    for run, result in sorted(runs, key=_rank):
        losses = [result["metrics"].get(metric) for metric in METRICS]
        cells = ["" if loss is None else f"{loss:.6g}" for loss in losses]
        table.add_row(run.name, result["status"], *cells, f"{result['steps']:,}", f"{result['seconds']:.2f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{len(runs)} runs in {sweep_dir}, as a table in summary.csv", soft_wrap=True)


def _rank(run: tuple[Path, dict[str, Any]]) -> tuple[bool, float]:
    _, result = run
    metrics = result["metrics"]
    loss = metrics.get("val/loss", metrics.get("train/loss"))
    return (result["status"] != "completed" or loss is None, loss or 0.0)
