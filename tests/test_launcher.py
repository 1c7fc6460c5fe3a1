"""Tests the sweep launcher in this process, with stub runs."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF, save_config
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext

from descent.errors import UserError
from descent.run.result import Result, read_result
from descent.run.run_dirs import register
from hydra_plugins.descent.resuming import ResumingLauncher

Launch = Any


@pytest.fixture
def loggers() -> Iterator[None]:
    """Restores the root logger, which Hydra configures for each job."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    for handler in {*root.handlers} - {*handlers}:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loggers: None) -> Iterator[Launch]:
    """Launches jobs of a sweep named ``s``; ``task`` returns each job's result."""
    monkeypatch.delenv("DESCENT_LOGS", raising=False)
    register(tmp_path)
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["name=s"], return_hydra_config=True)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())

    def launch(task: Any, *jobs: list[str], first: int = 0, name: str = "s") -> Any:
        launcher = ResumingLauncher()
        launcher.setup(hydra_context=context, task_function=task, config=config)
        return launcher.launch([[f"name={name}", *job] for job in jobs], first)

    yield launch
    HydraConfig.instance().cfg = None


def test_each_job_gets_its_number_directory_and_config(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def task(config: Any) -> Result:
        hydra = HydraConfig.get()
        seen.append((config.seed, hydra.job.num, hydra.job.id, hydra.runtime.output_dir))
        return Result("completed", seed=config.seed, command="")

    returns = launch(task, ["seed=4", "batch=full"], ["seed=5"], first=7)
    sweep = tmp_path / "sweeps/s"
    assert seen == [(4, 7, "7", f"{sweep}/batch=full,seed=4"), (5, 8, "8", f"{sweep}/seed=5")]
    assert [(job.overrides, job.return_value.seed) for job in returns] == [
        (["name=s", "seed=4", "batch=full"], 4),
        (["name=s", "seed=5"], 5),
    ]
    assert capsys.readouterr().out == "#7 batch=full,seed=4\n#8 seed=5\n"


def test_an_interrupted_job_ends_the_sweep_with_its_exit_code(launch: Launch) -> None:
    seen = []

    def task(config: Any) -> Result:
        seen.append(config.seed)
        return Result("interrupted", seed=config.seed, command="", signal=15)

    with pytest.raises(SystemExit) as raised:
        launch(task, ["seed=1"], ["seed=2"])
    assert raised.value.code == 143
    assert seen == [1]


def test_a_finished_job_is_skipped_and_one_with_another_config_is_refused(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    for status in ("completed", "diverged", "failed"):
        run_dir = tmp_path / "sweeps/s" / f"seed={len(status)}"
        save_config(run_dir, "name=s", f"seed={len(status)}")
        Result(status, seed=0, command="").write(run_dir)  # type: ignore[arg-type]
    jobs = [["seed=9"], ["seed=8"], ["seed=6"]]  # completed, diverged, failed
    returns = launch(lambda config: seen.append(config.seed), *jobs)
    assert seen == [6]
    assert capsys.readouterr().out == "#0 seed=9\nalready finished\n#1 seed=8\nalready finished\n#2 seed=6\n"
    assert [job.overrides for job in returns] == [["name=s", *job] for job in jobs]
    assert [job.status.name for job in returns] == ["COMPLETED"] * 3
    path = tmp_path / "sweeps/s/seed=9/.hydra/config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 20", "max_epochs: 21"))
    with pytest.raises(UserError, match="was started with another config"):
        launch(lambda config: None, ["seed=9"])


def test_a_job_with_another_name_is_refused(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^name must be the same for the whole sweep$"):
        launch(lambda config: None, ["seed=1"], name="other")
    assert not list(tmp_path.rglob("result.json"))


def test_a_job_that_cannot_be_composed_gets_a_failed_result_and_the_next_runs(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    jobs = [["batch.size=-1", "seed=3"], ["seed=4"]]
    returns = launch(lambda config: seen.append(config.seed), *jobs)
    assert seen == [4]
    reason = "batch.size must be a positive integer or null (the whole training set), got -1"
    assert capsys.readouterr().out == f"#0 batch.size=-1,seed=3\nerror: {reason}\n#1 seed=4\n"
    result = read_result(tmp_path / "sweeps/s/batch.size=-1,seed=3")
    assert (result["status"], result["seed"], result["reason"]) == ("failed", None, reason)
    assert result["command"] == "python scripts/train.py name=s batch.size=-1 seed=3"
    log = (tmp_path / "sweeps/s/batch.size=-1,seed=3/train.log").read_text()
    assert log.startswith("Traceback (most recent call last):") and log.endswith(f"UserError: {reason}\n")
    assert (returns[0].overrides, returns[0].status.name, returns[0].return_value) == (
        ["name=s", *jobs[0]],
        "COMPLETED",
        None,
    )


def test_a_job_whose_directory_cannot_be_created_is_reported_and_the_next_runs(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps/s").mkdir(parents=True)
    (tmp_path / "sweeps/s/seed=1").write_text("mine")
    seen: list[int] = []
    launch(lambda config: seen.append(config.seed), ["seed=1"], ["seed=2"])
    assert seen == [2]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("error: FileExistsError: ") and (lines[0], *lines[2:]) == ("#0 seed=1", "#1 seed=2")
    assert (tmp_path / "sweeps/s/seed=1").read_text() == "mine"
