"""What a person reads on the console."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from descent.config import Config
from descent.hparams import GROUPS, flat_hparams
from descent.result import Result

MAX_PARAMETERS = 20  # rows of the parameter table

# Of these groups only the keys that people change; the run's .hydra/config.yaml has all of them.
SHOWN = {
    "stopping": ("patience", "gradient_norm", "loss_change"),
    "trainer": ("accelerator", "precision", "max_epochs", "max_steps"),
}


def print_choices(config: Config, run_dir: Path) -> None:
    """The options chosen and their values, before training."""
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    flat = flat_hparams(config)
    for group in GROUPS:
        prefix = f"{group}."
        values = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix) and v is not None}
        keys = SHOWN.get(group) or [k for k in values if k != "source"]
        shown = "  ".join(f"{k}={_short(values[k])}" for k in keys if k in values)
        table.add_row(f"[bold]{group}", f"[cyan]{config.choices.get(group, '')}", shown)
    table.add_row("[bold]seed", f"[cyan]{config.seed}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{run_dir}\n", soft_wrap=True)


def print_result(result: Result, run_dir: Path) -> None:
    """Parameters, metrics and predictions, after training."""
    console = Console(highlight=False)
    console.print(_parameters(result))
    console.print(_metrics(result))
    if result.predictions:
        table = Table("prediction at", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("before training", justify="right")
        table.add_column("after", justify="right")
        for entry in result.predictions:
            at = ", ".join(f"{value:g}" for value in entry["input"])
            table.add_row(at, _short(entry["before"]), _short(entry["after"]))
        console.print(table)
    length = f"{result.steps:,} steps, {result.epochs:,} epochs, {result.seconds:.2f} s"
    ended = f"{result.status}: {result.reason}" if result.reason else result.status
    stopped = f", stopped early: {result.stopped}" if result.stopped else ""
    console.print(f"[bold]{ended}[/] after {length}{stopped}", soft_wrap=True)
    console.print(f"{run_dir}\n", soft_wrap=True)


def _parameters(result: Result) -> Table:
    assert result.parameters is not None
    columns = [
        ("learned", result.parameters),
        ("least squares", result.optimum),
        ("true", result.true_parameters),
    ]
    known = [(title, values) for title, values in columns if values is not None]
    table = Table("parameter", box=SIMPLE_HEAD, pad_edge=False)
    for title, _ in known:
        table.add_column(title, justify="right")
    for i, name in enumerate(result.features[:MAX_PARAMETERS]):
        table.add_row(f"weight of {name}", *(_short(values["weight"][i]) for _, values in known))
    left_out = len(result.features) - MAX_PARAMETERS
    if left_out > 0:
        table.add_row(f"... and {left_out} more")
    if result.parameters["bias"] is not None:
        table.add_row("bias", *(_short(values["bias"]) for _, values in known))
    return table


def _metrics(result: Result) -> Table:
    table = Table("metric", box=SIMPLE_HEAD, pad_edge=False)
    for split in ("train", "val", "test"):
        table.add_column(split, justify="right")
    for metric, title in (
        ("loss", "loss (mean squared error)"),
        ("mae", "mean absolute error"),
        ("r2", "R2"),
    ):
        cells = [result.metrics.get(f"{split}/{metric}") for split in ("train", "val", "test")]
        if any(cell is not None for cell in cells):
            table.add_row(title, *("" if cell is None else _short(cell) for cell in cells))
    if result.optimum is not None:
        table.add_row("loss at least squares", _short(result.optimum["loss"]))
    return table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
