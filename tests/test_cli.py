"""Tests the commands as a user runs them, from another directory."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CONF, ROOT, config_of, needs_sweep, options

from descent.config.hparams import flat_hparams

Script = Callable[..., subprocess.CompletedProcess[str]]


def imports_torch(*arguments: str) -> bool:
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "hydra" in done.stderr
    return any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--cfg", "job"], ["optimzer=adam"], ["+optimizer.lrr=1"], ["optimizer.lr=abc"]],
    ids=" ".join,
)
def test_help_config_and_config_errors_do_not_import_torch(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESCENT_LOGS", str(tmp_path))
    assert not imports_torch(*arguments)


def test_tab_completion_offers_the_options_without_importing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "python scripts/train.py optimizer=ada"  # Hydra completes no script whose path has a hyphen
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "train.py"), "-sc", "query=bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {"optimizer=adadelta", "optimizer=adagrad", "optimizer=adam"} <= set(done.stdout.split())
    assert not any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())


def test_what_a_class_gets_by_interpolation_is_a_hyperparameter_once() -> None:
    flat = flat_hparams(config_of("optimizer=adam", "batch.size=7", "optimizer.lr=0.125"))
    assert [key for key, value in flat.items() if value == 0.125] == ["optimizer.lr"]
    assert [key for key, value in flat.items() if value == 7] == ["batch.size"]
    composed = flat_hparams(
        config_of("data=table", "data.path=${trainer.accelerator}.csv", "data.target=${oc.env:HOME}")
    )
    assert Path(composed["data.path"]).name == "auto.csv"  # composed from other values, and from the environment
    assert composed["data.target"] == os.environ["HOME"]
    assert flat["model._target_"] == "regression.model.LinearRegression"  # its own _target_ is kept


def test_what_the_model_gets_of_a_key_of_the_projects_own_is_a_hyperparameter() -> None:
    config = config_of()
    assert "model.bias" in flat_hparams(config) and config.extra
    for links, shown in (
        ({"model.bias": "width"}, True),
        ({"model.bias": "width.of"}, True),
        ({"model.bias": "seed"}, False),
    ):
        own = replace(config, extra=config.extra | {"width": {"of": 3}}, links=links)
        assert ("model.bias" in flat_hparams(own)) == shown


def test_help_lists_every_option(script: Script) -> None:
    text = script("train.py", "--help").stdout
    for group in (path.name for path in CONF.iterdir() if path.is_dir()):
        assert f"{group}=" in text
        assert all(re.search(rf"(?m)^[* ] {option} ", text) for option in options(group))


def test_a_run_leaves_its_directory_in_logs_from_wherever_it_is_started(script: Script, tmp_path: Path) -> None:
    done = script("train.py", "optimizer=adam", "trainer.max_epochs=2", "predict_at=[[1,2,3,4,5]]", fresh=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}
    (run_dir,) = (tmp_path / "logs" / "runs").iterdir()
    assert run_dir.name.startswith("optimizer=adam,")
    found = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if "tfevents" not in path.name}
    assert found == {
        *(".lock", ".hydra", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
        *("figures", "figures/predicted.png"),
        *("checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "result.json", "train.log"),
    }
    assert len(list(run_dir.glob("events.out.tfevents*"))) == 1
    command = json.loads((run_dir / "result.json").read_text())["command"]
    assert command.startswith("python scripts/train.py optimizer=adam trainer.max_epochs=2")
    for shown in ("learned", "least squares", "true", "before training", str(run_dir), "loss="):
        assert shown in done.stdout + done.stderr
    # stderr has only the progress bar: no warnings or messages of libraries
    assert all(line.startswith("Training:") for line in done.stderr.replace("\r", "\n").splitlines() if line)
    assert "INFO" not in done.stdout and "Tip" not in done.stdout


def test_the_console_is_free_of_warnings(script: Script) -> None:
    done = script("train.py", "trainer.max_epochs=2", "data=diabetes", "batch=full", "data.val_fraction=0")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("Training:") for line in done.stderr.replace("\r", "\n").splitlines() if line)


def test_an_error_is_one_line_with_exit_code_1(script: Script) -> None:
    for override in ("optimizer.lr=abc", "optimzer=adam", "name=../x"):
        done = script("train.py", override)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_diverged_run_exits_with_3(script: Script) -> None:
    done = script("train.py", "optimizer.lr=100", "batch=full")
    assert done.returncode == 3
    assert "clip=norm" in done.stdout


@needs_sweep
def test_a_sweep_puts_each_run_in_its_own_directory_and_ends_with_a_summary(script: Script, tmp_path: Path) -> None:
    done = script("train.py", "-m", "name=study", "trainer.max_epochs=2", "optimizer=sgd,adam", "batch=full,mini")
    assert done.returncode == 0, done.stderr
    sweep_dir = tmp_path / "logs" / "sweeps" / "study"
    runs = {path.parent.name: json.loads(path.read_text()) for path in sweep_dir.glob("*/result.json")}
    assert len(runs) == 4
    for name, result in runs.items():
        assert f"optimizer={result['hparams']['optimizer']}" in name
        assert f"batch={result['hparams']['batch']}" in name
    with (sweep_dir / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"]: float(row["val/loss"]) for row in rows} == {
        name: result["metrics"]["val/loss"] for name, result in runs.items()
    }
    best = min(runs, key=lambda name: runs[name]["metrics"]["val/loss"])
    table = done.stdout[done.stdout.rindex("train/loss") :].splitlines()
    assert runs[best]["hparams"]["optimizer"] in table[2] and runs[best]["hparams"]["batch"] in table[2]
    assert not (tmp_path / "multirun").exists()


@needs_sweep
def test_in_a_sweep_a_diverged_job_is_a_result(script: Script, tmp_path: Path) -> None:
    done = script("train.py", "-m", "batch=full", "trainer.max_epochs=30", "optimizer.lr=0.1,100")
    assert done.returncode == 0, done.stderr
    assert "(diverged)" in done.stdout and "diverged: the training loss" in done.stdout
