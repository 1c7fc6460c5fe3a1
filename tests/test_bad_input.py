"""Tests that bad numbers and bad tables are refused in one line that names them, or allowed and listed."""

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import CONF, Run, load
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from descent.config.parse import parse
from descent.errors import UserError

PROBES: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "nan": math.nan,
    "inf": math.inf,
    "a string": "abc",
    "a fraction": 1.5,
    "null": None,
    "true": True,
}

# The probes that each numeric key accepts. Torch checks the ranges of its own arguments.
NUMERIC = {
    "seed": ["0"],
    "data.num_samples": [],
    "data.num_features": [],
    "data.noise_std": ["0", "a fraction"],
    "data.condition_number": ["a fraction"],
    "data.outlier_fraction": ["0"],
    "data.val_fraction": ["0"],
    "data.test_fraction": ["0"],
    "data.seed": ["0"],
    "data.max_rows": ["null"],
    "model.init_weight": ["0", "-1", "a fraction", "null"],
    "model.init_bias": ["0", "-1", "a fraction", "null"],
    "optimizer.lr": ["0", "-1", "a fraction"],
    "optimizer.momentum": ["0", "-1", "a fraction"],
    "optimizer.weight_decay": ["0", "-1", "a fraction"],
    "optimizer.dampening": ["0", "-1", "a fraction"],
    "batch.size": ["null"],
    "clip.gradient_clip_val": ["a fraction"],
    "stopping.max_epochs": [],
    "stopping.patience": ["null"],
    "stopping.max_samples": ["null"],
    "stopping.max_gradient_evaluations": ["null"],
    "stopping.max_seconds": ["a fraction", "null"],
    "stopping.min_delta": ["0", "a fraction"],
    "stopping.gradient_norm": ["a fraction", "null"],
    "stopping.loss_change": ["a fraction", "null"],
    "stopping.diverged_above": ["a fraction"],
    "trainer.max_epochs": [],
    "trainer.max_steps": ["null"],
    "trainer.log_every_n_steps": [],
    "trainer.check_val_every_n_epoch": ["null"],
    "checkpoint.every_seconds": ["0", "a fraction", "null"],
    "checkpoint.every_steps": ["null"],
    "scheduler.step_size": ["0", "-1"],
    "scheduler.gamma": ["0", "-1", "a fraction"],
    "scheduler.frequency": [],
}


HERE = re.escape(str(Path.cwd()))


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", ["clip=norm", "scheduler=step"])
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    return {str(key): value for key, value in plain.items() if key not in ("predict_at", "figures")}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("key", NUMERIC)
def test_a_numeric_key_takes_no_value_out_of_its_range(key: str, probe: str, tree: dict[str, Any]) -> None:
    changed = copy.deepcopy(tree)
    *path, name = key.split(".")
    node = changed
    for part in path:
        node = node[part]
    node[name] = PROBES[probe]
    if probe in NUMERIC[key]:
        parse(changed)
    else:
        with pytest.raises(UserError) as raised:
            parse(changed)
        assert str(raised.value).startswith(f"{key} ")
        assert "\n" not in str(raised.value)


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


TABLES: list[tuple[str, bytes | str, str]] = [
    ("empty", "", "got an empty file"),
    ("header only", "x,y\n", "file with rows of data, got none"),
    ("binary", bytes(range(256)) * 20, "data.path must be a readable CSV or Parquet file"),
    ("not UTF-8", "größe,y\n1,2\n3,4\n".encode("latin-1"), "data.path must be a readable CSV or Parquet file"),
    ("ragged", "x,y\n1,2\n1,2,3\n4,5\n", "data.path must be a readable CSV or Parquet file"),
    ("blank cell", "x,y\n1,2\n,3\n4,5\n", "rows.csv has missing cells: x 1; data.missing=drop "),
    ("text cell", "x,y\n1,2\noops,3\n4,5\n", "column x of .* must be a finite number in data row 2, got 'oops'"),
    ("nan cell", "x,y\n1,2\nnan,3\n4,5\n", "column x of .* must be a finite number in data row 2, got"),
    ("inf cell", "x,y\n1,2\ninf,3\n4,5\n", "column x of .* must be a finite number in data row 2, got .inf."),
    ("blank target", "x,y\n1,2\n3,\n4,5\n", "rows.csv has missing cells: y 1; .*rows without y are left out by both"),
    ("text target", "x,y\n1,a\n3,b\n4,c\n", "column y of .* must be a finite number in data row 1, got 'a'"),
    ("duplicate columns", "x,x,y\n1,2,3\n1,2,3\n", "must have different column names, got x twice"),
    ("no target", "x,z\n1,2\n1,2\n", "data.target must be a column of .*, got 'y'"),
    ("no numeric column", "x,y\na,2\nb,3\n", "has no numeric column besides the target 'y'"),
    ("other separator", "x;y\n1;2\n3;4\n", "data.path must be a CSV file with columns separated by ',', not ';', got"),
    (
        "decimal comma",
        "x;y\n1,5;2\n3,5;4\n",
        "data.path must be a CSV file with columns separated by ',', not ';', got",
    ),
    ("constant target and one row", "x,y\n1,2\n", "data.val_fraction must be 0 or at least 2 of the 1 rows"),
    ("huge", "x,y\n1e200,2\n2e200,3\n", "column x of .* must be a number up to 1e.15 .* in data row 1, got .1e200."),
]


@pytest.mark.parametrize(("content", "message"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
def test_a_bad_table_is_refused_in_one_line(content: bytes | str, message: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    fractions = [] if "fraction" in message else ["data.val_fraction=0", "data.test_fraction=0"]
    with pytest.raises(UserError, match=message) as raised:
        run("data=table", f"data.path={path}", "data.target=y", *fractions)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.path=no/such.csv"], rf"data.path must be an existing CSV or Parquet file, got '{HERE}/no/such.csv'"),
        (["data.path=/"], "data.path must be an existing CSV or Parquet file, got '/'"),
        (["data.path=../x.csv"], rf"data.path must be an existing CSV or Parquet file, got '{HERE}/\.\./x.csv'"),
        (["data.path=README.md"], "data.path must be a file named .csv or .parquet|CSV or Parquet file"),
        ([f"data.path={'x' * 5000}"], rf"data.path must be an existing CSV or Parquet file, got '{HERE}/xxx.{{,250}}$"),
        (
            [f"data.path={'x/' * 2500}x.csv"],
            rf"data.path must be an existing CSV or Parquet file, got '{HERE}/x/x.{{,250}}$",
        ),
        (
            ["data.path='~nosuchuser/x.csv'"],
            rf"data.path must be an existing CSV or Parquet file, got '{HERE}/~nosuchuser/x.csv'",
        ),
        (["data.features=[a,a]"], "data.features must be a list of one or more different strings"),
        (["data.features=[]"], "data.features must be a list of one or more different strings, such as"),
        (["data.features=[y]"], "data.features must be without the target 'y'"),
        (["data.features=[x,z]"], "must have the columns x, z; z missing"),
        (["data.target=z"], "data.target must be a column of"),
    ],
)
def test_bad_keys_of_a_table_are_refused(overrides: list[str], message: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_text(path, "x,y\n1,2\n3,4\n")
    with pytest.raises(UserError, match=message):
        run("data=table", f"data.path={path}", "data.target=y", *overrides)


def frame_of(build: Callable[[], pl.DataFrame], path: Path) -> list[str]:
    build().write_parquet(path)
    return ["data=table", f"data.path='{path}'", "data.target=y", "data.val_fraction=0", "data.test_fraction=0"]


@pytest.mark.parametrize("standardize", [True, False])
def test_a_constant_column_is_allowed_and_gets_a_finite_result(standardize: bool, run: Run, tmp_path: Path) -> None:
    table = frame_of(
        lambda: pl.DataFrame({"c": [3.0] * 6, "x": range(6), "y": range(6)}), tmp_path / "constant.parquet"
    )
    result = run(*table, f"data.standardize={standardize}", "optimizer.lr=0.01")
    assert result.status == "completed"
    assert result.optimum is not None and not result.optimum["unique"]
    assert math.isfinite(result.metrics["train/loss"])


def test_integers_booleans_and_odd_names_are_allowed(run: Run, tmp_path: Path) -> None:
    names = {"größe [m²]": range(1, 9), "[/red]": [True, False] * 4, "y": range(8)}
    result = run(*frame_of(lambda: pl.DataFrame(names), tmp_path / "a b ü.parquet"), "trainer.max_epochs=2")
    assert result.features == ["größe [m²]", "[/red]"]


def test_more_features_than_rows_is_allowed_with_a_note(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    result = run("data.num_samples=20", "data.num_features=30", "optimizer.lr=0.001")
    assert result.status == "completed"
    assert "the least-squares solution is not unique" in caplog.text


def test_columns_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from conftest import config_of

    path = tmp_path / "rows.csv"
    write_text(path, "city,x,y\nRome,1,2\nOslo,3,4\n")
    assert load(config_of("data=table", f"data.path={path}", "data.target=y").data).feature_names == ("x",)
    assert "note: non-numeric columns are left out: city" in caplog.text


@pytest.mark.parametrize(
    "overrides",
    [
        ["hydra.run.dir=/tmp/descent_elsewhere"],
        ["hydra.run.dir=logs/../../elsewhere"],
        ["hydra.output_subdir=../../../../../tmp/descent_elsewhere"],
        ["-m", "hydra.sweep.dir=/tmp/descent_elsewhere"],
        ["-m", "hydra.sweep.subdir=../../../../../tmp/descent_elsewhere"],
        ["name=../../elsewhere"],
        ["name=/tmp/descent_elsewhere"],
        ["+hydra.callbacks.evil._target_=os.system"],
    ],
    ids=" ".join,
)
def test_output_stays_in_logs(overrides: list[str], script: Any, tmp_path: Path) -> None:
    done = script("train.py", *overrides)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*elsewhere*")) and not Path("/tmp/descent_elsewhere").exists()
