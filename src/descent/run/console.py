"""Prints the settings and the result of a run on the console."""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from descent.config.hparams import GROUPS, flat_hparams
from descent.config.metric import SPLITS, in_split, without_split
from descent.config.schema import Config, MonitorConfig
from descent.errors import as_yaml, counted
from descent.run.result import Result

# Groups that show only the keys that people change; the run's .hydra/config.yaml has all of them.
SHOWN = {
    "stopping": (
        *("patience", "min_delta", "gradient_norm", "loss_change"),
        *("max_samples", "max_gradient_evaluations", "max_seconds"),
    ),
    "trainer": (
        *("accelerator", "precision", "max_epochs", "max_steps", "accumulate_grad_batches"),
        *("limit_train_batches", "overfit_batches", "devices", "num_nodes", "strategy"),
    ),
}


def print_choices(config: Config, run_dir: Path) -> None:
    """Prints the chosen options and their values, before training."""
    table = table_of()
    table.show_header = False
    table.add_column("group", style="bold")
    table.add_column("option", style="cyan")
    table.add_column("values")
    flat = flat_hparams(config)
    for group in ("experiment", "debug"):
        if group in config.choices:
            table.add_row(group, config.choices[group])
    for group in GROUPS:
        values = {
            k.removeprefix(f"{group}."): v for k, v in flat.items() if k.startswith(f"{group}.") and v is not None
        }
        keys = SHOWN.get(group) or [k for k in values if not k.endswith("_target_") and k != "full_batch_only"]
        nested = [
            f"{g.partition('/')[2]}={option}" for g, option in config.choices.items() if g.startswith(f"{group}/")
        ]
        shown = nested + [f"{k}={cell(values[k])}" for k in keys if k in values]
        table.add_row(group, config.choices.get(group, ""), "  ".join(shown))
    if config.monitor != MonitorConfig():  # the default depends on whether there are validation rows
        table.add_row("monitor", config.monitor.metric, f"mode={config.monitor.mode}")
    table.add_row("seed", str(config.seed))
    console = _console()
    console.print(table)
    console.print(f"{run_dir}\n", soft_wrap=True)


def print_result(result: Result, run_dir: Path) -> None:
    """Prints the callbacks' tables and the metrics, after training."""
    console = _console()
    if result.metrics:
        _print_tables(console, result, in_sweeps=False)
        console.print(_metrics(result))
        if weights := [*_weights(result)]:
            console.print(f"{'; '.join(weights)}; the others: with the last weights\n", soft_wrap=True)
        _print_tables(console, result, in_sweeps=True)
    console.print(_ending(result), style="bold", soft_wrap=True)
    if result.reason:
        console.print(result.reason, soft_wrap=True)
    console.print(f"{run_dir}\n", soft_wrap=True)


def print_line(result: Result) -> None:
    """Prints how a job of a sweep ended, and the tables of callbacks with ``in_sweeps``."""
    console = _console()
    losses = [name for name in result.metrics if name.endswith("/loss")]
    monitor = result.monitor.get("metric")
    decisive = [] if monitor in losses else [monitor, in_split("test", monitor or "")]
    names = [*(name for name in dict.fromkeys(decisive) if name in result.metrics), *losses]
    shown = "".join(f"  {name} {cell(result.metrics[name])}" for name in names)
    console.print(_ending(result) + shown, soft_wrap=True)
    _print_tables(console, result, in_sweeps=True)


def _print_tables(console: Console, result: Result, in_sweeps: bool) -> None:
    for callback in result.callbacks:
        for table in callback.tables(result.as_dict()) if callback.in_sweeps == in_sweeps else ():
            console.print(table)


def _ending(result: Result) -> str:
    length = f"{counted(result.steps, 'step')}, {counted(result.epochs, 'epoch')}, {result.seconds:.2f} s"
    stopped = f", stopped early: {result.stopped}" if result.stopped else ""
    return f"{result.status} after {length}{stopped}"


def _metrics(result: Result) -> Table:
    """Makes a table with a row per metric and a column per split; metrics without a split go in a column ``value``."""
    used = [split for split in SPLITS if any(name.startswith(f"{split}/") for name in result.metrics)]
    others = [name for name in result.metrics if without_split(name) == name]
    table = table_of("metric", *used, *(["value"] if others else []))
    for name in dict.fromkeys(map(without_split, result.metrics)):
        values = [result.metrics.get(f"{split}/{name}") for split in used]
        if any(value is not None for value in values):
            table.add_row(name, *("" if value is None else cell(value) for value in values))
    for name in others:
        table.add_row(name, *("" for _ in used), cell(result.metrics[name]))
    return table


def _weights(result: Result) -> Iterator[str]:
    """Says which weights metrics belong to, if not to the last."""
    if result.best is not None and any(name.startswith("test/") for name in result.metrics):
        value, step = result.best["value"], f"step {result.best['step']:,}"
        known = value is not None and isfinite(value)
        best = f"{result.best['metric']} {cell(value)} at {step}" if known else step
        yield f"test: with the best checkpoint ({best})"
    if means := [name for name in result.of_last_epoch if name not in result.of_one_batch]:
        yield f"{', '.join(means)}: during the last epoch, while the weights changed"
    if result.of_one_batch:
        yield f"{', '.join(result.of_one_batch)}: of one batch, the last that logged it; on_epoch=True gives the mean"


def table_of(first: str = "", *numbers: str) -> Table:
    """Makes a table with a column ``first`` of names, if given, and right-aligned columns of numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    if first:
        table.add_column(first)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _console() -> Console:
    return Console(highlight=False, markup=False)  # names and paths may contain brackets


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return ", ".join(map(_parts, value))
    text = value if isinstance(value, str) else as_yaml(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parts(value: Any) -> str:
    """Formats a class with its arguments as ``LinearLR(total_iters=10)``, as for schedulers in sequence."""
    if not isinstance(value, dict):
        return cell(value)
    arguments = ", ".join(f"{key}={cell(entry)}" for key, entry in value.items() if key != "_target_")
    return f"{str(value.get('_target_', '')).rpartition('.')[2]}({arguments})"
