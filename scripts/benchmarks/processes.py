"""Whole commands as processes of their own: the start, sweeps, memory, and growth with the size of the task."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from benchmarks.measure import Process, Row, in_turn, process
from benchmarks.steps import BATCH, TORCH, Setting, here

IMPORTS = "import lightning.pytorch, torch.utils.tensorboard, hydra"
CLIPS = ("none", "norm")
QUIET = "trainer.enable_progress_bar=false"


def train_py(root: Path, *arguments: str, expected: int = 0) -> Process:
    """``scripts/train.py`` with these arguments."""
    with tempfile.TemporaryDirectory() as logs:
        return process(str(root / "scripts" / "train.py"), *arguments, logs=logs, expected=expected)


def train_seconds(root: Path, *arguments: str, expected: int = 0) -> float:
    return train_py(root, *arguments, expected=expected).seconds


def start_rows(root: Path, quick: bool) -> Iterator[Row]:
    """What a command takes before and beside training."""
    rounds = 1 if quick else 5
    imports, hydra = (partial(_seconds, code) for code in (IMPORTS, "import hydra"))
    for what, overrides, bar in (("the default run", [], 1.15), ("one epoch", ["trainer.max_epochs=1"], None)):
        if quick and overrides:
            continue
        yield in_turn(what, partial(train_seconds, root, *overrides), "bare imports", imports, rounds, "s", bar)
    for what, arguments, code in (
        ("--help", ["--help"], 0),
        ("--cfg job", ["--cfg", "job"], 0),
        ("an unknown option", ["optimizer=adm"], 1),
        ("a value out of range", ["batch.size=-1"], 1),
    ):
        ours = partial(train_seconds, root, *arguments, expected=code)
        yield in_turn(what, ours, "import hydra", hydra, rounds, "s", 2.5)


def sweep_rows(root: Path, quick: bool) -> Iterator[Row]:
    """24 runs on 800 rows, against the same steps by hand in one process."""
    if quick:  # it takes minutes
        return
    axes = [
        *("-m", "name=benchmark", "data.num_samples=1000", QUIET),
        *(f"optimizer={','.join(TORCH)}", f"batch={','.join(BATCH.values())}", f"clip={','.join(CLIPS)}"),
    ]
    for against, loop, epochs, bar in (
        ("plain loops and imports", "plain_loop", 20, 1.3),
        ("usual Lightning", "usual_lightning", 2, None),
    ):
        code = f"{IMPORTS}; from benchmarks.processes import sweep_by; sweep_by({loop!r}, {epochs})"
        ours, theirs = partial(train_seconds, root, *axes, f"trainer.max_epochs={epochs}"), partial(_seconds, code)
        yield in_turn(f"a sweep of 24 runs of {epochs} epochs", ours, against, theirs, 2, "s", bar)


def _seconds(code: str) -> float:
    return process("-c", code).seconds


def sweep_by(loop: str, epochs: int) -> None:
    """The sweep's trainings by one of the loops of ``benchmarks.rivals``."""
    from benchmarks import rivals

    for optimizer, size, clip in product(TORCH, BATCH, CLIPS):
        setting = Setting(optimizer, size, clip, 800, 5, epochs * -(-800 // (size or 800)))
        getattr(rivals, loop)(*setting.data(), TORCH[optimizer], size, setting.steps, setting.clip_val)


def memory_rows(root: Path, quick: bool) -> Iterator[Row]:
    """Peak resident size on a large table, against the bare imports and twice the data in double precision."""
    if quick:  # a small table says nothing
        return
    rows, features = 2_000_000, 10
    data = rows * (features + 1) * 8 / 2**20

    size = f"data.num_samples={rows}", f"data.num_features={features}"

    def ours() -> float:
        return train_py(root, *size, "batch=full", "trainer.max_epochs=3", QUIET).mebibytes

    def theirs() -> float:
        return process("-c", IMPORTS).mebibytes + 2 * data

    yield in_turn(f"peak memory, {rows:,} x {features}", ours, "imports + 2 x data", theirs, 1, "MiB", 1.1)


def growth(conf: Path) -> Iterator[str]:
    """How the time in training grows: the slope of its logarithm over that of the size."""
    settings: dict[str, Callable[[int], Setting]] = {
        "rows, one epoch of batches of 32": lambda k: Setting("sgd", 32, "none", 16_000 * k, 5, 500 * k),
        "rows, 100 full batches": lambda k: Setting("sgd", None, "none", 50_000 * k, 10, 100),
        "features, 100 full batches": lambda k: Setting("sgd", None, "none", 10_000, 20 * k, 100),
        "epochs of 32 batches": lambda k: Setting("sgd", 32, "none", 1_000, 5, 1_000 * k),
    }
    sizes = (1, 2, 4, 8)
    for what, setting in settings.items():
        seconds = [median(here(conf, setting(k)) for _ in range(3)) * setting(k).steps for k in sizes]
        yield f"| {what} | {slope(sizes, seconds):.2f} |"
    one, done = Setting("adam", 32, "none", 1_000, 5, 500), []
    for _ in range(5):  # caches fill
        here(conf, one)
    started = time.perf_counter()
    for _ in range(40):
        here(conf, one)
        done.append(time.perf_counter() - started)
    yield f"| runs in one process | {slope(range(1, 41), done):.2f} |"


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The least-squares slope of ``log values`` over ``log sizes``."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
