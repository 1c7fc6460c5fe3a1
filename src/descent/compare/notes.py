"""Says what a reader of a comparison should know: what was chosen, what is missing, and how exact a number is."""

from collections.abc import Iterator, Sequence

import polars as pl

from descent.compare.extra import Curve
from descent.compare.runs import Run
from descent.compare.settings import Setting
from descent.compare.tables import best_of
from descent.config.metric import Metric
from descent.errors import as_yaml
from descent.run.code import other_code_note

BUDGETS = (
    *("trainer.max_epochs", "trainer.max_steps", "stopping.max_samples"),
    *("stopping.max_gradient_evaluations", "stopping.max_seconds"),
)


def general_notes(
    runs: Sequence[Run], monitors: Sequence[Metric], group: Sequence[str], chooser: Metric, metric: Metric
) -> Iterator[str]:
    """Notes on what chose the settings and what is reported."""
    first = "largest" if metric.mode == "max" else "smallest"
    whole = [run.result["metrics"] for run in runs if not run.diverged]
    lacking = {name: sum(found.get(name) is None for found in whole) for name in (metric.name, chooser.name)}
    which = ["diverged"] if len(whole) < len(runs) else []
    which += [f"have no {metric.name}"] if lacking[metric.name] else []
    at = "" if metric.name.startswith("test/") else " after the last step"
    share = f"share of runs that {' or '.join(which)}, then by the others' " if which else ""
    yield f"ranked by the {share}mean of {metric.name}{at}, the {first} first"
    for name, without in lacking.items():
        if without:
            yield f"runs that did not diverge and have no {name}: {without}"
    if len(monitors) > 1:
        yield f"the runs' monitors differ: {', '.join(monitor.name for monitor in monitors)}"
    if note := other_code_note([run.result for run in runs], [str(run.path) for run in runs]):
        yield note
    if any(run.result.get("checksum") is None for run in runs):
        yield "runs without a checksum of their data are compared if their data settings are the same"
    if group:
        yield f"chosen for each {' and '.join(group)}: the setting with the most seeds, then the best by {chooser.name}"
    if metric.name.startswith("test/"):
        chose = sorted({best[0] for run in runs if (best := best_of(run))})
        checkpoint = f", at the checkpoint with the best {' or '.join(chose)}" if chose else ""
        yield f"reported: {metric.name}, on rows not used to choose{checkpoint}"
    elif group:
        yield f"reported: {metric.name}, on the rows used to choose"
    if group:
        yield "a setting with seeds that were not used to choose it is measured on those seeds only"


def budget_note(settings: Sequence[Setting]) -> Iterator[str]:
    """Names the budgets that differ between settings: more training is then part of what is compared."""
    differ = []
    for key in BUDGETS:
        values = {run.hparams.get(key) for setting in settings for run in setting.runs}
        if len(values) > 1:
            shown = sorted(values, key=lambda value: (value is None, value))
            differ.append(f"{key} is {', '.join(map(as_yaml, shown))}")
    if differ:
        yield f"the settings had different budgets: {'; '.join(differ)}"


def best_note(table: pl.DataFrame, metric: Metric) -> Iterator[str]:
    """Names the setting with the best checkpoints, if another setting ranks first."""
    column = f"best {metric.name} mean"
    if column not in table.columns:
        return
    means = table[column].cast(pl.Float64)
    best = means.arg_max() if metric.mode == "max" else means.arg_min()
    if best and means[0] is not None and metric.merit(means[best]) > metric.merit(means[0]):
        yield f"the best checkpoints are those of {table['setting'][best]}: {metric.name} {means[best]:.4g} on average"


def curve_notes(runs: Sequence[Run], table: pl.DataFrame, curve: Curve, axes: Sequence[str]) -> Iterator[str]:
    """Notes on missing curves, the target, and the precision of the steps to the target."""
    if without := sum(not run.has_event_file for run in runs):
        yield f"runs without a TensorBoard event file, in the tables but not in the figures of curves: {without}"
    if "samples" in axes and any(run.result["steps"] and run.result["samples"] % run.result["steps"] for run in runs):
        yield "some batches are smaller: the samples axis uses the average batch size"
    if curve.target is None:
        return
    yield f"target: {curve.goal()}; medians are over the runs that reached it"
    if unknown := sum(not run.diverged and curve.tag not in run.curves for run in runs):
        yield f"runs without a curve of {curve.tag}, which neither reached the target nor missed it: {unknown}"
    apart = table["steps between points"].drop_nulls()
    if len(apart):
        low, high = int(apart.min()), int(apart.max())  # type: ignore[arg-type]
        steps = f"{high}" if low == high else f"{low} to {high}"
        yield f"steps to the target are known to within the distance of the logged points: {steps}"
