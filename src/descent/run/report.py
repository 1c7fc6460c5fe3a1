"""What a person reads on the console."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from descent.config.hparams import GROUPS, flat_hparams
from descent.config.schema import Config
from descent.errors import show
from descent.run.result import Result

MAX_PARAMETERS = 20  # rows of the parameter table
SPLITS = ("train", "val", "test")

# Of these groups only the keys that people change; the run's .hydra/config.yaml has all of them.
SHOWN = {
    "stopping": (
        *("patience", "min_delta", "gradient_norm", "loss_change"),
        *("max_samples", "max_gradient_evaluations", "max_seconds"),
    ),
    "trainer": ("accelerator", "precision", "max_epochs", "max_steps"),
}


def print_choices(config: Config, run_dir: Path) -> None:
    """The options chosen and their values, before training."""
    table = _table()
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
        keys = SHOWN.get(group) or [k for k in values if k not in ("source", "_target_", "full_batch_only")]
        table.add_row(
            group, config.choices.get(group, ""), "  ".join(f"{k}={_cell(values[k])}" for k in keys if k in values)
        )
    table.add_row("seed", str(config.seed))
    console = _console()
    console.print(table)
    console.print(f"{run_dir}\n", soft_wrap=True)


def print_result(result: Result, run_dir: Path) -> None:
    """Parameters, metrics and predictions, after training."""
    console = _console()
    if result.parameters is not None:
        console.print(_parameters(result))
        console.print(_metrics(result))
        if result.best is not None and "test/loss" in result.metrics:
            step = f"step {result.best['step']:,}"
            console.print(f"test: with the best checkpoint ({step}); the others: with the last weights\n")
    if result.predictions:
        console.print(_predictions(result))
    console.print(_ending(result), style="bold", soft_wrap=True)
    if result.reason:
        console.print(result.reason, soft_wrap=True)
    console.print(f"{run_dir}\n", soft_wrap=True)


def print_line(result: Result, run_dir: Path) -> None:
    """How a run of a sweep ended, and its predictions if there are any."""
    console = _console()
    losses = (f"  {name} {_cell(value)}" for name, value in result.metrics.items() if name.endswith("/loss"))
    console.print(_ending(result) + "".join(losses), soft_wrap=True)
    if result.predictions:
        console.print(_predictions(result))


def _ending(result: Result) -> str:
    length = f"{_count(result.steps, 'step')}, {_count(result.epochs, 'epoch')}, {result.seconds:.2f} s"
    stopped = f", stopped early: {result.stopped}" if result.stopped else ""
    return f"{result.status} after {length}{stopped}"


def _parameters(result: Result) -> Table:
    columns = [("learned", result.parameters), ("least squares", result.optimum), ("true", result.true_parameters)]
    known = [(title, values) for title, values in columns if values is not None]
    table = _table("parameter", *(title for title, _ in known))
    for i, name in enumerate(result.features[:MAX_PARAMETERS]):
        table.add_row(f"weight of {name}", *(_cell(values["weight"][i]) for _, values in known))
    left_out = len(result.features) - MAX_PARAMETERS
    if left_out > 0:
        table.add_row(f"... and {left_out} more")
    if known[0][1]["bias"] is not None:
        table.add_row("bias", *(_cell(values["bias"]) for _, values in known))
    return table


def _metrics(result: Result) -> Table:
    used = [split for split in SPLITS if f"{split}/loss" in result.metrics]
    table = _table("metric", *used)
    table.add_row("rows", *(f"{result.rows[split]:,}" for split in used))
    for name, title in (("loss", "loss: mean squared error"), ("mae", "mean absolute error"), ("r2", "R²")):
        cells = [result.metrics.get(f"{split}/{name}") for split in used]
        if any(cell is not None for cell in cells):
            table.add_row(title, *("" if cell is None else _cell(cell) for cell in cells))
    if result.optimum is not None:
        table.add_row("loss at least squares", _cell(result.optimum["loss"]))
    return table


def _predictions(result: Result) -> Table:
    table = _table("prediction at", "before training", "after")
    for entry in result.predictions:
        at = ", ".join(f"{value:g}" for value in entry["input"])
        table.add_row(at, _cell(entry["before"]), _cell(entry["after"]))
    return table


def _table(first: str = "", *numbers: str) -> Table:
    """A table whose columns are a name and numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    if first:
        table.add_column(first)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _console() -> Console:
    return Console(highlight=False, markup=False)  # names and paths may hold brackets


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}" if number == 1 else f"{number:,} {unit}s"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else show(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
