"""Trains whole projects: in this process, in a child that may be killed, and by command."""

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, config_of, save_config
from lightning.pytorch import Callback, LightningModule, Trainer

from descent.run.result import Result
from descent.run.train import train

HERE = Path(__file__).resolve().parent
NAMES = ("digits", "gan", "lengths", "stream")
QUICK = [name if name == "digits" else pytest.param(name, marks=pytest.mark.soak) for name in NAMES]
QUIET = ("trainer.enable_progress_bar=false", "figures=false")
# Lightning's advice about workers
advised = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


def overrides_of(name: str, *overrides: str) -> list[str]:
    return [f"hydra.searchpath=[file://{HERE / 'conf'}]", f"experiment={name}", *QUIET, *overrides]


def train_project(
    name: str, run_dir: Path, *overrides: str, callbacks: Sequence[Callback] = (), resume: bool = False
) -> Result:
    """Trains in this process, with the config saved where Hydra would save it."""
    given = overrides_of(name, *overrides)
    if not (run_dir / ".hydra").is_dir():
        save_config(run_dir, *given)
    return train(config_of(*given), run_dir, callbacks=callbacks, resume=resume)


class Trace(Callback):
    """Records every batch and the weights after it."""

    def __init__(self) -> None:
        self.steps: dict[int, Any] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = batch.values() if isinstance(batch, dict) else batch
        weights = {name: weight.tolist() for name, weight in pl_module.state_dict().items()}
        self.steps[batches_trained(trainer)] = [value.tolist() for value in values], weights


class SignalAt(Callback):
    """Sends this process a signal when a training batch starts; batches are counted from 1 over all epochs."""

    def __init__(self, batch: int, number: signal.Signals = signal.SIGINT) -> None:
        self.batch, self.number, self.sent = batch, number, False

    def state_dict(self) -> dict[str, Any]:
        return {}  # what it has sent is not part of the run

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if batches_trained(trainer) == self.batch and not self.sent:
            self.sent = True
            signal.raise_signal(self.number)


def batches_trained(trainer: Trainer) -> int:
    """The number of batches so far, including the current one."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def in_child(function: Callable[[], Any], output: Path = Path(os.devnull)) -> int:
    """Calls ``function`` in a forked process; returns its exit code, or minus the signal that ended it.

    ``function`` must not use polars, whose threads do not exist in a fork.
    """
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(120)  # ends it if it hangs
        try:
            with output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                function()
                code = 0
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(tmp_path: Path, script: str, *arguments: str, before: Callable[[], Any] = lambda: None) -> tuple[int, str]:
    """The exit code and output of ``python scripts/<script>``, with ``logs/`` in ``tmp_path``, after ``before()``."""

    def run() -> None:
        before()
        os.environ["DESCENT_LOGS"], os.environ["COLUMNS"] = str(tmp_path / "logs"), "200"
        os.chdir(tmp_path)
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(ROOT / "scripts"))
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")

    code = in_child(run, tmp_path / "output")
    return code, (tmp_path / "output").read_text()


def equal(a: Any, b: Any) -> bool:
    """Compares nested values with tensors in them; nan equals nan."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) or repr(a) == repr(b) == "nan"
