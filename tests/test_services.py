"""Compares what ``logger=mlflow`` and ``logger=wandb`` logged offline with the event file."""

import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, config_of
from test_logger import scalars
from test_resume import SMALL, SignalAt

from descent.run.libraries import end_wandb_run, wandb_run

Curves = dict[str, list[tuple[int, float]]]
OPTIONS = *SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=2"
SAID = "note: logger.{} keeps what it logged after step {}, and continues in a new run unless its config names one"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that makes a client of the database in the current directory."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # the logger sets it for the whole process
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    pytest.importorskip("mlflow", reason="needs .[mlflow]")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    return lambda: MlflowClient("sqlite:///mlflow.db")


def runs_of(client: Any) -> list[Any]:
    """Returns the experiment's runs, oldest first."""
    name = config_of("logger=mlflow").logger["mlflow"]["experiment_name"]
    (experiment,) = [e for e in client.search_experiments() if e.name == name]
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: int(run.info.start_time))


def curves_of(client: Any, run: Any) -> Curves:
    tags = [tag for tag in run.data.metrics if tag != "epoch"]
    histories = {tag: client.get_metric_history(run.info.run_id, tag) for tag in tags}
    return {tag: sorted((point.step, point.value) for point in history) for tag, history in histories.items()}


def check_curves(found: Curves, run_dir: Path, after: int = -1) -> None:
    """Asserts that the curves equal those of the event file, which has single precision."""
    expected = {tag: [(k, v) for k, v in points if k > after] for tag, points in scalars(run_dir).items()}
    expected = {tag: points for tag, points in expected.items() if points and not tag.startswith(("hp/", "Loss/"))}
    assert {"train/loss", "val/loss", "test/loss", "lr", "grad/norm"} <= expected.keys()
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points], tag
        assert [v for _, v in found[tag]] == pytest.approx([v for _, v in points], rel=1e-6), tag


@pytest.mark.filterwarnings("ignore")  # mlflow's own warnings do not matter here
def test_mlflow_gets_points_and_hparams_and_a_resumed_run_is_noted(
    mlflow: Any, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = *OPTIONS, "logger=[tensorboard,mlflow]", "optimizer.lr=0.03"
    result = run(*options, run_dir=tmp_path / "whole")
    (whole,) = runs_of(mlflow())
    check_curves(curves_of(mlflow(), whole), tmp_path / "whole")
    for tag in ("val/loss", "test/loss"):
        assert whole.data.metrics[tag] == result.metrics[tag]
    assert whole.data.params["optimizer.lr"] == "0.03" and whole.data.params["seed"] == "0"
    assert whole.info.status == "FINISHED"
    assert "keeps what it logged" not in caplog.text

    stopped = run(*options, callbacks=[SignalAt(7)], run_dir=tmp_path / "r")
    assert stopped.status == "interrupted"
    run(*options, run_dir=tmp_path / "r", resume=True)
    assert SAID.format("mlflow", stopped.steps) in caplog.text
    _, first, second = runs_of(mlflow())
    assert (first.info.status, second.info.status) == ("FAILED", "FINISHED")
    check_curves(curves_of(mlflow(), second), tmp_path / "r", after=stopped.steps)


def records(file: Path) -> list[Any]:
    """Returns the records of a ``.wandb`` file; waits until wandb's process has written the exit record."""
    for _ in range(100):
        found = _records(file)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} has no exit record")


def _records(file: Path) -> list[Any]:
    """Parses LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, found, parts = file.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # the end of a block, too small for a header
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def wandb_curves(file: Path) -> Curves:
    found: Curves = {}
    for record in records(file):
        row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        step = row.pop("trainer/global_step", None)
        for tag, value in row.items():
            if not tag.startswith("_") and tag != "epoch":
                found.setdefault(tag, []).append((step, value))
    return {tag: sorted(points) for tag, points in found.items()}


def files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)
    return pytest.importorskip("wandb", reason="needs .[wandb]")


@pytest.mark.filterwarnings("default")  # wandb's own warnings do not matter here
def test_each_run_gets_its_own_offline_wandb_run_with_its_points(
    wandb: Any, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = *OPTIONS, "logger=[tensorboard,wandb]"
    for name, rate in (("a", 0.03), ("b", 0.02)):  # in one process, like the jobs of a sweep
        run(*options, f"optimizer.lr={rate}", run_dir=tmp_path / name)
        (file,) = files(tmp_path / name)
        check_curves(wandb_curves(file), tmp_path / name)
        settings = [record for record in records(file) if record.WhichOneof("record_type") == "config"]
        values = {i.key or "/".join(i.nested_key): i.value_json for r in settings for i in r.config.update}
        assert json.loads(values["optimizer.lr"]) == rate
        assert wandb_run() is None
    stopped = run(*options, callbacks=[SignalAt(7)], run_dir=tmp_path / "r")
    run(*options, run_dir=tmp_path / "r", resume=True)
    assert SAID.format("wandb", stopped.steps) in caplog.text
    first, second = files(tmp_path / "r")
    assert [record.exit.exit_code for record in records(first) if record.WhichOneof("record_type") == "exit"] == [143]
    check_curves(wandb_curves(second), tmp_path / "r", after=stopped.steps)


def test_a_wandb_run_of_the_callers_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wandb:
        run: Any = "theirs"
        codes: list[int] = []  # noqa: RUF012

        def finish(self, exit_code: int) -> None:
            self.codes.append(exit_code)

    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    before = wandb_run()
    end_wandb_run(before, 3)
    assert Wandb.codes == []
    Wandb.run = "ours"
    end_wandb_run(before, 3)
    assert Wandb.codes == [3]
