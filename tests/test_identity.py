"""Tests that a run resumes only with its own config and data, and changes nothing before its first new step."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, config_of, save_config
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf
from test_resume import SMALL, SignalAt

from descent.config.identity import config_digest, differences, flat_config
from descent.errors import UserError
from descent.files import locked
from descent.run.result import read_result
from descent.run.resume import check_unchanged, resume
from descent.run.saved_config import saved_config
from descent.run.train import train
from descent.training.checkpoint_io import read_checkpoint
from descent.training.checkpoints import Checkpoints
from descent.training.sparse_callback import SparseCallback
from regression.data.module import RegressionData


def contents(run_dir: Path) -> dict[str, bytes]:
    """Returns the bytes of all files except the log, which records each attempt."""
    files = (path for path in run_dir.rglob("*") if path.is_file() and path.name != "train.log")
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    overrides = ("trainer.enable_progress_bar=false", "figures=false", *SMALL)
    save_config(run_dir, *overrides)
    train(config_of(*overrides), run_dir)
    return run_dir


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("optimizer.lr=0.001", "optimizer.lr was 0.05 and is 0.001"),
        ("+optimizer.momentum=0.9", "optimizer.momentum was not set and is 0.9"),
        ("batch.size=4", "batch.size was 8 and is 4"),
        ("trainer.max_epochs=9", "trainer.max_epochs was 4 and is 9"),
        ("seed=1", "seed was 0 and is 1"),
        ("predict_at=[[1,2,3,4,5]]", "predict_at was [] and is [[1, 2, 3, 4, 5]]"),
    ],
)
def test_an_interrupted_run_does_not_resume_with_another_config(
    changed: str, message: str, run: Run, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run(*SMALL, callbacks=[SignalAt(7)], run_dir=run_dir)
    before = contents(run_dir)
    with pytest.raises(UserError, match=re.escape(message)):
        run(*SMALL, changed, run_dir=run_dir, resume=True)
    assert contents(run_dir) == before
    assert run(*SMALL, "checkpoint.every_steps=3", "name=x", run_dir=run_dir, resume=True).status == "completed"


def test_the_digest_is_in_the_result_and_in_both_checkpoints(run: Run, tmp_path: Path) -> None:
    run(*SMALL, run_dir=tmp_path / "run")
    digest = config_digest(config_of("trainer.enable_progress_bar=false", "figures=false", *SMALL))
    assert read_result(tmp_path / "run")["config_digest"] == digest
    for name in ("best", "last"):
        saved = read_checkpoint(tmp_path / f"run/checkpoints/{name}.ckpt")
        assert saved["run"]["config_digest"] == digest
        assert saved["SyntheticData"]["checksum"] == read_result(tmp_path / "run")["checksum"]


def test_the_digest_ignores_only_the_length_and_keys_that_change_nothing() -> None:
    base = config_digest(config_of())
    free = (
        *("name=x", "checkpoint.every_seconds=9", "checkpoint.every_steps=9", "trainer.max_epochs=7"),
        *("trainer.enable_progress_bar=false", "trainer.profiler=simple"),
    )
    assert {config_digest(config_of(override)) for override in free} == {base}
    others = (
        *("optimizer.lr=0.1", "seed=1", "data.seed=1", "batch.shuffle=false", "clip=norm", "scheduler=step"),
        *("stopping.patience=2", "figures=false", "model.bias=false", "trainer.log_every_n_steps=7"),
    )
    assert len({base, *(config_digest(config_of(override)) for override in others)}) == len(others) + 1
    one_batch = config_of("trainer.fast_dev_run=true")  # trainer.fast is a prefix of its name
    assert config_digest(one_batch) != base and flat_config(one_batch)["trainer.fast_dev_run"] is True
    assert config_digest(config_of("optimizer.lr=1")) == config_digest(config_of("optimizer.lr=1.0"))


def test_differences_name_both_values() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1.0, "b": 2}) is None
    assert differences({"a": 1, "b": None}, {"a": 2, "c": "x"}) == (
        "a was 1 and is 2, b was null and is not set, c was not set and is 'x'"
    )
    assert differences({"a": 1, "b": 1}, {"a": 2, "b": 2}, allowed=["a"]) == "b was 1 and is 2"


def test_a_sweep_does_not_skip_a_run_of_another_config(finished: Path) -> None:
    own = ("trainer.enable_progress_bar=false", "figures=false", *SMALL)
    check_unchanged(finished, config_of(*own))
    for changed in ("optimizer.lr=0.001", "trainer.max_epochs=5"):
        with pytest.raises(UserError, match=rf"was started with another config: {changed.partition('=')[0]} was "):
            check_unchanged(finished, config_of(*own, changed))
    path = finished / ".hydra/config.yaml"
    path.write_text(path.read_text().replace("lr: 0.05", "lr: 0.01"))
    with pytest.raises(UserError, match=r"its config\.yaml is not the one that it ran with"):
        check_unchanged(finished, config_of(*own, "optimizer.lr=0.01"))


def test_a_sweep_does_not_skip_a_run_on_other_rows(run: Run, tmp_path: Path) -> None:
    path, run_dir = tmp_path / "rows.csv", tmp_path / "run"
    table = "x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(40))
    path.write_text(table)
    own = ("data=table", f"data.path={path}", "data.target=y", "trainer.max_epochs=1", "figures=false")
    save_config(run_dir, *own)
    run(*own, run_dir=run_dir)
    config = saved_config(run_dir)
    check_unchanged(run_dir, config)
    path.write_text(table.replace("\n5,2\n", "\n5,9\n"))
    with pytest.raises(UserError, match=rf"{path} must have the rows that {run_dir} was trained on"):
        check_unchanged(run_dir, config)
    path.write_text(table)
    check_unchanged(run_dir, config)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def drop_optimizer(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "optimizer_states": [{"state": {}, "param_groups": []}]}, path)


def drop_loops(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "loops": {"fit_loop": []}}, path)


def other_shape(path: Path) -> None:
    loaded = torch.load(path, weights_only=True)
    torch.save(loaded | {"state_dict": {"linear.weight": torch.zeros(1, 9), "linear.bias": torch.zeros(1)}}, path)


@pytest.mark.parametrize("harm", [truncate, drop_optimizer, drop_loops, other_shape])
def test_a_failed_lengthening_leaves_a_finished_run_unchanged(harm: Any, finished: Path) -> None:
    harm(finished / "checkpoints/last.ckpt")
    before = contents(finished)
    result = resume(finished, ["trainer.max_epochs=6"])
    assert result.status == "failed"
    assert result.reason is not None and str(finished / "checkpoints/last.ckpt") in result.reason
    assert contents(finished) == before


def test_the_checkpoint_of_another_run_is_refused_and_nothing_changes(finished: Path, run: Run, tmp_path: Path) -> None:
    run(*SMALL, "optimizer=adam", run_dir=tmp_path / "other")
    (finished / "checkpoints/last.ckpt").write_bytes((tmp_path / "other/checkpoints/last.ckpt").read_bytes())
    before = contents(finished)
    result = resume(finished, ["trainer.max_epochs=6"])
    assert result.reason is not None and "optimizer._target_ was 'torch.optim.Adam'" in result.reason
    assert contents(finished) == before


def test_a_lengthened_run_keeps_its_new_length(finished: Path) -> None:
    assert resume(finished, ["trainer.max_epochs=6"]).epochs == 6
    assert OmegaConf.load(finished / ".hydra/config.yaml").trainer.max_epochs == 6
    assert read_result(finished)["hparams"]["trainer.max_epochs"] == 6
    assert resume(finished, ["trainer.max_epochs=7"]).epochs == 7


def test_a_run_that_was_killed_while_being_lengthened_resumes(
    finished: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_start", killed)  # the first hook after the new length is saved
        with pytest.raises(SystemExit):
            resume(finished, ["trainer.max_epochs=6"])
    assert read_checkpoint(finished / "checkpoints/last.ckpt")["run"]["config"]["trainer.max_epochs"] == 4
    result = resume(finished)
    assert (result.status, result.epochs) == ("completed", 6)
    assert result.parameters == run(*SMALL, "trainer.max_epochs=6", run_dir=tmp_path / "whole").parameters


def test_a_run_cannot_be_shortened(finished: Path) -> None:
    path = finished / ".hydra/config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 4", "max_epochs: 2"))
    (finished / "result.json").unlink()
    before = contents(finished)
    reason = resume(finished).reason
    assert reason is not None and "trainer.max_epochs was 4 and is 2" in reason
    assert {**contents(finished), "result.json": b""} == {**before, "result.json": b""}


def test_a_run_that_another_process_trains_is_not_changed(finished: Path) -> None:
    before = contents(finished)
    with locked(finished, "the run"):
        result = resume(finished, ["trainer.max_epochs=6"])
        assert result.reason == f"the run {finished} is in use by another process"
    assert contents(finished) == before


def test_a_relative_path_starts_where_the_run_was_started(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/rows.csv").write_text("x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(40)))
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{i},{-i}\n" for i in range(40)))
    monkeypatch.chdir(tmp_path / "a")
    rows = ("data=table", "data.path=rows.csv", "data.target=y", "trainer=float64", "trainer.max_epochs=3")
    free = ("trainer.enable_progress_bar=false", "figures=false")
    save_config(tmp_path / "run", *free, *rows)
    result = run(*rows, run_dir=tmp_path / "run")
    assert result.hparams["data.path"] == str(tmp_path / "a/rows.csv")
    monkeypatch.chdir(tmp_path)
    longer = resume(tmp_path / "run", ["trainer.max_epochs=4"])
    assert (longer.status, longer.checksum) == ("completed", result.checksum)


@pytest.mark.parametrize(
    ("name", "junk", "message"),
    [
        ("config.yaml", "a: [", "config.yaml must be what Hydra wrote; it cannot be read"),
        ("config.yaml", "[1, 2]", "config.yaml must be what Hydra wrote, keys with values"),
        ("config.yaml", "", "config.yaml: seed is missing"),
        ("config.yaml", "seed: ${nothing}", "config.yaml must be what Hydra wrote; it cannot be read"),
        ("hydra.yaml", "", "hydra.yaml must be what Hydra wrote; it has no hydra.runtime.choices"),
        ("hydra.yaml", "hydra: {runtime: {choices: 3}}", "it has no hydra.runtime.choices"),
        ("hydra.yaml", "hydra: {runtime: {choices: {}}}", "it has no hydra.runtime.cwd"),
        ("hydra.yaml", "\0\0", "hydra.yaml must be what Hydra wrote; it cannot be read"),
    ],
)
def test_a_broken_hydra_file_is_named(name: str, junk: str, message: str, finished: Path) -> None:
    (finished / ".hydra" / name).write_text(junk)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        resume(finished)
    assert str(finished) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "junk",
    ["", "{", "null", "[]", "3", "{}", '{"status": "completed"}', '{"status": 3}', '"x"', "\xff", "[" * 10_000],
)
def test_a_broken_result_is_named(junk: str, finished: Path) -> None:
    (finished / "result.json").write_bytes(junk.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{finished}/result\.json must be the result of a run") as raised:
        resume(finished)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["metrics", "hparams", "steps", "samples", "best", "reason", "status", "seconds"])
@pytest.mark.parametrize("value", ["absent", True])
def test_a_result_with_a_missing_or_wrong_key_is_refused(key: str, value: Any, finished: Path) -> None:
    written = json.loads((finished / "result.json").read_text())
    written = {k: v for k, v in written.items() if k != key} | ({} if value == "absent" else {key: value})
    (finished / "result.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=rf"{finished}/result\.json must be the result of a run; .*{key}"):
        read_result(finished)


def test_a_run_holds_the_lock_of_its_directory_while_it_trains(run: Run, tmp_path: Path) -> None:
    tried: list[str] = []

    class Intruder(SparseCallback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with (
                pytest.raises(UserError, match="is in use by another process") as raised,
                locked(tmp_path / "r", "it"),
            ):
                pass
            tried.append(str(raised.value))

    assert run(*SMALL, callbacks=[Intruder()], run_dir=tmp_path / "r").status == "completed"
    assert len(tried) == 1
    with locked(tmp_path / "r", "it"):  # the lock is free again
        pass


def test_a_new_key_at_its_default_does_not_change_the_config() -> None:
    now = flat_config(config_of())
    old = {key: value for key, value in now.items() if key != "model.loss"}  # as before the key existed
    assert "model.loss" in now
    assert differences(old, now) is None and differences(now, old) is None
    other = now | {"model.loss": "mae"}
    assert differences(old, other) == "model.loss was not set and is 'mae'"
    assert differences(other, old) == "model.loss was 'mae' and is not set"
    without_rate = {key: value for key, value in now.items() if key != "optimizer.lr"}
    assert (
        differences(without_rate, now) == f"optimizer.lr was not set and is {now['optimizer.lr']}"
    )  # the default is not SGD's own


def test_a_sweep_accepts_a_finished_run_from_before_a_key_existed(run: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    save_config(run_dir, "trainer.enable_progress_bar=false", "figures=false", *SMALL)
    run(*SMALL, run_dir=run_dir)
    config = run_dir / ".hydra/config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "loss: mse" not in line))
    result = read_result(run_dir)
    result["config_digest"] = config_digest(saved_config(run_dir))  # as that version computed it
    (run_dir / "result.json").write_text(json.dumps(result))
    check_unchanged(run_dir, config_of("trainer.enable_progress_bar=false", "figures=false", *SMALL))


def test_a_data_module_with_only_a_checksum_is_refused_when_its_data_change(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RegressionData, "load_state_dict", lambda self, state: None
    )  # most data modules do not check it
    table = tmp_path / "rows.csv"
    table.write_text("x,y\n" + "".join(f"{k},{3 * k % 7}\n" for k in range(20)))
    options = "data=table", f"data.path={table}", "data.target=y", "trainer.max_epochs=3", "batch.size=4"
    run(*options, callbacks=[SignalAt(5)], run_dir=tmp_path / "r")
    table.write_text(table.read_text().replace("19,1", "19,2"))
    before = contents(tmp_path / "r")
    with pytest.raises(
        UserError, match="data must be the same as at the start of the run to resume it: the checksum of the Tab"
    ):
        run(*options, run_dir=tmp_path / "r", resume=True)
    assert contents(tmp_path / "r") == before
