"""Predictions for a table, in a stream: memory does not grow with its rows."""

from pathlib import Path

import polars as pl

from descent.errors import UserError, must
from descent.load import CheckpointName, load_model
from descent.model import LinearRegression
from descent.result import run_result

COLUMN = "prediction"
SUFFIXES = (".csv", ".parquet")


def predict_file(run_dir: Path, source: Path, output: Path, checkpoint: CheckpointName = "best") -> None:
    """Writes the rows of ``source`` with a column ``prediction`` to ``output``.

    The run's features are found by name, in any order; other columns are kept as they are. The run's own
    standardisation is applied, and the prediction is in the target's own units.

    Args:
        run_dir: of a run that has trained.
        source: a ``.csv`` or ``.parquet`` file.
        output: the same; replaced whole or not at all.
        checkpoint: which of the run's two.

    Raises:
        UserError: a column is missing, a feature's cell holds no finite number, or a file cannot be read or written.
    """
    features = run_result(run_dir)["features"]
    model = load_model(run_dir, checkpoint)
    for name, path in (("INPUT", source), ("OUTPUT", output)):
        if path.suffix.lower() not in SUFFIXES:
            raise must(name, "a file named .csv or .parquet", str(path))
    if not source.is_file():
        raise must("INPUT", "a CSV or Parquet file", str(source))
    if source.resolve() == output.resolve():
        raise must("OUTPUT", "another file than INPUT", str(output))
    temporary = output.with_name(f"{output.name}.tmp")
    try:
        predicted = _predicted(model, features, source)
        sink = predicted.sink_csv if output.suffix.lower() == ".csv" else predicted.sink_parquet
        sink(temporary)
        temporary.replace(output)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot predict from {source} to {output}: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _predicted(model: LinearRegression, features: list[str], source: Path) -> pl.LazyFrame:
    # CSV as text: what is not a feature stays letter by letter
    csv = source.suffix.lower() == ".csv"
    frame = pl.scan_csv(source, infer_schema=False) if csv else pl.scan_parquet(source)
    present = frame.collect_schema().names()
    missing = [name for name in features if name not in present]
    if missing:
        raise UserError(f"{source} must have the columns {', '.join(features)}; {', '.join(missing)} missing")
    if COLUMN in present:
        raise UserError(f"{source} must not have a column {COLUMN} yet")
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in features]
    _check_cells(frame, features, numbers, source)

    def predict(rows: pl.Series) -> pl.Series:
        return pl.Series(model.predict_rows(rows.struct.unnest().to_numpy()))

    return frame.with_columns(
        pl.struct(numbers).map_batches(predict, return_dtype=pl.Float64, is_elementwise=True).alias(COLUMN)
    )


def _check_cells(frame: pl.LazyFrame, features: list[str], numbers: list[pl.Expr], source: Path) -> None:
    finite = [number.is_finite().fill_null(False) for number in numbers]
    indexed = frame.with_row_index("_row").filter(~pl.all_horizontal(finite)).head(1)
    bad = indexed.with_columns(*(ok.alias(f"_finite_{i}") for i, ok in enumerate(finite))).collect(engine="streaming")
    if bad.height:
        column = next(name for i, name in enumerate(features) if not bad[f"_finite_{i}"][0])
        raise must(f"column {column} of {source}", f"a finite number in data row {bad['_row'][0] + 1}", bad[column][0])
