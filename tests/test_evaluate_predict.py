"""Tests evaluating a finished run and predicting for a table."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import Run, config_of, load, save_config, split
from sklearn.metrics import mean_squared_error, r2_score

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.run.load import load_model
from descent.run.result import read_result
from descent.run.train import train
from regression.data.table import read_table
from regression.predict import predict_file

OVERRIDES = ("data=diabetes", "optimizer=adam", "trainer.max_epochs=20")


def trained(directory: Path, *overrides: str) -> Path:
    """Trains a run and saves the config as Hydra does."""
    quiet = "trainer.enable_progress_bar=false", "figures=false"
    train(config_of(*quiet, *overrides), directory)
    save_config(directory, *quiet, *overrides)
    return directory


@pytest.fixture(scope="module")
def diabetes_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "run", *OVERRIDES)


@pytest.fixture
def run_dir(diabetes_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run on the diabetes data."""
    return Path(shutil.copytree(diabetes_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    rows = load(config_of("data=diabetes").data)
    frame = pl.DataFrame(dict(zip(rows.feature_names, rows.inputs.T, strict=True)))
    return frame.with_columns(pl.Series("progression", rows.targets), pl.Series("id", [f"{i:03}" for i in range(442)]))


def expected(run_dir: Path, table: pl.DataFrame) -> np.ndarray:
    """Predicts from weights and bias in the data's own units; the model itself uses standardised units."""
    weight, bias = load_model(run_dir).own_units()
    names = read_result(run_dir)["features"]
    assert bias is not None
    return table.select(names).to_numpy() @ np.array(weight) + bias


def test_evaluating_reproduces_the_runs_test_metrics(run_dir: Path) -> None:
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
def test_predictions_are_added_to_the_unchanged_rows(
    source: str, output: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    shuffled = table.select(sorted(table.columns, reverse=True))
    given, written = tmp_path / f"in.{source}", tmp_path / f"out.{output}"
    shuffled.write_csv(given) if source == "csv" else shuffled.write_parquet(given)
    predict_file(run_dir, given, written)
    kept = {"id": pl.String}
    found = pl.read_csv(written, schema_overrides=kept) if output == "csv" else pl.read_parquet(written)
    assert found.columns == [*shuffled.columns, "prediction"]
    assert found["id"].to_list() == table["id"].to_list()  # leading zeros stay
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected(run_dir, table), rtol=1e-5)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_missing_column_or_bad_cell_is_named_and_no_output_is_written(
    run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    broken: list[tuple[pl.DataFrame, str]] = [
        (table.drop("bmi", "s3"), "must have the columns .*; bmi, s3 missing"),
        (
            table.with_columns(pl.lit(None).alias("bp")),
            "in.csv has missing cells: bp 442; the run was trained with data.missing=error",
        ),
        (
            table.with_columns(bp=None, s1=pl.when(pl.col("id") > "007").then(pl.col("s1"))),
            "in.csv has missing cells: bp 442, s1 8; the run",
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
        ("no.csv", "out.csv", "INPUT must be an existing CSV or Parquet file, got '.*no.csv'"),
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


def test_a_directory_without_a_run_is_refused(script: Callable[..., Any]) -> None:
    failed = script("evaluate.py", "no/such/run")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: RUN_DIR must be the directory of a run")


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


def test_constant_targets_have_finite_metrics_for_a_bad_model(run: Run) -> None:
    rows = f"data.inputs={[[i] for i in range(12)]}", f"data.targets={[0.1] * 12}"  # their mean is rounded
    start = "model.init_weight=1000", "model.init_bias=0", "optimizer.lr=1e-12", "trainer.max_epochs=1"
    data = "data=line", *rows, "data.val_fraction=0.25", "data.test_fraction=0.25"
    result = run(*data, *start)
    for part in ("val", "test"):
        x = getattr(split(config_of(*data).data, 12), part)
        assert result.metrics[f"{part}/loss"] == pytest.approx(np.mean((1000.0 * x - 0.1) ** 2), rel=1e-6)
        assert result.metrics[f"{part}/mae"] == pytest.approx(np.mean(np.abs(1000.0 * x - 0.1)), rel=1e-6)


Change = Callable[[dict[str, Any]], Any]


def rewrite_checkpoint(run_dir: Path, change: Change) -> None:
    """Applies ``change`` to ``best.ckpt``."""
    path = run_dir / "checkpoints/best.ckpt"
    torch.save(change(torch.load(path, weights_only=True)), path)


def having(part: str, values: dict[str, Any]) -> Change:
    """Sets ``values`` in a part of the checkpoint."""
    return lambda c: c | {part: c[part] | values}


def without(part: str, name: str | None = None) -> Change:
    """Removes a part of the checkpoint, or only ``name`` from it."""
    if name is None:
        return lambda c: {key: value for key, value in c.items() if key != part}
    return lambda c: c | {part: {key: value for key, value in c[part].items() if key != name}}


def refused(run_dir: Path, table: pl.DataFrame, message: str, output: Path) -> None:
    """Asserts that evaluating and predicting fail with ``message`` in one line and write nothing."""
    source = output.with_name("given.parquet")
    table.write_parquet(source)
    commands: list[Callable[[], Any]] = [
        lambda: evaluate(run_dir),
        lambda: evaluate(run_dir, data=source),
        lambda: predict_file(run_dir, source, output),
    ]
    for command in commands:
        with pytest.raises(UserError, match=message) as raised:
            command()
        assert "best.ckpt" in str(raised.value) and "\n" not in str(raised.value)
    assert not output.exists() and not list(output.parent.glob("*.tmp"))
    assert not (run_dir / "evaluation.json").exists()


@pytest.fixture(scope="module")
def line() -> pl.DataFrame:
    """40 rows of a number and a boolean, with a nearly linear target."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(40)
    flag = x > 0
    return pl.DataFrame({"x": x, "flag": flag, "y": 2 * x + flag + 0.1 * rng.standard_normal(40)})


TABLE = ("data=table", "data.target=y", "optimizer=adam", "optimizer.lr=0.1", "trainer.max_epochs=5")


def test_a_table_that_changed_after_training_is_not_evaluated(line: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    line.write_csv(path)
    run_dir = trained(tmp_path / "run", *TABLE, f"data.path={path}")
    assert evaluate(run_dir)["test/r2"] == pytest.approx(read_result(run_dir)["metrics"]["test/r2"])
    (run_dir / "evaluation.json").unlink()
    for changed in (pl.concat([line, line[:1]]), line[:-1], line.reverse(), line.with_columns(x=-pl.col("x"))):
        changed.write_csv(path)
        with pytest.raises(UserError, match=r"rows.csv must have the rows that .*run was trained on"):
            evaluate(run_dir)
        assert not (run_dir / "evaluation.json").exists()
        evaluate(run_dir, data=path)  # given by path, it is evaluated
        (run_dir / "evaluation.json").unlink()


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_change_in_one_row_of_any_part_is_detected(part: str, line: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    line.write_csv(path)
    run_dir = trained(tmp_path / "run", *TABLE, f"data.path={path}")
    row = getattr(split(config_of(*TABLE, f"data.path={path}").data, len(line)), part)[0]
    line.with_columns(y=pl.when(pl.int_range(pl.len()) == row).then(pl.col("y") + 1).otherwise("y")).write_csv(path)
    with pytest.raises(UserError, match=r"rows.csv must have the rows that .*run was trained on"):
        evaluate(run_dir)


def test_metrics_need_at_least_two_rows(run_dir: Path, table: pl.DataFrame) -> None:
    path = run_dir / "rows.csv"
    two = table[:2]
    two.write_csv(path)
    targets, predicted = two["progression"].to_numpy(), expected(run_dir, two)
    found = evaluate(run_dir, data=path)
    assert found["test/loss"] == pytest.approx(mean_squared_error(targets, predicted), rel=1e-4)
    assert found["test/r2"] == pytest.approx(r2_score(targets, predicted), rel=1e-4)
    table[:1].write_csv(path)
    with pytest.raises(UserError, match=r"--data must be a file with at least 2 rows, got 1 in .*rows.csv"):
        evaluate(run_dir, data=path)


def test_a_table_with_swapped_columns_is_not_evaluated(line: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    line.write_csv(path)
    run_dir = trained(tmp_path / "run", *TABLE, f"data.path={path}")
    line.rename({"x": "flag", "flag": "x"}).write_csv(path)  # the same numbers under other names
    with pytest.raises(UserError, match=r"rows.csv must have the rows that .* split or columns have changed"):
        evaluate(run_dir)


def test_a_run_whose_data_config_changed_is_not_evaluated(run_dir: Path) -> None:
    config = run_dir / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("test_fraction: 0.1", "test_fraction: 0.2"))
    with pytest.raises(UserError, match=r"data=diabetes must have the rows that .* was trained on"):
        evaluate(run_dir)


@pytest.mark.parametrize("named", [{"config_digest": "a"}, {"checksum": 1}, {}, None, "a"], ids=str)
def test_a_checkpoint_that_names_another_run_is_refused(
    named: Any, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    result = read_result(run_dir) | {"config_digest": "b"}
    (run_dir / "result.json").write_text(json.dumps(result))
    own = {"config_digest": "b", "checksum": result["checksum"], "config": {}}
    rewrite_checkpoint(run_dir, lambda c: c | {"run": own})
    evaluate(run_dir)
    (run_dir / "evaluation.json").unlink()
    rewrite_checkpoint(run_dir, lambda c: c | {"run": own | named if named and isinstance(named, dict) else named})
    refused(run_dir, table, r"best.ckpt must be of the run .*; it is of another run", tmp_path / "out.csv")


def test_a_checkpoint_that_names_no_run_is_refused(run_dir: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    rewrite_checkpoint(run_dir, without("run"))
    refused(run_dir, table, "best.ckpt must be of the run .*; it is of another run", tmp_path / "out.csv")


def test_a_checkpoint_of_other_data_is_refused(run_dir: Path) -> None:
    state = torch.load(run_dir / "checkpoints/best.ckpt", weights_only=True)["DiabetesData"]
    rewrite_checkpoint(run_dir, having("DiabetesData", state))
    evaluate(run_dir)
    rewrite_checkpoint(run_dir, having("DiabetesData", {"checksum": state["checksum"] + 1}))
    with pytest.raises(UserError, match=r"data=diabetes must have the rows that .* was trained on"):
        evaluate(run_dir)


def test_a_checkpoint_copied_from_another_run_is_refused(
    run: Run, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    run(*OVERRIDES, "trainer.max_epochs=1", "data.seed=1", run_dir=tmp_path / "other")
    shutil.copy(tmp_path / "other/checkpoints/best.ckpt", run_dir / "checkpoints/best.ckpt")
    refused(run_dir, table, r"best.ckpt must be of the run .*; it is of another run", tmp_path / "out.csv")


def test_a_best_checkpoint_copied_from_a_run_of_another_length_is_refused(
    run: Run, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    run(*OVERRIDES, "trainer.max_epochs=2", run_dir=tmp_path / "other")
    shutil.copy(tmp_path / "other/checkpoints/best.ckpt", run_dir / "checkpoints/best.ckpt")
    refused(run_dir, table, r"best.ckpt must be of step \d+, the best in result.json", tmp_path / "out.csv")


def test_a_users_tmp_file_beside_the_output_is_kept(run_dir: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    table.write_csv(tmp_path / "in.csv")
    (tmp_path / "out.csv.tmp").write_text("mine")
    predict_file(run_dir, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv.tmp").read_text() == "mine"


def weights(**values: Any) -> Change:
    return having("state_dict", {f"linear.{name}": value for name, value in values.items()})


def units(**values: Any) -> Change:
    return having("hyper_parameters", {"standardization": UNITS | values})


UNITS = {"x_mean": [0.0] * 10, "x_scale": [1.0] * 10, "y_mean": 0.0, "y_scale": 1.0}
JUNK: dict[str, tuple[Change, str]] = {
    "a list": (lambda c: [1, 2], "must be a checkpoint dictionary, got a list"),
    "a tensor": (lambda c: torch.ones(2), "must be a checkpoint dictionary, got a Tensor"),
    "empty": (lambda c: {}, "with a state_dict of tensors"),
    "no state_dict": (without("state_dict"), "with a state_dict of tensors"),
    "a list for a state_dict": (lambda c: c | {"state_dict": [1]}, "with a state_dict of tensors"),
    "a number for a tensor": (weights(bias=1.0), "with a state_dict of tensors"),
    "no global_step": (without("global_step"), "global_step .* must be an integer, 0 or more, got null"),
    "text for global_step": (lambda c: c | {"global_step": "1"}, "must be an integer, 0 or more, got '1'"),
    "no hyper_parameters": (without("hyper_parameters"), "of a regression.model.LinearRegression; it is not"),
    "an unknown argument": (
        having("hyper_parameters", {"depth": 3}),
        "of a regression.model.LinearRegression; .* 'depth'",
    ),
    "a tensor for a number": (
        having("hyper_parameters", {"bias": torch.ones(2)}),
        "of a regression.model.LinearRegression",
    ),
    "no weight": (without("state_dict", "linear.weight"), "Missing key.*linear.weight"),
    "no bias": (without("state_dict", "linear.bias"), "Missing key.*linear.bias"),
    "another weight": (weights(other=torch.ones(1)), "Unexpected key.*linear.other"),
    "another shape": (weights(weight=torch.ones(1, 3)), "size mismatch for linear.weight"),
    "integers": (
        weights(weight=torch.ones(1, 10).int(), bias=torch.ones(1).int()),
        "in the precision of training, torch.float32, got torch.int32",
    ),
    "two precisions": (
        weights(bias=torch.ones(1).double()),
        "linear.bias must be in the precision of training, .*32, got .*64",
    ),
    "a nan weight": (weights(weight=torch.full((1, 10), math.nan)), "finite weights; linear.weight has nan or inf"),
    "an inf bias": (weights(bias=torch.full((1,), math.inf)), "finite weights; linear.bias has nan or inf"),
    "one mean and scale": (units(x_mean=[0.0], x_scale=[1.0]), "a mean and a scale for each of 10 features"),
    "text in the units": (units(x_mean=["a"] * 10), "of a regression.model.LinearRegression; it is not"),
    "nan in the units": (units(x_mean=[math.nan] * 10), "means and scales must be finite numbers"),
    "a scale of 0": (units(y_scale=0.0), "scales must be greater than 0"),
    "other units": (units(z_scale=1.0), "of a regression.model.LinearRegression; .* 'z_scale'"),
}


@pytest.mark.parametrize("kind", JUNK)
def test_an_invalid_checkpoint_is_refused_by_name(
    kind: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    change, message = JUNK[kind]
    rewrite_checkpoint(run_dir, change)
    refused(run_dir, table, message, tmp_path / "out.csv")


@pytest.mark.parametrize("content", [b"", b"PK", b"abc" * 100, bytes(range(256)) * 9], ids=len)
def test_a_checkpoint_of_arbitrary_bytes_is_refused_by_name(
    content: bytes, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    (run_dir / "checkpoints/best.ckpt").write_bytes(content)
    refused(run_dir, table, r"best.ckpt must be a whole checkpoint", tmp_path / "out.csv")


@pytest.mark.parametrize("cell", ["1e300", "-1e16", "1e400", "nan", "inf", "oops"])
def test_prediction_and_evaluation_refuse_the_same_cells_as_training(
    cell: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    text = table.cast(pl.String).with_columns(
        bmi=pl.when(pl.col("id") == "300").then(pl.lit(cell)).otherwise(pl.col("bmi"))
    )
    text.write_csv(source)
    message = r"column bmi of .*in.csv must be a (finite )?number .*in data row 301, got "
    commands: list[Callable[[], Any]] = [
        lambda: predict_file(run_dir, source, output),
        lambda: evaluate(run_dir, data=source),
        lambda: read_table(source, "progression", None),
    ]
    said = []
    for command in commands:
        with pytest.raises(UserError, match=message) as raised:
            command()
        said.append(str(raised.value))
    assert said[0] == said[1] == said[2]
    assert not output.exists() and not (run_dir / "evaluation.json").exists()


def test_a_nonfinite_prediction_or_metric_is_refused(run_dir: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.csv"
    table.with_columns(s3=pl.when(pl.col("id") == "007").then(1e14).otherwise(pl.col("s3"))).write_parquet(source)
    predict_file(run_dir, source, output)  # large, but finite
    output.unlink()
    rewrite_checkpoint(run_dir, weights(weight=torch.full((1, 10), 1e30)))
    message = (
        r"the prediction in data row 8 of .* must be a finite number, got -?(inf|nan): column s3 is 1e.14, .*best.ckpt"
    )
    with pytest.raises(UserError, match=message):
        predict_file(run_dir, source, output)
    assert not output.exists() and not list(tmp_path.glob("*.tmp"))
    for data in (source, None):
        with pytest.raises(UserError, match=r"test/loss of .* with .*best.ckpt must be a finite number, got inf"):
            evaluate(run_dir, data=data)
    assert not (run_dir / "evaluation.json").exists()


NAMES = ("[a].csv", "*.csv", "a?.csv", "~a.csv", "~", "[a].parquet", "*.parquet", "x=1")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_is_not_read_as_a_pattern(
    name: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table.drop("id")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = Path(name) if "." in name else Path(name) / "a.parquet"  # without a suffix the name is a directory's
    write = pl.DataFrame.write_parquet if path.suffix == ".parquet" else pl.DataFrame.write_csv
    for other in (f"a{path.suffix}", f"ab{path.suffix}", f"home/a{path.suffix}"):
        Path(other).parent.mkdir(exist_ok=True)
        write(table.with_columns(bmi=pl.col("bmi") + 1), other)
    with pytest.raises(UserError, match="must be an existing CSV or Parquet file, got"):
        evaluate(run_dir, data=path)
    with pytest.raises(UserError, match="INPUT must be an existing CSV or Parquet file, got"):
        predict_file(run_dir, path, Path("out.csv"))
    path.parent.mkdir(exist_ok=True)
    write(table, path.absolute())  # polars expands a leading ~
    inputs, _, names = read_table(path, "progression", None)
    assert [feature.name for feature in names] == table.columns[:10]  # no column from a directory's name
    assert np.array_equal(inputs, table[:, :10].to_numpy())
    predict_file(run_dir, path, Path("out.csv"))
    predicted = pl.read_csv("out.csv")["prediction"].to_numpy()
    np.testing.assert_allclose(predicted, expected(run_dir, table), rtol=1e-5)
    targets = table["progression"].to_numpy()
    found = evaluate(run_dir, data=path)["test/loss"]
    assert found == pytest.approx(mean_squared_error(targets, predicted), rel=1e-4)
    predict_file(run_dir, path, Path("out*.csv"))
    assert Path("out*.csv").is_file()


def test_prediction_and_evaluation_read_a_table_as_training_does(line: pl.DataFrame, tmp_path: Path) -> None:
    first_fraction = [str(i % 7) for i in range(149)] + ["0.5"] + [f"{i / 8}" for i in range(50)]
    flags = [("true", "false", "True", "FALSE")[i % 4] for i in range(200)]
    odd = [("+3", "1e2", '"4.5"', "007", "-0.0")[i % 5] for i in range(200)]
    lines = [f"{i:03},{a},{b},{c},{i}\r\n" for i, (a, b, c) in enumerate(zip(first_fraction, flags, odd, strict=True))]
    lines.insert(100, "\r\n")
    lines.append("\r\n\r\n")
    path, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    path.write_bytes("\ufeffid,late,flag,odd,y\r\n".encode() + "".join(lines).encode())
    run_dir = trained(tmp_path / "run", *TABLE, f"data.path={path}", "data.features=[late,flag,odd]")
    inputs = np.array(
        [
            [float(a), float(b.lower() == "true"), float(c.strip('"'))]
            for a, b, c in zip(first_fraction, flags, odd, strict=True)
        ]
    )
    rows = load(config_of(*TABLE, f"data.path={path}", "data.features=[late,flag,odd]").data)
    assert np.array_equal(rows.inputs, inputs)
    predict_file(run_dir, path, output)
    weight, bias = load_model(run_dir).own_units()
    written = pl.read_csv(output, infer_schema=False)
    assert written["id"].to_list() == [f"{i:03}" for i in range(200)]
    assert written["odd"].to_list() == [cell.strip('"') for cell in odd]
    predicted = written["prediction"].cast(pl.Float64).to_numpy()
    np.testing.assert_allclose(predicted, inputs @ np.array(weight) + bias, rtol=1e-5)
    found = evaluate(run_dir, data=path)["test/loss"]
    assert found == pytest.approx(mean_squared_error(np.arange(200.0), predicted), rel=1e-4)


def test_a_boolean_column_works_in_training_evaluation_and_prediction(line: pl.DataFrame, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        path, output = tmp_path / f"rows.{kind}", tmp_path / "out.parquet"
        line.write_csv(path) if kind == "csv" else line.write_parquet(path)
        run_dir = trained(tmp_path / kind, *TABLE, f"data.path={path}")
        assert read_result(run_dir)["features"] == ["x", "flag"]
        evaluate(run_dir)
        predict_file(run_dir, path, output)
        (slope, step), bias = load_model(run_dir).own_units()
        reference = line["x"].to_numpy() * slope + line["flag"].to_numpy() * step + bias
        np.testing.assert_allclose(pl.read_parquet(output)["prediction"].to_numpy(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("repeated", ["bmi", "id"])
@pytest.mark.parametrize("before", ["", "\n\n"], ids=["", "blank lines"])
def test_prediction_and_evaluation_refuse_a_repeated_column(
    before: str, repeated: str, run_dir: Path, table: pl.DataFrame, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    text = table.rename({"progression": "p"}).with_columns(progression="p").write_csv()
    source.write_text(before + text.replace(",p,", f",{repeated},", 1))
    with pytest.raises(UserError, match=f"INPUT must have different column names, got {repeated} twice in .*in.csv"):
        predict_file(run_dir, source, output)
    with pytest.raises(UserError, match=f"--data must have different column names, got {repeated} twice in .*in.csv"):
        evaluate(run_dir, data=source)
    assert not output.exists()


FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "got an empty file"),
    "header only": ("a.csv", b"age,y\n", "must have the columns"),
    "bytes": ("a.csv", bytes(range(256)) * 9, "must be a readable CSV or Parquet file"),
    "no Parquet": ("a.parquet", b"PAR1" + bytes(range(256)) + b"PAR1", "must be a readable CSV or Parquet file"),
    "cut Parquet": ("a.parquet", b"PAR1", "must be a readable CSV or Parquet file"),
    "no line feeds": ("a.csv", b"age,y\r1,2\r3,4\r", "lines that end in a line feed"),
    "another name": ("a.txt", b"age,y\n1,2\n", "must be a file named .csv or .parquet"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_a_table_is_refused_in_one_line(kind: str, run_dir: Path, tmp_path: Path) -> None:
    name, content, message = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    said = []
    for command in (lambda: evaluate(run_dir, data=path), lambda: predict_file(run_dir, path, tmp_path / "out.csv")):
        with pytest.raises(UserError, match=message) as raised:
            command()
        assert path.name in str(raised.value) and "\n" not in str(raised.value)
        said.append(str(raised.value))
    if kind != "header only":
        assert [text.split(" ")[0] for text in said] == ["--data", "INPUT"]


def test_evaluation_json_says_what_was_evaluated(run_dir: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    table.head(50).write_csv(path)
    for checkpoint, data, said, rows in (("best", None, "test", 44), ("last", path, str(path), 50)):
        evaluate(run_dir, checkpoint, data)  # type: ignore[arg-type]
        kept = json.loads((run_dir / "evaluation.json").read_text())
        assert (kept["checkpoint"], kept["data"], kept["rows"]) == (checkpoint, said, rows)


def test_evaluation_json_keeps_the_latest_for_each_checkpoint_and_data(
    run_dir: Path, table: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for number, path in enumerate(files):
        table.head(50 + number).write_csv(path)
    (run_dir / "evaluation.json").write_text("[]")  # broken, so nothing is kept
    for data in (None, Path("a.csv"), files[1], None, files[0]):  # paths are stored absolute
        evaluate(run_dir, data=data)
    evaluate(run_dir, "last", files[0])
    kept = json.loads((run_dir / "evaluation.json").read_text())
    others = kept.pop("others")
    assert [(one["checkpoint"], one["data"], one["rows"]) for one in (kept, *others)] == [
        *(("last", str(files[0]), 50), ("best", str(files[0]), 50), ("best", "test", 44), ("best", str(files[1]), 51)),
    ]
    assert all(one["metrics"].keys() == {"test/loss", "test/mae", "test/r2"} for one in others)


@pytest.mark.parametrize("error", [UserError("data.path must have rows"), ValueError("no rows")], ids=repr)
def test_a_projects_error_while_reading_the_evaluated_file_names_the_file(
    error: Exception, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file_dataloader(*_: object) -> None:
        raise error

    monkeypatch.setattr("regression.data.module.RegressionData.file_dataloader", file_dataloader)
    with pytest.raises(UserError, match=rf"^--data {tmp_path}/x\.csv: .*rows$") as raised:
        evaluate(run_dir, data=tmp_path / "x.csv")
    assert "\n" not in str(raised.value)


def test_the_input_is_not_overwritten_under_another_spelling_of_its_path(run_dir: Path, table: pl.DataFrame) -> None:
    source, link = run_dir / "rows.csv", run_dir / "link.csv"
    table.write_csv(source)
    link.symlink_to(source)
    before = source.read_bytes()
    for output in (link, run_dir / ".." / run_dir.name / "rows.csv"):
        with pytest.raises(UserError, match="OUTPUT must be another file than INPUT"):
            predict_file(run_dir, source, output)
        assert source.read_bytes() == before
