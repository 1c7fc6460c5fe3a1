"""Summarizes the runs of a sweep, on the console and in ``summary.csv``."""

import csv
import io
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from descent.config.metric import SPLITS, Metric, in_split, monitors_of, quantities_of
from descent.errors import UserError, counted
from descent.files import write_atomically
from descent.run.result import read_result
from descent.run.run_dirs import in_label

MOST_ROWS, MOST_METRICS = 30, 3  # on the console


def summarize(sweep_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Prints and writes a summary of the runs in ``sweep_dir``. Returns the runs with their results."""
    runs = []
    for path in sorted({path.parent for name in ("result.json", ".hydra") for path in sweep_dir.glob(f"*/{name}")}):
        try:
            runs.append((path, read_result(path)))
        except FileNotFoundError:
            print(f"left out: {path} has no result.json")
        except (OSError, UserError) as error:
            print(f"left out: {error}")
    print_summary(sweep_dir, runs)
    write_summary(sweep_dir, runs)
    return runs


def write_summary(sweep_dir: Path, runs: list[tuple[Path, dict[str, Any]]]) -> None:
    """Writes ``summary.csv``: one row per run, with its directory, outcome, metrics and hyperparameters."""
    rows = [_row(run, result) for run, result in runs]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(sweep_dir / "summary.csv", text.getvalue().encode())


def _row(run: Path, result: dict[str, Any]) -> dict[str, Any]:
    outcome = {key: result[key] for key in ("status", "reason", "steps", "epochs", "samples", "seconds")}
    row: dict[str, Any] = {"run": run.name} | outcome | result["metrics"] | result["hparams"]
    return row


def print_summary(sweep_dir: Path, runs: list[tuple[Path, dict[str, Any]]]) -> None:
    """Prints the runs, best first by the monitored metric."""
    from rich.box import SIMPLE_HEAD  # not at the top: Hydra imports this file before it checks the config
    from rich.console import Console
    from rich.table import Table

    from descent.run.code import other_code_note

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold")
    logged = sorted({name for _, result in runs for name in result["metrics"]})
    monitor, *_ = monitors_of((result for _, result in runs), logged)
    metrics = _shown(monitor, logged)
    for column in (*metrics, "steps", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    names = _names([run for run, _ in runs])
    ranked = sorted(runs, key=lambda run: _rank(run[1], monitor))
    for run, result in ranked[:MOST_ROWS]:
        name = names[run] if result["status"] == "completed" else f"{names[run]} ({result['status']})"
        values = [result["metrics"].get(metric) for metric in metrics]
        cells = ["" if value is None else f"{value:.5g}" for value in values]
        table.add_row(name, *cells, f"{result['steps']:,}", f"{result['seconds']:.2f}")
    console = Console(highlight=False, markup=False)  # names may contain brackets
    console.print(table)
    if len(runs) > MOST_ROWS:
        console.print(f"the best {MOST_ROWS} of {len(runs)}")
    tested = any(name.startswith("test/") for name in logged)
    if len(runs) > 1 and all(_rank(result, monitor)[0] for _, result in runs):
        console.print(f"note: no completed run has a finite {monitor.name}, so the order is by name", soft_wrap=True)
    elif tested or len(runs) > 1:
        of_tests = "; test/* are from the best checkpoint" if tested else ""
        console.print(f"best first by {monitor.name} after the last step{of_tests}", soft_wrap=True)
    if note := _better_before_its_end(ranked, monitor, names):
        console.print(note, soft_wrap=True)
    if len(kinds := quantities_of((result for _, result in runs), monitor.name)) > 1:
        others = ", ".join(kinds[1:])
        note = f"note: {monitor.name} is {kinds[0]} in some runs and {others} in others, so the order is meaningless"
        console.print(note, soft_wrap=True)
    if note := other_code_note([result for _, result in runs], [*names.values()]):
        console.print(f"note: {note}", soft_wrap=True)
    for run, result in runs:
        if result["status"] != "completed":
            console.print(f"{run.name} {result['status']}: {result['reason']}", soft_wrap=True)
    console.print(f"{counted(len(runs), 'run')} in {sweep_dir}, as a table in summary.csv", soft_wrap=True)
    quoted = shlex.quote(str(sweep_dir))
    if runs:
        console.print(f"python scripts/compare.py {quoted}   compares them", soft_wrap=True)
    if len(runs) > 1:
        console.print(f"tensorboard --logdir {quoted}   shows their curves and hyperparameters", soft_wrap=True)


def _names(runs: list[Path]) -> dict[Path, str]:
    """For each run what it does not share with all others."""
    parts = {run: _overrides(run) for run in runs}
    shared = set.intersection(*map(set, parts.values())) if len(runs) > 1 else set()
    return {run: ", ".join(part for part in parts[run] if part not in shared) or run.name for run in runs}


def _overrides(run: Path) -> list[str]:
    """As Hydra saved them; the directory's name may be too short for all."""
    with suppress(Exception):  # there may be no such file, or a damaged one
        return in_label(map(str, OmegaConf.load(run / ".hydra/overrides.yaml")))
    return run.name.split(",")


def _shown(monitor: Metric, logged: list[str]) -> list[str]:
    """The monitored metric, its counterparts in other splits, and the losses."""
    same = [in_split(split, monitor.name) for split in SPLITS]
    losses = [name for name in logged if name.endswith("/loss")]
    return [name for name in dict.fromkeys([monitor.name, *same, *losses]) if name in logged][:MOST_METRICS]


def _better_before_its_end(
    ranked: list[tuple[Path, dict[str, Any]]], monitor: Metric, names: dict[Path, str]
) -> str | None:
    """A note that names the run with the best checkpoint, if another run ranks first."""
    bests = [(run, result["best"]) for run, result in ranked if result["status"] == "completed" and result["best"]]
    known = [(run, best) for run, best in bests if best.get("metric") == monitor.name and best.get("value") is not None]
    if not known:
        return None
    run, best = max(known, key=lambda found: monitor.merit(found[1]["value"]))  # the first, if several are equal
    if run == ranked[0][0]:
        return None
    return f"note: best checkpoint: {names[run]}, {monitor.name} {best['value']:.5g} at step {best['step']:,}"


def _rank(result: dict[str, Any], monitor: Metric) -> tuple[bool, float]:
    metrics = result["metrics"]
    value = metrics.get(monitor.name, metrics.get(in_split("train", monitor.name)))  # if there is no validation
    return (result["status"] != "completed" or value is None, 0.0 if value is None else -monitor.merit(value))
