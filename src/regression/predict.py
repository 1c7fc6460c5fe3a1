"""Predictions for a table, in a stream: memory does not grow with its rows."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from descent.errors import UserError, invalid
from descent.files import replaced
from descent.run.load import CheckpointName, checkpoint_path, load_model
from descent.run.result import run_result
from regression.base import RegressionModel
from regression.callbacks.of import model_of
from regression.data.module import column_names
from regression.data.table import SUFFIXES, as_numbers, bad_cell, first_line, readable, scan, usable

COLUMN = "prediction"


class _NotFiniteError(Exception):
    """A feature's cell, or a prediction; which one is looked for then."""


def predict_file(run_dir: Path, source: Path, output: Path, checkpoint: CheckpointName = "best") -> None:
    """Writes the rows of ``source`` with a column ``prediction`` to ``output``.

    The run's features are found by name, in any order; other columns are kept as they are, and blank lines are left
    out. The run's own standardisation is applied, and the prediction is in the target's own units.

    Args:
        run_dir: of a run that has trained.
        source: a ``.csv`` or ``.parquet`` file.
        output: the same; replaced whole or not at all.
        checkpoint: which of the run's two.

    Raises:
        UserError: a column is missing or there twice, a feature's cell holds no finite number or one above
            ``LARGEST``, a prediction is not finite, a file cannot be read or written, or the checkpoint not be used.
    """
    features, _ = column_names(run_result(run_dir))
    model = model_of(load_model(run_dir, checkpoint))
    if output.suffix.lower() not in SUFFIXES:
        raise invalid("OUTPUT", "a file named .csv or .parquet", str(output))
    with readable("INPUT", source):
        frame = scan(source, "INPUT")
        numbers = as_numbers(frame, features, source)
        if COLUMN in frame.collect_schema():
            raise UserError(f"{source} must not have a column {COLUMN} yet")
    if source.resolve() == output.resolve():
        raise invalid("OUTPUT", "another file than INPUT", str(output))
    try:
        predicted = frame.with_columns(_prediction(model, numbers))
        sink = predicted.sink_csv if output.suffix.lower() == ".csv" else predicted.sink_parquet
        with replaced(output) as temporary:
            sink(temporary)
    except _NotFiniteError:
        raise _not_finite(frame, features, source, model, checkpoint_path(run_dir, checkpoint)) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"cannot predict from {source} to {output}: {first_line(error)}") from error


def _prediction(model: RegressionModel, numbers: list[pl.Expr], checked: bool = True) -> pl.Expr:
    def predict(rows: pl.Series) -> pl.Series:
        inputs = rows.struct.unnest().to_numpy(writable=True)  # torch warns of an array that is not
        with torch.no_grad():
            predicted = model.predict_step(torch.from_numpy(inputs)).numpy()
        if checked and not (usable(inputs) and np.isfinite(predicted).all()):
            raise _NotFiniteError
        return pl.Series(predicted)

    return pl.struct(numbers).map_batches(predict, return_dtype=pl.Float64, is_elementwise=True).alias(COLUMN)


def _not_finite(
    frame: pl.LazyFrame, features: list[str], source: Path, model: RegressionModel, checkpoint: Path
) -> UserError:
    """The error for the first cell without a number that can be used, or else for the first bad prediction."""
    if error := bad_cell(frame, features, source):
        return error
    numbers = as_numbers(frame, features, source)
    predicted = frame.select(_prediction(model, numbers, checked=False)).with_row_index("row")
    row, value = predicted.filter(~pl.col(COLUMN).is_finite()).head(1).collect(engine="streaming").row(0)
    inputs = frame.slice(row, 1).select(numbers).collect(engine="streaming").to_numpy()
    with np.errstate(all="ignore"):
        largest = int(np.abs(model.units.inputs(inputs)[0]).argmax())
    return UserError(
        f"the prediction in data row {row + 1} of {source} must be a finite number, got {value}: column"
        f" {features[largest]} is {inputs[0, largest]:g}, which is too large for the weights in {checkpoint}"
    )
