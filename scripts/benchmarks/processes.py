"""Measures whole commands: start, sweeps, memory, and growth with the size of the task."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import rivals
from benchmarks.environments import ALONE, base_requirements, environment
from benchmarks.measure import Process, in_turn, process
from benchmarks.rivals import OPTIMIZERS, Setting
from benchmarks.steps import BATCH, here

IMPORTS = "import lightning.pytorch, torch.utils.tensorboard, hydra"
CLIPS = ("none", "norm")
QUIET = "trainer.enable_progress_bar=false"


def train_py(root: Path, *arguments: str, expected: int = 0) -> Process:
    """Measures ``scripts/train.py`` with these arguments."""
    with TemporaryDirectory() as logs:
        return process(str(root / "scripts" / "train.py"), *arguments, logs=logs, expected=expected)


def train_seconds(root: Path, *arguments: str, expected: int = 0) -> float:
    return train_py(root, *arguments, expected=expected).seconds


def _seconds(code: str) -> float:
    return process("-c", code).seconds


def start_rows(root: Path, quick: bool) -> Iterator[str]:
    """Measures commands with little or no training against bare imports."""
    imports, hydra = ("bare imports", IMPORTS), ("import hydra", "import hydra")
    for what, argument, code, (against, theirs), bar in (
        ("the default run", [], 0, imports, 1.15),
        *([] if quick else [("one epoch", ["trainer.max_epochs=1"], 0, imports, None)]),
        ("--help", ["--help"], 0, hydra, 2.5),
        ("--cfg job", ["--cfg", "job"], 0, hydra, 2.5),
        ("an unknown option", ["optimizer=adm"], 1, hydra, 3),
        ("a value out of range", ["batch.size=-1"], 1, hydra, 3.5),
    ):
        ours = partial(train_seconds, root, *argument, expected=code)
        yield in_turn(what, ours, against, partial(_seconds, theirs), 1 if quick else 5, bar=bar)


def bare_start_rows(root: Path, quick: bool) -> Iterator[str]:
    """Measures the default run, with what ``make train`` installs, against an import with only ``ALONE``."""
    with (
        environment(base_requirements(root), root / "src") as base,
        environment(ALONE) as alone,
        TemporaryDirectory() as logs,
    ):

        def run() -> float:
            return process(str(root / "scripts/train.py"), logs=logs, python=base, bare=True).seconds

        def imports() -> float:
            return process("-c", "import lightning.pytorch", python=alone, bare=True).seconds

        what, against = "the default run after `make train`", "`import lightning.pytorch`"
        yield in_turn(what, run, against, imports, 1 if quick else 5, bar=0.9)


def sweep_rows(root: Path) -> Iterator[str]:
    """Measures sweeps of 24 runs on 800 rows against the same steps by hand in one process."""
    axes = [
        *("-m", "name=benchmark", "data.num_samples=1000", QUIET),
        *(f"optimizer={','.join(OPTIMIZERS)}", f"batch={','.join(BATCH.values())}", f"clip={','.join(CLIPS)}"),
    ]
    for against, loop, epochs, bar in (
        ("plain loops and imports", "plain_loop", 20, 1.3),
        ("usual Lightning", "usual_lightning", 2, None),
    ):
        loops = f"from benchmarks.processes import sweep_by; sweep_by({loop!r}, {epochs})"
        code = f"import sys; sys.path.append({str(root / 'scripts')!r}); {IMPORTS}; {loops}"
        ours, theirs = partial(train_seconds, root, *axes, f"trainer.max_epochs={epochs}"), partial(_seconds, code)
        yield in_turn(f"a sweep of 24 runs of {epochs} epochs", ours, against, theirs, 2, bar=bar)


def sweep_by(loop: str, epochs: int) -> None:
    """Does the sweep's training with one of the loops in ``benchmarks.rivals``."""
    for optimizer, size, clip in product(OPTIMIZERS, BATCH, CLIPS):
        getattr(rivals, loop)(Setting(optimizer, size, clip, 800, 5, epochs * -(-800 // (size or 800))))


def memory_rows(root: Path) -> Iterator[str]:
    """Measures peak memory on a large table, against bare imports plus twice the data in double precision."""
    rows, features = 2_000_000, 10
    data = rows * (features + 1) * 8 / 2**20
    size = f"data.num_samples={rows}", f"data.num_features={features}"

    def ours() -> float:
        return train_py(root, *size, "batch=full", "trainer.max_epochs=3", QUIET).mebibytes

    def theirs() -> float:
        return process("-c", IMPORTS).mebibytes + 2 * data

    yield in_turn(f"peak memory, {rows:,} x {features}", ours, "imports + 2 x data", theirs, 1, "MiB", 1.1)


def growth_rows(conf: Path) -> Iterator[str]:
    """Yields a second table, of how training time grows: the slope of log time over log size."""
    yield "\n| time in training over | grows with |\n|---|---|"
    settings: dict[str, Callable[[int], Setting]] = {
        "rows, one epoch of batches of 32": lambda k: Setting("sgd", 32, "none", 16_000 * k, 5, 500 * k),
        "rows, 100 full batches": lambda k: Setting("sgd", None, "none", 50_000 * k, 10, 100),
        "features, 100 full batches": lambda k: Setting("sgd", None, "none", 10_000, 20 * k, 100),
        "epochs of 32 batches": lambda k: Setting("sgd", 32, "none", 1_000, 5, 1_000 * k),
    }
    sizes = (1, 2, 4, 8)
    for what, setting in settings.items():
        seconds = [median(here(conf, setting(k)) for _ in range(3)) * setting(k).steps for k in sizes]
        yield _grows(what, sizes, seconds)
    one, done = Setting("adam", 32, "none", 1_000, 5, 500), []
    for _ in range(5):  # to fill caches
        here(conf, one)
    started = time.perf_counter()
    for _ in range(40):
        here(conf, one)
        done.append(time.perf_counter() - started)
    yield _grows("runs in one process", range(1, 41), done)


def _grows(what: str, sizes: Sequence[int], seconds: Sequence[float]) -> str:
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return f"| {what} | {slope:.2f} |"
