"""Tests loading, evaluating and predicting with a checkpoint made by hand, and every refusal in full."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import Run
from test_evaluate_predict import trained

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.run.load import load_model
from descent.run.predict import predict
from descent.run.result import read_result
from regression.model import LinearRegression
from regression.predict import predict_file

UNITS: dict[str, Any] = {"x_mean": [1.0, 2.0], "x_scale": [2.0, 4.0], "y_mean": 10.0, "y_scale": 5.0}
# 10 + 5 ((x - 1) / 2 + 2 (z - 2) / 4 + 0.5) = 2.5 x + 2.5 z + 5
WEIGHTS = {"linear.weight": torch.tensor([[1.0, 2.0]]), "linear.bias": torch.tensor([0.5])}
ROWS = "note,z,x,y\na,2,1,12.5\nb,6,3,26.5\nc,0,0,7\n"  # the predictions are 12.5, 27.5 and 5


@pytest.fixture(scope="module")
def run_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    path.write_text("x,z,y\n" + "".join(f"{i % 7},{i % 4},{i % 5}\n" for i in range(40)))
    data = ("data=table", f"data.path={path}", "data.target=y", "trainer.max_epochs=2")
    run_dir = trained(path.with_name("run"), *data, "model.init_bias=0.25")
    change(run_dir, "last", {"global_step": 3, "state_dict": {k: 0 * v for k, v in WEIGHTS.items()}})
    change(run_dir, "best", {"state_dict": WEIGHTS})
    for name in ("best", "last"):
        change(run_dir, name, {"hyper_parameters": {"standardization": UNITS}})
    return run_dir


@pytest.fixture
def run_dir(run_by_hand: Path, tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    return Path(shutil.copytree(run_by_hand, tmp_path / "run"))


def change(run_dir: Path, name: str, values: dict[str, Any]) -> None:
    """Sets ``values`` in the parts of a checkpoint; ``None`` removes a part."""
    path = run_dir / f"checkpoints/{name}.ckpt"
    loaded = torch.load(path, weights_only=True)
    for part, value in values.items():
        if value is None:
            loaded.pop(part, None)
        else:
            loaded[part] = loaded.get(part, {}) | value if isinstance(value, dict) else value
    torch.save(loaded, path)


def change_result(run_dir: Path, **values: Any) -> None:
    found = json.loads((run_dir / "result.json").read_text()) | values
    (run_dir / "result.json").write_text(json.dumps({k: v for k, v in found.items() if v != "none"}))


def refusal(run_dir: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_model(run_dir)
    assert torch.get_default_dtype() == torch.float32
    return str(raised.value)


def test_predictions_are_written_cell_by_cell(run_dir: Path) -> None:
    source, output = run_dir.parent / "rows.csv", run_dir.parent / "out.CSV"
    predict_file(run_dir, source, output)
    assert output.read_text() == "note,z,x,y,prediction\na,2,1,12.5,12.5\nb,6,3,26.5,27.5\nc,0,0,7,5.0\n"
    predict(run_dir, source, output, "last")  # through the data module, like the script
    assert pl.read_csv(output)["prediction"].to_list() == [10, 10, 10]
    predict_file(run_dir, source, output.with_suffix(".PARQUET"))
    frame = pl.read_parquet(output.with_suffix(".PARQUET"))
    assert (frame.columns, frame["z"].to_list()) == (["note", "z", "x", "y", "prediction"], ["2", "6", "0"])
    assert frame["prediction"].to_list() == [12.5, 27.5, 5] and frame["prediction"].dtype == pl.Float64
    source.write_text("x,z\n")
    predict_file(run_dir, source, output)
    assert output.read_text() == "x,z,prediction\n"


def test_evaluation_json_is_written_value_by_value(run_dir: Path) -> None:
    source = run_dir.parent / "rows.csv"
    found = evaluate(run_dir, data=source)
    mean = (12.5 + 26.5 + 7) / 3
    r2 = 1 - (1 + 4) / sum((y - mean) ** 2 for y in (12.5, 26.5, 7))
    assert found == pytest.approx({"test/loss": 5 / 3, "test/mae": 1, "test/r2": r2}, rel=1e-6)
    text = (run_dir / "evaluation.json").read_text()
    result = json.loads((run_dir / "result.json").read_text())
    kept = {"checkpoint": "best", "data": str(source), "rows": 3, "metrics": found}
    kept |= {"run": {key: result[key] for key in ("config_digest", "steps")}, "others": []}
    assert text == json.dumps(kept, indent=2) + "\n"
    assert evaluate(run_dir, "last", source)["test/mae"] == pytest.approx((2.5 + 16.5 + 3) / 3, rel=1e-6)
    source.write_text("x,y,z\n1,2,3\n")
    with pytest.raises(UserError) as raised:
        evaluate(run_dir, data=source)
    assert str(raised.value) == f"--data must be a file with at least 2 rows, got 1 in {source}"


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_nonfinite_prediction_names_the_row_the_column_and_the_checkpoint(name: Any, run_dir: Path) -> None:
    source, output = run_dir.parent / "rows.csv", run_dir.parent / "out.csv"
    output.write_text("old")
    path = run_dir / f"checkpoints/{name}.ckpt"
    change(run_dir, name, {"state_dict": {"linear.weight": torch.tensor([[3e38, 2.0]])}})
    source.write_text("x,z,y\n1,2,3\n0,0,1\n-40,50,1\n5,60,1\n")
    with pytest.raises(UserError) as raised:
        predict_file(run_dir, source, output, name)
    assert str(raised.value) == (
        f"the prediction in data row 3 of {source} must be a finite number, got -inf: column x is -40, which is too"
        f" large for the weights in {path}"  # x is 20.5 deviations from its mean, z is 12 from its own
    )
    for data, where in ((source, source), (None, "the test rows")):
        with pytest.raises(UserError) as raised:
            evaluate(run_dir, name, data)
        assert str(raised.value) == f"test/loss of {where} with {path} must be a finite number, got inf"
    assert output.read_text() == "old" and not list(run_dir.parent.glob("*.tmp"))
    assert not (run_dir / "evaluation.json").exists()


def test_a_scale_so_small_that_inputs_overflow_is_an_error_without_a_warning(run_dir: Path) -> None:
    source, output = run_dir.parent / "rows.csv", run_dir.parent / "out.csv"
    change(run_dir, "best", {"hyper_parameters": {"standardization": UNITS | {"x_scale": [1e-300, 1.0]}}})
    source.write_text("z,x,y\n1,1e15,3\n0,0,1\n")
    with pytest.raises(UserError, match=r"in data row 1 of .*, got inf: column x is 1e\+15"):
        predict_file(run_dir, source, output)
    with pytest.raises(UserError, match=r"test/loss of .*rows.csv with .* must be a finite number, got (inf|nan)$"):
        evaluate(run_dir, data=source)


def test_the_messages_for_unusable_paths(run_dir: Path) -> None:
    here = run_dir.parent
    rows = here / "rows.csv"
    (here / "taken.csv").write_text("x,z,prediction\n1,2,3\n")
    (here / "short.csv").write_text("x,y\n1,2\n")
    (here / "folder.csv").mkdir()
    cases = [
        (here / "none.csv", "out.txt", f"OUTPUT must be a file named .csv or .parquet, got '{here}/out.txt'"),
        (here / "none.csv", "out.csv", f"INPUT must be an existing CSV or Parquet file, got '{here}/none.csv'"),
        (rows, "rows.csv", f"OUTPUT must be another file than INPUT, got '{here}/rows.csv'"),
        (here / "taken.csv", "out.csv", f"{here}/taken.csv must not have a column prediction yet"),
        (here / "short.csv", "out.csv", f"{here}/short.csv must have the columns x, z; z missing"),
    ]
    for source, output, message in cases:
        with pytest.raises(UserError) as raised:
            predict_file(run_dir, source, here / output)
        assert str(raised.value) == message
    (here / "ragged.csv").write_text("x,z\n1,2\n1,2,3\n")
    for source, output in ((here / "ragged.csv", "out.csv"), (rows, "folder.csv"), (rows, "no/out.parquet")):
        with pytest.raises(UserError) as raised:
            predict_file(run_dir, source, here / output)
        assert str(raised.value).startswith(f"cannot predict from {source} to {here / output}: ")
        assert "\n" not in str(raised.value)
    assert sorted(path.name for path in here.iterdir()) == [
        *("folder.csv", "ragged.csv", "rows.csv", "run", "short.csv", "taken.csv")
    ]


@pytest.mark.parametrize("error", [pl.exceptions.PanicException, pl.exceptions.ComputeError, OSError])
def test_a_polars_error_while_writing_predictions_is_one_line(
    error: type[BaseException], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error("a reason\nof two lines")

    monkeypatch.setattr(pl.LazyFrame, "sink_csv", fail)
    source, output = run_dir.parent / "rows.csv", run_dir.parent / "out.csv"
    with pytest.raises(UserError) as raised:
        predict_file(run_dir, source, output)
    assert str(raised.value) == f"cannot predict from {source} to {output}: a reason"


def test_predictions_are_made_in_chunks_and_in_order(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, predict_step = [], LinearRegression.predict_step

    def counted(model: LinearRegression, batch: torch.Tensor, batch_idx: int = 0) -> torch.Tensor:
        sizes.append(len(batch))
        return predict_step(model, batch, batch_idx)

    monkeypatch.setattr(LinearRegression, "predict_step", counted)
    source, output = run_dir.parent / "many.parquet", run_dir.parent / "out.parquet"
    rows = 250_000
    pl.DataFrame({"x": range(rows), "z": [0] * rows}, schema=dict.fromkeys("xz", pl.Int32)).write_parquet(source)
    predict_file(run_dir, source, output)
    assert sum(sizes) == rows and max(sizes) <= rows / 2
    np.testing.assert_allclose(pl.read_parquet(output)["prediction"], 2.5 * np.arange(rows) + 5, rtol=1e-6)


def test_a_model_is_loaded_in_its_training_precision(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_buffer(model: LinearRegression) -> None:
        model.register_buffer("tenth", torch.tensor(0.1), persistent=False)

    monkeypatch.setattr(LinearRegression, "configure_model", with_a_buffer)
    single = load_model(run_dir)
    assert (single.linear.weight.dtype, single.tenth.dtype, single.training) == (torch.float32, torch.float32, False)
    change(run_dir, "best", {"state_dict": {k: v.double() for k, v in WEIGHTS.items()}})
    double = load_model(run_dir)
    assert double.linear.weight.dtype == torch.float64 and double.tenth.item() == 0.1
    assert torch.get_default_dtype() == torch.float32
    change(run_dir, "best", {"hyper_parameters": {"depth": 3}})
    assert "'depth'" in refusal(run_dir)  # the default dtype is restored after the error


def test_values_far_from_zero_lose_no_digits_in_single_precision(run_dir: Path) -> None:
    far = {"x_mean": [1e9, 0.0], "x_scale": [1.0, 1.0], "y_mean": 1e9, "y_scale": 1.0}
    change(run_dir, "best", {"hyper_parameters": {"standardization": far}})
    (run_dir.parent / "rows.csv").write_text("x,z\n1000000001,2\n")
    predict_file(run_dir, run_dir.parent / "rows.csv", run_dir.parent / "out.parquet")
    assert pl.read_parquet(run_dir.parent / "out.parquet")["prediction"].to_list() == [1e9 + 5.5]


CENTER = "target_center must be a finite number, and its target_scale one greater than 0"
BAD: list[tuple[str, dict[str, Any]]] = [
    *(("a mean and a scale for each feature", {name: [1.0]}) for name in ("x_mean", "x_scale")),
    ("a mean and a scale for each of 2 features", {"x_mean": [1.0], "x_scale": [1.0]}),
    *(("means and scales must be finite numbers", {name: [1.0, math.inf]}) for name in ("x_mean", "x_scale")),
    *(("means and scales must be finite numbers", {name: math.nan}) for name in ("y_mean", "y_scale")),
    *((CENTER, {name: math.nan}) for name in ("target_center", "target_scale")),
    ("scales must be greater than 0", {"y_scale": 0.0}),
    *((CENTER, {"target_scale": bad}) for bad in (0.0, -1.0, math.inf)),
    (CENTER, {"target_center": -math.inf}),
    *(("scales must be greater than 0", {"x_scale": [1.0, bad]}) for bad in (0.0, -1.0)),
]


@pytest.mark.parametrize(("message", "values"), BAD, ids=str)
def test_invalid_means_and_scales_are_refused(message: str, values: dict[str, Any], run_dir: Path) -> None:
    units = {"standardization": UNITS | {k: v for k, v in values.items() if k in UNITS}}
    change(run_dir, "best", {"hyper_parameters": units | {k: v for k, v in values.items() if k not in UNITS}})
    begin = (
        f"{run_dir}/checkpoints/best.ckpt must be a checkpoint of a regression.model.LinearRegression; it is not: its "
    )
    assert refusal(run_dir).startswith(begin)
    assert message in refusal(run_dir)


def test_a_nonfinite_weight_is_refused(run_dir: Path) -> None:
    change(run_dir, "best", {"state_dict": {"linear.weight": torch.tensor([[1.0, math.nan]])}})
    path = run_dir / "checkpoints/best.ckpt"
    assert refusal(run_dir) == f"{path} must hold finite weights; linear.weight has nan or inf"


def test_weights_in_half_precision_are_refused(run_dir: Path) -> None:
    change(run_dir, "best", {"state_dict": {k: v.half() for k, v in WEIGHTS.items()}})
    said = "linear.weight must be in the precision of training, torch.float32, got torch.float16"
    assert refusal(run_dir).endswith(said)


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(run_dir: Path) -> None:
    path = run_dir / "checkpoints/best.ckpt"
    original = path.read_bytes()
    changes: list[tuple[str, dict[str, Any]]] = [
        ("config", {"run": {"config_digest": "other"}}),
        ("data", {"run": {"checksum": 1}}),
        ("config", {"run": None}),
    ]
    for what, values in changes:
        path.write_bytes(original)
        change(run_dir, "best", values)
        assert refusal(run_dir) == f"{path} must be of the run {run_dir}; it is of another run: its {what} differs"
    path.write_bytes(original)
    load_model(run_dir)
    change(run_dir, "best", {"run": None})
    change(run_dir, "best", {"run": {"checksum": read_result(run_dir)["checksum"]}})
    change_result(run_dir, config_digest="none")
    assert refusal(run_dir).endswith("its config differs")  # neither has a digest


def test_the_best_checkpoint_must_be_of_the_best_step(run_dir: Path) -> None:
    path, step = run_dir / "checkpoints/best.ckpt", read_result(run_dir)["best"]["step"]
    load_model(run_dir, "last")
    change(run_dir, "best", {"global_step": step + 1})
    message = f"{path} must be of step {step}, the best in result.json; it is of step {step + 1}"
    resumed = " (a run that is still training, or that ended without a result, must finish first: scripts/resume.py)"
    assert refusal(run_dir) == message + resumed
    change_result(run_dir, best=None)
    load_model(run_dir)


def test_a_run_without_bias_is_evaluated_in_its_own_units(tmp_path: Path, run_by_hand: Path) -> None:
    path = run_by_hand.with_name("rows.csv")
    data = ("data=table", f"data.path={path}", "data.target=y", "trainer.max_epochs=2", "model.bias=false")
    run_dir = trained(tmp_path / "run", *data)
    written = {k: v for k, v in read_result(run_dir)["metrics"].items() if k.startswith("test/")}
    assert evaluate(run_dir) == pytest.approx(written, rel=1e-6) and len(written) == 3


def test_evaluating_a_run_without_test_rows_needs_a_file(tmp_path: Path) -> None:
    run_dir = trained(tmp_path / "run", "data=diabetes", "trainer.max_epochs=1", "data.test_fraction=0")
    with pytest.raises(UserError) as raised:
        evaluate(run_dir)
    assert str(raised.value) == f"{run_dir} has no test rows: name a file with --data FILE"


def test_predicting_and_evaluating_a_file_need_the_columns_in_the_result(run_dir: Path) -> None:
    source, output = run_dir.parent / "rows.csv", run_dir.parent / "out.csv"
    before = read_result(run_dir)
    said = "result.json must have the run's features and target, which callbacks=regression adds; it has none"
    for changed in ({"features": "none"}, {"features": "x"}, {"features": []}, {"target": "none"}, {"target": 1}):
        change_result(run_dir, **changed)
        for call in (lambda: predict_file(run_dir, source, output), lambda: evaluate(run_dir, data=source)):
            with pytest.raises(UserError) as raised:
                call()
            assert str(raised.value) == said
        change_result(run_dir, **before)
    assert not output.exists()


def test_the_state_dict_holds_only_the_weights(run: Run, tmp_path: Path) -> None:
    run("data=line", "trainer.max_epochs=1")
    for name in ("best", "last"):
        loaded = torch.load(tmp_path / f"0/checkpoints/{name}.ckpt", weights_only=True)
        assert list(loaded["state_dict"]) == ["linear.weight", "linear.bias"]
