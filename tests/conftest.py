"""Shared helpers: composes configs, trains in this process, and runs scripts as a user does."""

import copy
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import omegaconf
import pytest
import torch
import yaml
from filelock import FileLock
from forked import run_forked
from hydra import compose, initialize_config_dir
from lightning.fabric.utilities import registry
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from descent.config.schema import Config
from descent.run import cli
from descent.run.result import Result
from descent.run.train import train
from descent.training.build import build
from regression.data import split as splitting
from regression.data.module import RegressionData
from regression.data.rows import Rows
from regression.data.split import Split

torch.set_num_threads(1)  # the tests run in as many processes as there are cores
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for commands started with &
os.fsync = lambda fd: None  # fsync takes a tenth of a run; scripts in their own processes still call it
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and every run would inherit that

parsed = cache(yaml.load)


def load_yaml(stream: Any, *arguments: Any, **options: Any) -> Any:
    """Parses a text once: Hydra reads all files of a config again for each command line."""
    text = stream if isinstance(stream, str | bytes) else stream.read()
    return copy.deepcopy(parsed(text, *arguments, **options))


yaml.load = load_yaml
omegaconf._utils.get_yaml_loader = cache(omegaconf._utils.get_yaml_loader)  # otherwise a new class for each file
omegaconf.base.parse = omegaconf._utils.parse = cache(omegaconf.base.parse)  # of interpolations; a tenth of composing
registry.entry_points = cache(registry.entry_points)  # each Trainer reads the metadata of all packages

posix = pytest.mark.skipif(os.name != "posix", reason="Windows sends no signals to processes")

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
OPTIONAL = ("fast", "sweep", "compare")  # packages of descent that may be deleted


def needs(subpackage: str) -> pytest.MarkDecorator:
    """Skips a test if an optional package of descent was deleted."""
    return pytest.mark.skipif(
        not (ROOT / "src/descent" / subpackage).is_dir(), reason=f"descent/{subpackage}/ was deleted"
    )


needs_fast, needs_sweep, needs_compare = needs("fast"), needs("sweep"), needs("compare")


def options(group: str) -> list[str]:
    """Every option of a config group, found by globbing, so that new files are tested too."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def config_of(*overrides: str) -> Config:
    """The checked config of a command line.

    Configs are cached: composing takes longer than training on a few rows.
    """
    return copy.deepcopy(_checked(overrides, *_surroundings()))


def _surroundings() -> tuple[Path, frozenset[tuple[str, str]]]:
    """What a config depends on besides the overrides."""
    return Path.cwd(), frozenset((key, value) for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST")


@cache
def _checked(overrides: tuple[str, ...], *_: object) -> Config:
    return cli.load_config(CONF, overrides)


def data_module(spec: dict[str, Any]) -> RegressionData:
    """The data module of a config's ``data``, set up."""
    data = build(spec, "data", RegressionData)
    data.setup()
    return data


def load(spec: dict[str, Any]) -> Rows:
    """The rows of a config's ``data``, in their own units."""
    return build(spec, "data", RegressionData).usable_rows()


def split(spec: dict[str, Any], num_rows: int) -> Split:
    """The split of a config's ``data``."""
    return splitting.split(num_rows, spec["val_fraction"], spec["test_fraction"], spec["seed"])


def save_config(run_dir: Path, *overrides: str) -> None:
    """Saves the config of a command line as Hydra saves it for a run."""
    (run_dir / ".hydra").mkdir(parents=True)
    for name, text in _composed(overrides, *_surroundings()).items():
        (run_dir / ".hydra" / name).write_text(text)


@cache
def _composed(overrides: tuple[str, ...], *_: object) -> dict[str, str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    runtime = {"choices": composed.hydra.runtime.choices, "cwd": str(Path.cwd())}
    hydra = OmegaConf.create({"hydra": {"runtime": runtime}})
    return {"config.yaml": OmegaConf.to_yaml(own), "hydra.yaml": OmegaConf.to_yaml(hydra)}


class Listener(Callback):
    """Listens to every step, so that all steps run in Lightning's own loop."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pass


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trains in this process, in a new directory below ``tmp_path`` for each call."""
    count = iter(range(1000))

    def run(
        *overrides: str, callbacks: Sequence[Callback] = (), run_dir: Path | None = None, resume: bool = False
    ) -> Result:
        config = config_of("trainer.enable_progress_bar=false", "figures=false", *overrides)
        return train(config, run_dir or tmp_path / str(next(count)), callbacks=callbacks, resume=resume)

    return run


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs ``python scripts/<name>`` from another directory, with ``logs/`` below ``tmp_path``, and warnings as errors.

    ``fresh``: in a process that imports everything itself, which takes seconds; for tests that depend on imports.
    """

    def script(
        name: str, *arguments: str, timeout: float = 120, path: Sequence[Path] = (), fresh: bool = os.name != "posix"
    ) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts" / name), *arguments]
        environment = {**os.environ, "DESCENT_LOGS": str(tmp_path / "logs"), "COLUMNS": "200"}
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])
        if not fresh:
            return run_forked(command, tmp_path, environment, tmp_path / "output", timeout)
        command = [sys.executable, "-W", "error", *command]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    yield script


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script in the background, and kills it at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
        environment = {**os.environ, "DESCENT_LOGS": str(tmp_path / "logs")}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@cache
def _cluster_answers() -> bool:
    try:
        command = ["sinfo", "--noheader"]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slurm") and not _cluster_answers():
        pytest.skip("needs a Slurm cluster: sinfo does not answer; tests/slurm_cluster up DIR starts one")


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Reserves the cluster for one test: jobs of another would take its nodes."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "slurm.lock"):
        yield
        subprocess.run(["scancel", "--me"], check=False)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from scanning the libraries again and again, as runs do."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # a full collection takes a tenth of a second


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignores files whose top-level imports need an optional package that was deleted."""
    gone = [subpackage for subpackage in OPTIONAL if not (ROOT / "src/descent" / subpackage).is_dir()]
    return True if collection_path.suffix == ".py" and set(gone) & _subpackages_of(collection_path) else None


def _subpackages_of(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"^from (test_\w+) import", text, re.M)
    others = [other for name in names for other in (ROOT / "tests").rglob(f"{name}.py")]
    found = set(re.findall(r"^from descent\.(\w+)", text, re.M)).union(*map(_subpackages_of, others))
    return found | ({"sweep"} if re.search("^from hydra_plugins", text, re.M) else set())
