"""Tests what a resumed run is compared with, and every message when it differs."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF, Run, config_of, needs_sweep, save_config
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from test_resume import SMALL, SignalAt

from descent.config.identity import config_digest, flat_config
from descent.errors import UserError, as_yaml
from descent.run.cli import load_config
from descent.run.result import Result, read_result
from descent.run.resume import check_unchanged, files_of, resume
from descent.run.train import train
from regression.model import LinearRegression

OWN = ("trainer.enable_progress_bar=false", "figures=false", *SMALL)
LENGTH = "trainer.max_epochs"
ONLY_LENGTH = f"must keep its value: only {LENGTH}=N may change"


@pytest.fixture
def finished(run: Run, tmp_path: Path) -> Path:
    save_config(tmp_path / "a run", *OWN)
    run(*SMALL, run_dir=tmp_path / "a run")
    return tmp_path / "a run"


@pytest.fixture
def interrupted(run: Run, tmp_path: Path) -> Path:
    save_config(tmp_path / "a run", *OWN)
    run(*SMALL, callbacks=[SignalAt(7)], run_dir=tmp_path / "a run")
    return tmp_path / "a run"


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as raised:
        action()
    return str(raised.value)


ADAM = {"_target_": "torch.optim.Adam", "lr": 0.02, "betas": [0.9, 0.5]}
FLAT = {
    **{"seed": 3.0, "predict_at": [[4.0]], "figures": True, "data.inputs": [[1.0], [2.0]]},
    "data._target_": "regression.data.sources.ListedData",
    **{"data.targets": [3.0, 5.5], "data.val_fraction": 0.0, "data.test_fraction": 0.0, "data.standardize": False},
    **{"data.seed": 0.0, "data.max_rows": None, "model.bias": True, "model.init_weight": 2.0, "model.init_bias": None},
    **{"optimizer._target_": "torch.optim.Adam", "optimizer.lr": 0.02, "optimizer.betas": [0.9, 0.5]},
    **{"batch.size": 32.0, "batch.shuffle": True},
    **{"clip.gradient_clip_val": None, "clip.gradient_clip_algorithm": None},
    **{"stopping.max_epochs": 20.0, "stopping.patience": None, "stopping.min_delta": 0.0},
    **{"stopping.monitor": "val/loss", "stopping.mode": "min"},
    **{"stopping.gradient_norm": None, "stopping.loss_change": None},
    **{"stopping.max_samples": None, "stopping.max_gradient_evaluations": None, "stopping.max_seconds": None},
    **{"stopping.diverged_above": 1e4, "trainer.accelerator": "auto", "trainer.precision": "32-true"},
    **{"trainer.max_steps": None, "trainer.log_every_n_steps": 50.0, "trainer.check_val_every_n_epoch": None},
    **{"trainer.deterministic": False},
    **{"model._target_": "regression.model.LinearRegression", "model.loss": "mse"},
    **{"callbacks.divergence._target_": "regression.callbacks.stable_rate.StableRate"},
    **{"callbacks.parameters._target_": "regression.callbacks.parameters.Parameters"},
    **{"callbacks.optimum._target_": "regression.callbacks.to_optimum.ToOptimum"},
    **{"callbacks.predictions._target_": "regression.callbacks.predictions.Predictions"},
    **{"callbacks.figures._target_": "regression.callbacks.figures.Figures"},
}


def test_the_config_digest_covers_these_keys_and_values() -> None:
    config = config_of(
        *("name=mine", "seed=3", "predict_at=[[4]]", "data=line", "data.inputs=[[1],[2]]", "data.targets=[3,5.5]"),
        *("model.init_weight=2", "optimizer=adam", "+optimizer.betas=[0.9,0.5]", "trainer.profiler=simple"),
    )
    assert flat_config(config) == {**FLAT, LENGTH: 20}
    assert config_digest(config) == sha256(json.dumps(FLAT, sort_keys=True).encode()).hexdigest()[:16]


PARTS: dict[str, list[Any]] = {  # values that are wrong, empty ones too
    "run/config": [None, {}, 3],
    "random_state": [None, {}, []],
    "loops/fit_loop": [None, {}, []],
    "callbacks": [None, {}, []],
    "optimizer_states": [None, {}, 3],
    "lr_schedulers": [None, {}, "x" * 50],
}


def test_a_checkpoint_that_lacks_a_part_is_refused_with_its_name(interrupted: Path) -> None:
    path, config = interrupted / "checkpoints/last.ckpt", config_of(*OWN)

    def refusal() -> str:
        return refused(lambda: train(config, interrupted, resume=True))

    whole = torch.load(path, weights_only=True)
    assert whole["lr_schedulers"] == []  # an empty list is valid here
    for part, wrong in PARTS.items():
        first, _, second = part.partition("/")
        for value in wrong:
            torch.save(whole | {first: whole[first] | {second: value} if second else value}, path)
            said = refusal()
            assert said.startswith(f"{path} must be a checkpoint from this version of the project to be resumed")
            assert f"; its {part} must be " in said
            assert said.endswith(f", got {as_yaml(value)}")
    for first in ("run", "loops"):
        torch.save(whole | {first: [1]}, path)
        assert refusal().endswith(f"; its {first} must be a group of keys, got [1]")
    torch.save({key: value for key, value in whole.items() if key != "run"}, path)
    assert refusal().endswith("; its run is missing")
    known = {key: value for key, value in whole["run"]["config"].items() if key != LENGTH}
    torch.save(whole | {"run": whole["run"] | {"config": known}}, path)
    message = f"{path} must have the same config to be resumed: {LENGTH} was not set and is 4"
    result = resume(interrupted)  # its length may change
    assert (result.status, result.reason) == ("failed", message)
    data = whole["SyntheticData"]
    torch.save(whole | {"SyntheticData": data | {"checksum": data["checksum"] + 1}}, path)
    assert (
        refusal() == "data must be the same as at the start of the run to resume it: its rows or columns have changed"
    )
    torch.save(
        whole | {"callbacks": whole["callbacks"] | {"Schedule": {"x": 1}}}, path
    )  # the former name of a callback
    assert refusal() == (
        f"{path} must be a checkpoint from this version of the project, with the same callbacks, to be resumed"
        " exactly; it has the state of Schedule"
    )
    torch.save(whole, path)
    assert train(config, interrupted, resume=True).status == "completed"


def test_a_lengthened_run_is_interrupted_until_it_completes(interrupted: Path) -> None:
    seen = list[tuple[str, str]]()

    class Look(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            result = read_result(interrupted)
            seen.append((result["status"], result["reason"]))

    assert resume(interrupted).status == "completed"
    longer = config_of(*OWN, f"{LENGTH}=5")
    assert train(longer, interrupted, resume=True, longer=True, callbacks=[Look()]).status == "completed"
    assert seen == [("interrupted", "it was resumed and has not ended since")]
    assert read_result(interrupted)["status"] == "completed"


def test_resuming_records_the_command_and_changes_only_the_length_in_the_config(interrupted: Path) -> None:
    config = interrupted / ".hydra/config.yaml"
    with config.open("a") as file, (interrupted / ".hydra/hydra.yaml").open("a") as hydra:
        file.write("# a remark\n")
        hydra.write(
            "  job:\n    name: ${nothing}\n"
        )  # as Hydra saves it, with an interpolation that only a running job resolves
    text = config.read_bytes()
    assert resume(interrupted).command == f"python scripts/resume.py '{interrupted}'"
    assert config.read_bytes() == text
    longer = resume(interrupted, [f"{LENGTH}=5", f"{LENGTH}=6"])
    assert longer.command == f"python scripts/resume.py '{interrupted}' {LENGTH}=5 {LENGTH}=6"
    assert (longer.epochs, longer.hparams[LENGTH]) == (6, 6)
    saved = OmegaConf.load(config)
    assert saved.trainer.max_epochs == 6
    saved.trainer.max_epochs = 4
    assert saved == OmegaConf.create(text.decode())  # nothing else has changed


def test_resuming_prints_the_step_it_resumes_at(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = interrupted / "checkpoints/last.ckpt"
    step = torch.load(last)["global_step"]
    assert 0 < step < 20 and resume(interrupted).steps == 20
    assert f"\nresuming at step {step} of {interrupted}\n" in capsys.readouterr().out
    last.unlink()  # as if the run ended before its first checkpoint
    (interrupted / "result.json").unlink()
    assert resume(interrupted).steps == 20
    assert f"\nresuming at step 0 of {interrupted}\n" in capsys.readouterr().out


def test_the_config_of_a_finished_run_is_not_replaced(finished: Path) -> None:
    before = (finished / ".hydra/config.yaml").read_bytes()
    message = refused(lambda: load_config(CONF, [*OWN, "seed=5"], finished))
    assert message == f"run_dir must be a directory without a finished run of another config, got '{finished}'"
    assert (finished / ".hydra/config.yaml").read_bytes() == before


def test_a_directory_without_a_run_is_refused_with_the_missing_file(finished: Path) -> None:
    for name in ("hydra.yaml", "config.yaml"):
        (finished / ".hydra" / name).unlink()
        assert refused(lambda: resume(finished)) == (
            f"RUN_DIR must be the directory of a run, got {finished}: it has no .hydra/{name}, which train.py and"
            " load_config(conf, overrides, run_dir) write"
        )


@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ({}, [], "{run} is finished: trainer.max_epochs=N with N above 4 makes it longer"),
        ({}, [f"{LENGTH}=4"], "trainer.max_epochs must be above 4, its value so far, got 4"),
        ({}, [f"{LENGTH}=9", f"{LENGTH}=8"], "trainer.max_epochs must be above 9, its value so far, got 8"),
        ({}, [f"{LENGTH}=9", "seed=1"], f"seed {ONLY_LENGTH}"),
        ({}, [f"+{LENGTH}=9"], f"+{LENGTH} {ONLY_LENGTH}"),
        ({"epochs": 5}, [], "{run} is finished: trainer.max_epochs=N with N above 5 makes it longer"),
        ({"stopped": "it has converged"}, [], "{run} is finished: it has converged"),
        ({"stopped": "it has converged"}, [f"{LENGTH}=9"], "{run} is finished: it has converged"),
        ({"status": "diverged", "reason": "x"}, [], "{run} has diverged, and would diverge again: x"),
        ({"status": "diverged", "reason": "x"}, [f"{LENGTH}=9"], "{run} has diverged, and would diverge again: x"),
    ],
)
def test_resuming_a_finished_run_says_why_it_is_finished(
    changed: dict[str, Any], overrides: list[str], message: str, tmp_path: Path
) -> None:
    save_config(tmp_path / "r", *OWN)
    Result(**({"status": "completed", "seed": 0, "command": "", "epochs": 4} | changed)).write(tmp_path / "r")
    assert refused(lambda: resume(tmp_path / "r", overrides)) == message.format(run=tmp_path / "r")


@pytest.mark.parametrize("status", ["failed", "interrupted", "completed"])
def test_a_run_with_fewer_epochs_than_configured_resumes(status: str, finished: Path) -> None:
    written = read_result(finished) | {"status": status, "epochs": 3, "steps": 15}
    (finished / "result.json").write_text(json.dumps(written))
    assert resume(finished).status == "completed"


def test_a_run_with_a_cosine_schedule_cannot_be_lengthened(run: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    save_config(run_dir, *OWN, "scheduler=cosine")
    run(*SMALL, "scheduler=cosine", callbacks=[SignalAt(7)], run_dir=run_dir)
    assert refused(lambda: resume(run_dir, [f"{LENGTH}=9"])) == (
        "trainer.max_epochs must stay 4: scheduler=cosine depends on it"
    )
    path = run_dir / ".hydra/config.yaml"
    text = path.read_text()
    path.write_text(text.replace("  max_epochs: 4", "  max_epochs: 9"))
    reason = resume(run_dir).reason
    assert reason == (
        f"{run_dir}/checkpoints/last.ckpt must have the same config to be resumed: trainer.max_epochs was 4 and is 9"
    )
    path.write_text(text.replace("T_max: null", "T_max: 4"))
    assert "T_max was null and is 4" in str(resume(run_dir).reason)


def test_a_run_with_weight_averaging_cannot_be_lengthened(run: Run, tmp_path: Path) -> None:
    averaging = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    options = [*OWN, f"+callbacks.averaging={{_target_: {averaging}, swa_lrs: 0.01}}"]
    run(*options, callbacks=[SignalAt(7)], run_dir=tmp_path / "r")
    before = sorted(tmp_path.rglob("*"))
    assert refused(lambda: train(config_of(*options, f"{LENGTH}=5"), tmp_path / "r", resume=True, longer=True)) == (
        "trainer.max_epochs must stay 4: StochasticWeightAveraging was scheduled for that length"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert train(config_of(*options), tmp_path / "r", resume=True, longer=True).epochs == 4


@pytest.mark.parametrize("scheduler", ["the module's", "exponential", "none"])
def test_lengthening_notes_that_the_modules_own_scheduler_may_depend_on_the_length(
    scheduler: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def configure(module: LinearRegression) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, module.trainer.max_epochs or 0)]

    own = scheduler == "the module's"
    if own:
        monkeypatch.setattr(LinearRegression, "configure_optimizers", configure)
    options = [*OWN, *([] if own else [f"scheduler={scheduler}"])]
    run(*options, callbacks=[SignalAt(7)], run_dir=tmp_path / "r")
    run(*options, callbacks=[SignalAt(12)], run_dir=tmp_path / "r", resume=True)
    start = "note: the run now has 5 epochs instead of 4; if the module's own scheduler depends on"
    assert not any(message.startswith(start[:21]) for message in caplog.messages)
    train(config_of(*options, f"{LENGTH}=5"), tmp_path / "r", resume=True, longer=True)
    assert any(message.startswith(start) for message in caplog.messages) == own


def test_a_sweep_refuses_a_run_of_another_config(tmp_path: Path) -> None:
    config, run_dir = config_of(*OWN), tmp_path / "r"
    check_unchanged(run_dir, config)  # no run yet
    save_config(run_dir, *OWN, "seed=1")
    check_unchanged(run_dir, config)  # the run has not started
    Result("failed", 0, "").write(run_dir)
    check_unchanged(run_dir, config)
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints/last.ckpt").touch()
    changed = f"{run_dir} was started with another config: seed was 1 and is 0; name=... starts a new sweep"
    assert refused(lambda: check_unchanged(run_dir, config)) == changed
    (run_dir / "checkpoints/last.ckpt").unlink()
    for status in ("completed", "diverged"):
        Result(status, 0, "", config_digest=config_digest(config)).write(run_dir)
        assert refused(lambda: check_unchanged(run_dir, config)) == changed
    own = config_of(*OWN, "seed=1")
    for digest in (None, config_digest(own)):
        Result("completed", 0, "", config_digest=digest).write(run_dir)
        check_unchanged(run_dir, own)
    Result("completed", 0, "", config_digest="another").write(run_dir)
    assert refused(lambda: check_unchanged(run_dir, own)) == (
        f"{run_dir} was started with another config: its config.yaml is not the one that it ran with;"
        " name=... starts a new sweep"
    )


@needs_sweep
def test_a_sweep_checks_the_rows_of_finished_runs_on_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    table = "x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(20))
    path.write_text(table)
    common = ("data=table", f"data.path={path}", "data.target=y", f"{LENGTH}=2", "figures=false")
    configs = {}
    for fraction in (0.1, 0.2, 0.3):
        run_dir = tmp_path / str(fraction)
        overrides = ("trainer.enable_progress_bar=false", *common, f"data.val_fraction={fraction}", "batch.size=3")
        save_config(run_dir, *overrides)
        configs[run_dir] = config_of(*overrides)
        train(configs[run_dir], run_dir, callbacks=[SignalAt(2)] if fraction == 0.3 else [])
    for run_dir, config in configs.items():
        check_unchanged(run_dir, config)
    path.write_text(table + "20,1\n")
    for run_dir, config in configs.items():
        if run_dir.name == "0.3":
            check_unchanged(run_dir, config)  # training itself checks the rows
            continue
        assert refused(lambda: check_unchanged(run_dir, config)) == (  # noqa: B023
            f"{path} must have the rows that {run_dir} was trained on: its rows or their split have"
            " changed; name=... starts a new sweep"
        )


def test_files_in_a_data_config_may_have_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").touch()
    spec = {"_target_": "mine.data.Data", "path": "rows.csv", "other": str(tmp_path / "gone.csv"), "size": 3}
    assert files_of(spec) == [Path("rows.csv"), tmp_path / "gone.csv"]


def test_a_run_given_by_a_relative_path_trains_in_its_absolute_one(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Path]()
    monkeypatch.setattr("descent.run.resume.run_safely", lambda configure, run_dir, *_, **__: given.append(run_dir))
    monkeypatch.chdir(interrupted.parent)
    resume(Path(interrupted.name))
    assert given == [interrupted]  # a ModelCheckpoint forgets its files if the path's text differs
