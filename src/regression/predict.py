"""Predicts for a table as a stream, in memory that does not grow with its rows."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from lightning.pytorch import LightningDataModule

from descent.errors import UserError, invalid
from descent.files import replaced
from descent.run.load import CheckpointName, read_trained
from descent.training.build import load_class
from regression.base import RegressionModel
from regression.callbacks.getters import model_of
from regression.data.cells import as_numbers, bad_cell, missing_cells, missing_error, usable
from regression.data.encoding import Encoding
from regression.data.files import SUFFIXES, first_line, readable, scan
from regression.data.table import UNTRAINED

log = logging.getLogger(__name__)

COLUMN = "prediction"


class _UnusableError(Exception):
    """A cell or a prediction cannot be used; ``_unusable`` then finds which one."""


def predict_file(run_dir: Path, source: Path, output: Path, checkpoint: CheckpointName = "best") -> None:
    """Writes the rows of ``source`` with a column ``prediction`` to ``output``.

    The run's features are found by name, in any order. Other columns are kept, blank lines are dropped. The run's own
    standardisation is applied; the prediction is in the target's own units. Missing cells are treated as in training:
    an error, a row without a prediction (``drop``), or the mean of the training rows.

    Args:
        run_dir: the directory of a trained run.
        source: a ``.csv`` or ``.parquet`` file.
        output: a ``.csv`` or ``.parquet`` file; it is replaced as a whole or not at all.
        checkpoint: which of the run's two checkpoints to use.

    Raises:
        UserError: a column is missing or occurs twice; a feature's cell is missing, is not a finite number, is above
            ``LARGEST`` or has a category that no training row had; a prediction is not finite; a file cannot be read
            or written; or the checkpoint cannot be used.
    """
    trained = read_trained(run_dir, checkpoint)
    kind = load_class(trained.config.data["_target_"], LightningDataModule, "data")
    encoding = Encoding.of_run(trained.result, trained.checkpoint.get(kind.__qualname__, {}))
    model = model_of(trained.model())
    if output.suffix.lower() not in SUFFIXES:
        raise invalid("OUTPUT", "a file named .csv or .parquet", str(output))
    with readable("INPUT", source):
        frame = scan(source, "INPUT")
        numbers = as_numbers(frame, encoding.features, source)
        if COLUMN in frame.collect_schema():
            raise UserError(f"{source} must not have a column {COLUMN} yet")
    if source.resolve() == output.resolve():
        raise invalid("OUTPUT", "another file than INPUT", str(output))
    counts: list[int] = []  # of rows with a missing cell
    try:
        predicted = frame.with_columns(_prediction(model, encoding, numbers, counts.append))
        sink = predicted.sink_csv if output.suffix.lower() == ".csv" else predicted.sink_parquet
        with replaced(output) as temporary:
            sink(temporary)
    except _UnusableError:
        raise _unusable(frame, encoding, source, model, trained.path) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"cannot predict from {source} to {output}: {first_line(error)}") from error
    if incomplete := sum(counts):
        what = "no prediction" if encoding.missing == "drop" else "the training rows' mean in its place"
        log.warning(
            "note: %d %s of %s with a missing cell: %s (data.missing=%s)",
            *(incomplete, "row" if incomplete == 1 else "rows", source, what, encoding.missing),
        )


def _prediction(
    model: RegressionModel, encoding: Encoding, numbers: list[pl.Expr], count: Callable[[int], None] | None
) -> pl.Expr:
    """The predictions. ``count`` gets the number of rows with a missing cell; if it is ``None``, nothing is checked."""

    def predict(rows: pl.Series) -> pl.Series:
        given = rows.struct.unnest()
        inputs = given.to_numpy(writable=True)  # torch warns about read-only arrays
        incomplete = int(np.isnan(inputs).any(axis=1).sum())
        encoding.fill(inputs)
        missing = np.isnan(inputs).any(axis=1)
        inputs[missing] = 0
        with torch.no_grad():
            predicted = model.predict_step(torch.from_numpy(inputs)).numpy()
        if count is not None:
            refused = missing.any() and encoding.missing != "drop"
            if refused or not (usable(given) and np.isfinite(predicted).all()):
                raise _UnusableError
            count(incomplete)
        return pl.select(pl.when(pl.Series(~missing)).then(pl.Series(predicted))).to_series()

    return pl.struct(numbers).map_batches(predict, return_dtype=pl.Float64, is_elementwise=True).alias(COLUMN)


def _unusable(
    frame: pl.LazyFrame, encoding: Encoding, source: Path, model: RegressionModel, checkpoint: Path
) -> UserError:
    """The error for the first bad cell, else for missing cells, else for the first bad prediction."""
    features = encoding.features
    if error := bad_cell(frame, features, source):
        return error
    if encoding.missing == "error" and (counts := missing_cells(frame, features)):
        return missing_error(source, counts, UNTRAINED)
    numbers = as_numbers(frame, features, source)
    predicted = frame.select(_prediction(model, encoding, numbers, None)).with_row_index("row")
    row, value = predicted.filter(~pl.col(COLUMN).is_finite()).head(1).collect(engine="streaming").row(0)
    inputs = frame.slice(row, 1).select(numbers).collect(engine="streaming").to_numpy(writable=True)
    encoding.fill(inputs)
    with np.errstate(all="ignore"):
        largest = int(np.abs(model.units.inputs(inputs)[0]).argmax())
    return UserError(
        f"the prediction in data row {row + 1} of {source} must be a finite number, got {value}: column"
        f" {features[largest].name} is {inputs[0, largest]:g}, which is too large for the weights in {checkpoint}"
    )
