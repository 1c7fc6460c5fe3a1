"""The commands on a finished run: its metrics again, and predictions for a table."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Run, config_of
from omegaconf import OmegaConf
from sklearn.metrics import mean_squared_error, r2_score

from descent.data.sources import load
from descent.errors import UserError
from descent.evaluate import evaluate
from descent.load import load_model
from descent.predict import predict_file
from descent.result import read_result

OVERRIDES = ("data=diabetes", "optimizer=adam", "trainer.max_epochs=20")


@pytest.fixture
def run_dir(run: Run, tmp_path: Path) -> Path:
    """A finished run on the diabetes data, with the config that Hydra would have saved."""
    directory = tmp_path / "run"
    run(*OVERRIDES, run_dir=directory)
    (directory / ".hydra").mkdir()
    from conftest import CONF
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", list(OVERRIDES), return_hydra_config=True)
    keys = [str(key) for key in composed if key != "hydra"]
    OmegaConf.save(OmegaConf.masked_copy(composed, keys), directory / ".hydra/config.yaml")
    choices = {"hydra": {"runtime": {"choices": composed.hydra.runtime.choices}}}
    OmegaConf.save(OmegaConf.create(choices), directory / ".hydra/hydra.yaml")
    return directory


@pytest.fixture
def table() -> pl.DataFrame:
    rows = load(config_of("data=diabetes").data)
    frame = pl.DataFrame(dict(zip(rows.feature_names, rows.inputs.T, strict=True)))
    return frame.with_columns(pl.Series("progression", rows.targets), pl.Series("id", [f"{i:03}" for i in range(442)]))


def expected(run_dir: Path, table: pl.DataFrame) -> np.ndarray:
    """From weights and bias in the data's own units, which are not how the model computes it."""
    weight, bias = load_model(run_dir).own_units()
    names = read_result(run_dir)["features"]
    assert bias is not None
    return table.select(names).to_numpy() @ np.array(weight) + bias


def test_evaluating_gives_the_test_metrics_of_the_run_again(run_dir: Path) -> None:
    found = evaluate(run_dir)
    written = {name: value for name, value in read_result(run_dir)["metrics"].items() if name.startswith("test/")}
    assert found == pytest.approx(written, rel=1e-6)
    assert json.loads((run_dir / "evaluation.json").read_text())["metrics"] == found


def test_other_rows_and_the_other_checkpoint_can_be_evaluated(run_dir: Path, table: pl.DataFrame) -> None:
    path = run_dir / "rows.csv"
    table.write_csv(path)
    predicted, targets = expected(run_dir, table), table["progression"].to_numpy()
    found = evaluate(run_dir, data=path)
    assert found["test/loss"] == pytest.approx(mean_squared_error(targets, predicted), rel=1e-4)
    assert found["test/r2"] == pytest.approx(r2_score(targets, predicted), rel=1e-4)
    assert evaluate(run_dir, "last") != evaluate(run_dir, "best")


@pytest.mark.parametrize("source", ["csv", "parquet"])
@pytest.mark.parametrize("output", ["csv", "parquet"])
def test_predictions_are_added_to_the_rows_as_they_are(
    source: str, output: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    shuffled = table.select(sorted(table.columns, reverse=True))
    given, written = tmp_path / f"in.{source}", tmp_path / f"out.{output}"
    shuffled.write_csv(given) if source == "csv" else shuffled.write_parquet(given)
    predict_file(run_dir, given, written)
    kept = {"id": pl.String}
    found = pl.read_csv(written, schema_overrides=kept) if output == "csv" else pl.read_parquet(written)
    assert found.columns == [*shuffled.columns, "prediction"]
    assert found["id"].to_list() == table["id"].to_list()  # 007 stays 007
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected(run_dir, table), rtol=1e-5)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_missing_column_or_a_bad_cell_is_named_and_nothing_is_written(
    run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    broken: list[tuple[pl.DataFrame, str]] = [
        (table.drop("bmi", "s3"), "must have the columns .*; bmi, s3 missing"),
        (
            table.with_columns(pl.lit(None).alias("bp")),
            "column bp of .* must be a finite number in data row 1, got null",
        ),
        (table.with_columns(prediction=1), "must not have a column prediction yet"),
        (
            table.with_columns(pl.when(pl.col("id") == "007").then(pl.lit("x")).otherwise(pl.col("s1")).alias("s1")),
            "column s1 of .* must be a finite number in data row 8, got 'x'",
        ),
    ]
    for frame, message in broken:
        frame.write_csv(tmp_path / "in.csv")
        with pytest.raises(UserError, match=message):
            predict_file(run_dir, tmp_path / "in.csv", output)
        assert not output.exists()


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("no.csv", "out.csv", "INPUT must be a CSV or Parquet file, got '.*no.csv'"),
        ("in.csv", "out.txt", "OUTPUT must be a file named .csv or .parquet, got '.*out.txt'"),
        ("in.csv", "in.csv", "OUTPUT must be another file than INPUT"),
        ("in.csv", "no/out.csv", "cannot predict from .* to .*no/out.csv"),
    ],
)
def test_bad_paths_are_refused(
    source: str, output: str, message: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    table.write_csv(tmp_path / "in.csv")
    with pytest.raises(UserError, match=message):
        predict_file(run_dir, tmp_path / source, tmp_path / output)


def test_the_commands_run(script: Callable[..., object], run_dir: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    table.write_csv(tmp_path / "in.csv")
    done = [script("evaluate.py", str(run_dir)), script("predict.py", str(run_dir), "in.csv", "out.csv")]
    assert [d.returncode for d in done] == [0, 0]  # type: ignore[attr-defined]
    assert (tmp_path / "out.csv").is_file()
    failed = script("evaluate.py", "no/such/run")
    assert failed.returncode == 1  # type: ignore[attr-defined]
    assert failed.stderr.startswith("error: RUN_DIR must be the directory of a run")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1.0, 1e7), (1e6, -1e9)])
def test_metrics_are_right_for_targets_of_any_scale_and_offset(
    scale: float, shift: float, run: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(400)
    y = (x + rng.standard_normal(400)) * scale + shift
    pl.DataFrame({"x": x, "y": y}).write_parquet(tmp_path / "rows.parquet")
    zero = ["model.init_weight=0", "model.init_bias=0", "trainer.max_epochs=10"]
    rows = ["data=table", f"data.path={tmp_path}/rows.parquet", "data.target=y"]
    result, reference = run(*rows, *zero), run(*rows, *zero, "trainer=float64")
    assert 0.2 < result.metrics["val/r2"] < 0.8
    for name in ("val/r2", "test/r2", "val/loss", "val/mae", "train/loss"):
        assert result.metrics[name] == pytest.approx(reference.metrics[name], rel=1e-3)
    assert result.metrics["train/loss"] == pytest.approx(result.optimum["loss"], rel=0.05)  # type: ignore[index]
