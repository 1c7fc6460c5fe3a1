"""Tests that commands note when a project's code has changed since a run began."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import config_of, save_config
from test_resume import SMALL, SignalAt

from descent.errors import note_once
from descent.run import code
from descent.run.code import code_digests
from descent.run.evaluate import evaluate
from descent.run.predict import predict
from descent.run.result import read_result
from descent.run.resume import check_unchanged
from descent.run.train import train
from descent.training.checkpoint_io import read_checkpoint

OWN = (
    *("trainer.enable_progress_bar=false", "figures=false", *SMALL),
    *("packages=[torch,lightning,descent,regression,own_code]", "model._target_=own_code.model.Model"),
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "src/own_code"
    (package / "parts").mkdir(parents=True)
    for name in ("__init__", "parts/layer"):
        (package / f"{name}.py").touch()
    (package / "model.py").write_text("from regression.model import LinearRegression as Model\n")
    text = "from regression.model import LinearRegression\n\n\nclass Model(LinearRegression): ...\n"
    (package / "model.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "src")
    for name in ("own_code", "own_code.model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    new_process()
    return package


def new_process() -> None:
    code._digest.cache_clear()
    note_once.cache_clear()


def test_any_change_of_a_python_file_is_seen_and_of_no_other(package: Path) -> None:
    config = config_of(*OWN)
    seen = [code_digests(config)]
    assert seen[0].keys() == {"own_code", "regression"}  # own_code: model; regression: data and callbacks
    (package / "notes.txt").touch()
    for change in (
        lambda: (package / "notes.txt").write_text("other"),
        lambda: (package / "parts/layer.py").write_text("width = 3\n"),
        lambda: (package / "parts/layer.py").rename(package / "parts/layers.py"),
        lambda: (package / "model.py").write_text("# broken"),
        lambda: (package / "gone.py").symlink_to("nowhere"),  # an editor's lock
    ):
        change()
        new_process()
        seen.append(code_digests(config))
    digests = [found["own_code"] for found in seen]
    assert digests[0] == digests[1] and len({*digests}) >= 4
    assert len({found["regression"] for found in seen}) == 1


def test_the_code_of_any_class_that_the_config_names_counts(package: Path) -> None:
    base = config_of()
    assert code_digests(base).keys() == {"regression"}
    assert code_digests(replace(base, optimizer={"_target_": "own_code.model.Rule"})).keys() == {
        "own_code",
        "regression",
    }
    nested = {"a": {"_target_": "lightning.pytorch.Callback", "parts": [{"_target_": "own_code.model.Rule"}]}}
    assert code_digests(replace(base, callbacks=nested)).keys() == {"own_code", "regression"}


@pytest.mark.parametrize("changed", [True, False])
def test_a_resumed_run_says_that_the_code_has_changed(
    changed: bool, package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run_dir = config_of(*OWN), tmp_path / "r"
    train(config, run_dir, callbacks=[SignalAt(3)])
    assert read_checkpoint(run_dir / "checkpoints/last.ckpt")["run"]["code"] == read_result(run_dir)["code"]
    if changed:
        (package / "parts/layer.py").write_text("width = 3\n")
    new_process()
    train(config, run_dir, callbacks=[SignalAt(6)], resume=True)
    train(config, run_dir, resume=True)  # it began with the current code
    notes = [message for message in caplog.messages if "code" in message]
    assert notes == [f"note: the code of own_code has changed since the last checkpoint of {run_dir}"] * changed


def test_a_sweep_says_once_that_the_code_of_its_finished_runs_has_changed(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(*OWN)
    for name in ("a", "b"):
        save_config(tmp_path / "s" / name, *OWN)
        train(config, tmp_path / "s" / name)
    (package / "parts/layer.py").write_text("width = 3\n")
    new_process()
    for name in ("a", "b"):
        check_unchanged(tmp_path / "s" / name, config)
    assert [message for message in caplog.messages if "code" in message] == [
        f"note: the code of own_code has changed since runs in {tmp_path / 's'} finished; name=... starts a new sweep"
    ]


@pytest.mark.parametrize("changed", [True, False])
def test_evaluating_and_predicting_say_that_the_code_has_changed(
    changed: bool, package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, source = tmp_path / "r", tmp_path / "in.csv"
    save_config(run_dir, *OWN)
    train(config_of(*OWN), run_dir)
    names = read_result(run_dir)["features"]
    source.write_text(f"{','.join(names)}\n{','.join('1' for _ in names)}\n")
    if changed:
        (package / "parts/layer.py").write_text("width = 3\n")
    for command in (lambda: evaluate(run_dir), lambda: predict(run_dir, source, tmp_path / "out.csv")):
        new_process()
        caplog.clear()
        command()
        notes = [message for message in caplog.messages if "code" in message]
        assert notes == [f"note: the code of own_code has changed since {run_dir} was trained"] * changed
