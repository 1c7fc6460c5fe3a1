"""Compares missing cells and text columns with scikit-learn's imputer and encoder, and with values by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Run, config_of, data_module, save_config, split
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder
from test_resume import SignalAt

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.run.load import load_model
from descent.run.predict import predict
from descent.run.result import read_result
from descent.run.train import train
from regression.data.sources import TableData

COLORS = ("red", "green", "blue")


def frame_of(rows: int = 60, blanks: bool = True) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    age, income = rng.uniform(20, 60, rows).round(2), rng.uniform(1, 9, rows).round(3)
    color = [COLORS[i] for i in rng.integers(0, 3, rows)]
    price = 3 * age + 5 * income + np.array([{"red": 1.0, "green": -20.0, "blue": 30.0}[c] for c in color])
    frame = pl.DataFrame({"age": age, "color": color, "income": income, "price": price.round(4)})
    if blanks:
        row = pl.int_range(pl.len())
        frame = frame.with_columns(
            age=pl.when(~row.is_in([3, 17, 40])).then("age"),
            color=pl.when(~row.is_in([5, 17])).then("color"),
            income=pl.when(row % 5 != 1).then("income"),
        )
    return frame


def settings(path: Path, *overrides: str) -> tuple[str, ...]:
    return ("data=table", f"data.path={path}", "data.target=price", *overrides)


def written(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def module(path: Path, *overrides: str) -> TableData:
    data = data_module(config_of(*settings(path, "data.standardize=false", *overrides)).data)
    assert isinstance(data, TableData)
    return data


def trained(directory: Path, path: Path, *overrides: str) -> Path:
    given = (*settings(path, *overrides), "trainer.enable_progress_bar=false", "figures=false", "trainer=float64")
    given = (*given, "optimizer=adam", "trainer.max_epochs=5")
    train(config_of(*given), directory)
    save_config(directory, *given)
    return directory


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as raised:
        module(path, *overrides)
    return str(raised.value)


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns all notes but the one on batch.size."""
    found = [record.message for record in caplog.records if record.name.startswith("regression")]
    return [note for note in found if "batch.size" not in note]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_one_line_counts_the_missing_cells_of_each_column(kind: str, tmp_path: Path) -> None:
    path = written(frame_of(), tmp_path / f"rows.{kind}")
    cure = "data.missing=drop leaves out those rows, data.missing=mean fills in the column's mean"
    assert refusal(path) == f"{path} has missing cells: age 3, income 12; {cure}"
    assert refusal(path, "data.features=[income]") == f"{path} has missing cells: income 12; {cure}"
    assert refusal(path, "data.exclude=[age]") == f"{path} has missing cells: income 12; {cure}"
    every = f"{path} has missing cells: age 3, color 2, income 12; {cure}"
    assert refusal(path, "data.categorical=onehot") == every
    written(frame_of(blanks=False).with_columns(price=pl.when(pl.col("color") != "red").then("price")), path)
    count = frame_of(blanks=False)["color"].to_list().count("red")
    said = f"{path} has missing cells: price {count}; {cure} (rows without price are left out by both)"
    assert refusal(path) == said


def test_white_space_is_a_missing_cell_and_other_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('x,z,price\n1,1,1\n"  ",2,2\n"",3,3\n,4,4\n5,5,5\n6,6,6\n')
    assert "missing cells: x 3;" in refusal(path)
    for missing in ("error", "drop", "mean"):
        path.write_text("x,z,price\n1,1,1\n,2,2\nNA,,3\n4,4,4\n")
        hint = "leave a missing cell empty, with data.missing=drop or mean"
        said = f"column x of {path} must be a finite number in data row 3 ({hint}), got 'NA'"
        assert refusal(path, f"data.missing={missing}") == said


def test_drop_leaves_out_rows_with_a_missing_cell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = frame_of().with_columns(price=pl.when(pl.int_range(pl.len()) != 9).then("price"))
    path = written(frame, tmp_path / "rows.csv")
    data = module(path, "data.missing=drop", "data.val_fraction=0", "data.test_fraction=0")
    whole = frame.select("age", "income", "price").drop_nulls()
    assert data.train.x.tolist() == whole.select("age", "income").to_numpy().tolist()
    assert data.train.y.tolist() == whole["price"].to_list()
    left = 60 - whole.height
    assert notes(caplog) == [
        "note: non-numeric columns are left out: color",
        f"note: {left} of the 60 rows of {path} have a missing cell and are left out",
    ]
    written(frame.with_columns(income=pl.lit(None)), path)
    said = refusal(path, "data.missing=drop", "data.features=[age,income]")
    assert said == f"{path} must have a row that can be used: every row has a missing cell"


@pytest.mark.parametrize("standardize", [False, True])
def test_a_missing_cell_becomes_the_mean_of_the_training_rows(standardize: bool, tmp_path: Path) -> None:
    frame = frame_of().drop("color").with_columns(age=pl.col("age") + 10 * pl.int_range(pl.len()))
    path = written(frame, tmp_path / "rows.parquet")
    overrides = settings(path, "data.missing=mean", f"data.standardize={standardize}", "data.val_fraction=0.3")
    data = data_module(config_of(*overrides).data)
    parts = split(config_of(*overrides).data, 60)
    inputs = frame.select("age", "income").to_numpy()
    imputer = SimpleImputer().fit(inputs[parts.train])
    for part, rows in ((data.train, parts.train), (data.val, parts.val), (data.test, parts.test)):
        own = data.standardization.own_inputs(part.x)
        np.testing.assert_allclose(own, imputer.transform(inputs[rows]), rtol=1e-12)
    assert data.state_dict()["encoding"]["means"] == pytest.approx(imputer.statistics_, rel=1e-12)


def test_a_missing_target_is_never_filled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,price\n1,1\n,2\n9,\n3,3\n8,\n")
    data = module(path, "data.missing=mean", "data.val_fraction=0", "data.test_fraction=0")
    assert (data.train.x.tolist(), data.train.y.tolist()) == ([[1], [2], [3]], [1, 2, 3])
    assert notes(caplog) == [
        f"note: 2 of the 5 rows of {path} have no price and are left out",
        "note: 1 of the 3 rows have a missing cell; the training rows' mean replaces it (data.missing=mean)",
    ]


def test_a_column_that_is_missing_in_every_training_row_is_refused(tmp_path: Path) -> None:
    path = written(pl.DataFrame({"x": [1, 2], "z": [None, None], "price": [1, 2]}), tmp_path / "rows.csv")
    none = ("data.features=[x,z]", "data.missing=mean", "data.val_fraction=0", "data.test_fraction=0")
    assert refusal(path, *none) == "column z must have a value in at least one training row"
    words = frame_of().with_columns(color=pl.when(pl.int_range(pl.len()) == 59).then("color"))
    said = refusal(written(words, path), "data.categorical=onehot", "data.max_rows=50", *none[1:])
    assert said == "column color must have a value in at least one training row"


def one_hot(frame: pl.DataFrame, column: str = "color") -> NDArray[np.float64]:
    encoder = OneHotEncoder(sparse_output=False)
    return np.asarray(encoder.fit_transform(frame.select(column).to_numpy()))


@pytest.mark.parametrize("kind", ["csv", "parquet", "enumerated"])
def test_a_text_column_becomes_one_column_per_category(kind: str, tmp_path: Path) -> None:
    frame = frame_of(blanks=False)
    dtype = pl.Categorical if kind == "enumerated" else pl.String
    path = written(frame.cast({"color": dtype}), tmp_path / ("rows.csv" if kind == "csv" else "rows.parquet"))
    for overrides in ((), ("data.features=[age,color,income]",)):
        data = module(path, "data.categorical=onehot", "data.val_fraction=0", "data.test_fraction=0", *overrides)
        assert data.rows.feature_names == ("age", "color=blue", "color=green", "color=red", "income")
        assert np.array_equal(data.train.x[:, 1:4], one_hot(frame))
        assert np.array_equal(data.train.x[:, [0, 4]], frame.select("age", "income").to_numpy())
    assert module(path).rows.feature_names == ("age", "income")


def test_a_category_without_a_training_row_is_not_a_feature(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = frame_of(blanks=False)
    path = tmp_path / "rows.csv"
    parts = split(config_of(*settings(written(frame, path))).data, 60)
    row = pl.int_range(pl.len())
    frame = frame.with_columns(color=pl.when(row == int(parts.val[0])).then(pl.lit("mauve")).otherwise("color"))
    data = module(written(frame, path), "data.categorical=onehot")
    assert data.rows.feature_names == ("age", "color=blue", "color=green", "color=red", "income")
    assert data.val.x[0, 1:4].tolist() == [0, 0, 0] and data.val.x[1:, 1:4].sum(axis=1).tolist() == [1] * 5
    assert notes(caplog) == ["note: no training row has color=mauve: rows that have it get 0 in all categories"]
    assert data.rows.inputs.shape == (0, 5)


def test_a_missing_category_becomes_the_training_fraction_of_each(tmp_path: Path) -> None:
    frame = pl.DataFrame({"color": ["red", None, "blue", "red", "red"], "price": [1, 2, 3, 4, 5]})
    path = written(frame, tmp_path / "rows.csv")
    data = module(path, "data.categorical=onehot", "data.missing=mean", "data.val_fraction=0", "data.test_fraction=0")
    assert data.train.x.tolist() == [[0, 1], [0.25, 0.75], [1, 0], [0, 1], [0, 1]]


def test_a_column_with_too_many_categories_is_refused_by_name(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(101)]
    path = written(pl.DataFrame({"name": names, "x": range(0, 202, 2), "price": range(101)}), tmp_path / "rows.csv")
    rule = "must be one with at most 100 categories (data.exclude=[name] leaves it out), got 101"
    assert refusal(path, "data.categorical=onehot") == f"column name of {path} {rule}"
    assert module(path, "data.categorical=onehot", "data.exclude=[name]").rows.feature_names == ("x",)
    written(pl.read_csv(path).head(100), path)
    assert 80 <= len(module(path, "data.categorical=onehot").rows.feature_names) <= 101


def test_feature_names_of_categories_must_be_unique(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,a=b,price\nb,c,1\nd,e,2\nb,c,3\n")
    none = ("data.categorical=onehot", "data.val_fraction=0", "data.test_fraction=0")
    data = module(path, *none)
    assert data.rows.feature_names == ("a=b", "a=d", "a=b=c", "a=b=e")
    assert data.train.x.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    path.write_text("a,a=b,price\nb,1,1\nd,2,2\n")
    assert refusal(path, *none) == f"the features of {path} must have different names, got a=b twice"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.exclude=[colr]"], "data.exclude must name columns of PATH; colr is not one: did you mean color?"),
        (
            ["data.exclude=[zzz]"],
            "data.exclude must name columns of PATH; zzz is not one: its columns are age, color, income, price",
        ),
        (
            ["data.exclude=[price]"],
            "data.exclude must be without the target 'price', which is not a feature, got ['price']",
        ),
        (
            ["data.exclude=[age]", "data.features=[income]"],
            "data.exclude must be null if data.features is given, got ['age']",
        ),
        (["data.missing=fill"], "data.missing must be one of error, drop, mean, got 'fill'"),
        (
            ["data.categorical=dummies"],
            "data.categorical must be one of onehot or null (columns of text are left out), got 'dummies'",
        ),
    ],
)
def test_invalid_table_keys_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    path = written(frame_of(blanks=False), tmp_path / "rows.csv")
    assert refusal(path, *overrides) == message.replace("PATH", str(path))


def test_a_column_that_looks_like_an_identifier_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = frame_of(blanks=False).drop("color")
    rows = np.random.default_rng(1).permutation(60)
    frame = frame.with_columns(
        number=pl.Series(rows + 7), house_id=pl.Series(3 * rows), even=pl.Series(2 * rows), kind_id=pl.Series(rows % 2)
    )
    path = written(frame, tmp_path / "rows.csv")
    module(path)
    assert notes(caplog) == [
        f"note: column {name} looks like an identifier: data.exclude=[{name}] leaves it out"
        for name in ("number", "house_id")
    ]
    caplog.clear()
    left = module(path, "data.exclude=[number,house_id]")
    module(path, "data.features=[number]")
    module(written(frame.head(19).select("age", pl.Series("number", range(19)), "price"), tmp_path / "few.csv"))
    module(written(frame.select("number", "price"), tmp_path / "only.csv"))
    assert not notes(caplog) and left.rows.feature_names == ("age", "income", "even", "kind_id")


def predictions(run_dir: Path, frame: pl.DataFrame, kind: str = "csv") -> pl.DataFrame:
    source, output = run_dir.parent / f"in.{kind}", run_dir.parent / f"out.{kind}"
    predict(run_dir, written(frame, source), output)
    return pl.read_csv(output) if kind == "csv" else pl.read_parquet(output)


def features_by_hand(frame: pl.DataFrame) -> NDArray[np.float64]:
    """Returns age, the three colors in alphabetical order, and income, with nan for missing cells."""
    colors = [[np.nan if c is None else float(c == name) for name in sorted(COLORS)] for c in frame["color"]]
    numbers = frame.select("age", "income").cast(pl.Float64).to_numpy()
    return np.column_stack([numbers[:, 0], np.array(colors), numbers[:, 1]])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_prediction_and_evaluation_treat_missing_cells_like_the_run(
    missing: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = frame_of()
    path = written(frame, tmp_path / f"rows.{kind}")
    overrides = (f"data.missing={missing}", "data.categorical=onehot")
    run_dir = trained(tmp_path / "run", path, *overrides)
    given = frame.reverse().with_columns(age=pl.when(pl.int_range(pl.len()) > 1).then("age"))
    caplog.clear()
    found = predictions(run_dir, given, kind)
    inputs = features_by_hand(given)
    incomplete = int(np.isnan(inputs).any(axis=1).sum())
    what = {"drop": "no prediction", "mean": "the training rows' mean in its place"}[missing]
    said = f"with a missing cell: {what} (data.missing={missing})"
    assert notes(caplog) == [f"note: {incomplete} rows of {tmp_path}/in.{kind} {said}"]
    if missing == "mean":
        parts = split(config_of(*settings(path, *overrides)).data, 60)
        inputs = SimpleImputer().fit(features_by_hand(frame)[parts.train]).transform(inputs)
    weight, bias = load_model(run_dir).own_units()
    expected = inputs @ np.array(weight) + bias
    assert found.drop("prediction").equals(given)
    assert [value is None for value in found["prediction"]] == np.isnan(expected).tolist()
    known = ~np.isnan(expected)
    np.testing.assert_allclose(found["prediction"].to_numpy()[known], expected[known], rtol=1e-9)
    squared = (given["price"].to_numpy()[known] - expected[known]) ** 2
    metrics = evaluate(run_dir, data=tmp_path / f"in.{kind}")
    assert metrics["test/loss"] == pytest.approx(squared.mean(), rel=1e-9)
    assert json.loads((run_dir / "evaluation.json").read_text())["rows"] == known.sum()
    own = read_result(run_dir)["metrics"]
    assert evaluate(run_dir)["test/loss"] == pytest.approx(own["test/loss"], rel=1e-12)


def test_missing_cells_and_unseen_categories_are_refused_after_training_without_them(tmp_path: Path) -> None:
    frame = frame_of(blanks=False)
    run_dir = trained(tmp_path / "run", written(frame, tmp_path / "rows.csv"), "data.categorical=onehot")
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    row = pl.int_range(pl.len())
    purple = pl.when(row == 41).then(pl.lit("purple")).otherwise("color")
    more = pl.when(row > 50).then(pl.lit("pink")).otherwise(purple)
    cases: list[tuple[pl.DataFrame, str]] = [
        (frame_of(), "has missing cells: age 3, color 2, income 12; the run was trained with data.missing=error, "),
        (
            frame.with_columns(color=purple),
            "column color of .*in.csv must be a category of the run's training rows"
            r" \(blue, green, red\) in data row 42, got 'purple'; 1 row has an unknown category:"
            " remove such rows, or train with rows that have it$",
        ),
        (frame.with_columns(color=more), rf"42, got 'purple'; {len(frame) - 50} rows have an unknown category: "),
        (frame_of().with_columns(color=purple), "in data row 42, got 'purple'"),
        (frame.drop("color"), "in.csv must have the columns age, color, income.*; color missing"),
    ]
    for given, message in cases:
        written(given, source)
        calls: list[Any] = [lambda: predict(run_dir, source, output), lambda: evaluate(run_dir, data=source)]
        for call in calls:
            with pytest.raises(UserError, match=message):
                call()
        assert not output.exists()
    assert predictions(run_dir, frame.drop("price"))["prediction"].null_count() == 0


def test_prediction_fills_a_column_that_is_entirely_missing(tmp_path: Path) -> None:
    frame = frame_of()
    path = written(frame, tmp_path / "rows.csv")
    run_dir = trained(tmp_path / "run", path, "data.missing=mean", "data.categorical=onehot")
    nothing = frame.with_columns(age=None, color=None).head(4)
    for kind in ("csv", "parquet"):
        assert predictions(run_dir, nothing, kind)["prediction"].null_count() == 0


def test_least_squares_on_collinear_categories_equals_scikit_learns(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = frame_of(blanks=False)
    path = written(frame, tmp_path / "rows.csv")
    whole = ("data.categorical=onehot", "data.val_fraction=0", "data.test_fraction=0", "trainer.max_epochs=1")
    result = run(*settings(path, *whole), "trainer=float64")
    inputs = features_by_hand(frame)
    reference = LinearRegression().fit(inputs, frame["price"].to_numpy())
    optimum: Any = result.optimum
    predicted = inputs @ np.array(optimum["weight"]) + optimum["bias"]
    np.testing.assert_allclose(predicted, reference.predict(inputs), rtol=1e-9)
    assert "least-squares solution is not unique" in " ".join(notes(caplog))


def test_a_run_on_filled_and_encoded_rows_resumes_exactly(run: Run, tmp_path: Path) -> None:
    path = written(frame_of(), tmp_path / "rows.csv")
    given = (*settings(path, "data.missing=mean", "data.categorical=onehot"), "trainer=float64")
    whole = run(*given, "trainer.max_epochs=6")
    given = (*given, "trainer.max_epochs=6")
    run(*given, callbacks=[SignalAt(5)], run_dir=tmp_path / "part")
    shutil.copytree(tmp_path / "part", tmp_path / "other")
    rest = run(*given, run_dir=tmp_path / "part", resume=True)
    assert rest.status == "completed" and rest.parameters == whole.parameters
    changed = frame_of().with_columns(color=pl.col("color").replace("green", "grass"))
    written(changed, path)
    with pytest.raises(UserError, match="its rows or columns have changed"):
        run(*given, run_dir=tmp_path / "other", resume=True)


def test_the_checksum_depends_on_how_missing_cells_are_treated(tmp_path: Path) -> None:
    path = written(frame_of(), tmp_path / "rows.csv")
    sums = {missing: module(path, f"data.missing={missing}").checksum for missing in ("drop", "mean")}
    assert sums["drop"] != sums["mean"]
    path = written(frame_of(blanks=False), path)
    same = {module(path, f"data.missing={missing}").checksum for missing in ("error", "drop", "mean")}
    assert len(same) == 1
