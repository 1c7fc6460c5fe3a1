"""Measures training on a Parquet file larger than what is in memory at a time, against a plain loop over its chunks."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.measure import in_turn, process
from benchmarks.processes import IMPORTS, QUIET, train_py
from benchmarks.rivals import LEARNING_RATE
from benchmarks.steps import seconds_of

ROWS, FEATURES, GROUP = 50_000_000, 10, 100_000  # GROUP: rows of a row group
CHUNK, SIZE = 4, 1024  # row groups that are shuffled together, rows of a batch


def streaming_rows(root: Path) -> Iterator[str]:
    """Measures an epoch over ``ROWS`` rows, and the memory it takes."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "rows.parquet")
        write(file, ROWS)
        ours = partial(seconds_of, root / "conf", overrides_of(file), -(-ROWS // SIZE))
        theirs = partial(plain_loop, file)
        yield in_turn(
            f"an epoch of {ROWS:,} x {FEATURES}, streamed", ours, "plain loop over such chunks", theirs, 3, bar=1.43
        )

        def memory() -> float:
            return train_py(root, *overrides_of(file)).mebibytes

        def imports() -> float:
            return process("-c", f"{IMPORTS}, polars").mebibytes + 1024

        yield in_turn("its peak memory", memory, "imports + 1 GiB", imports, 1, "MiB", 1)


def write(file: Path, rows: int) -> None:
    """Writes a table of random features and their noisy sum, in single precision, row group by row group."""
    names = [f"x{column}" for column in range(FEATURES)]

    def part(start: int) -> pl.DataFrame:
        draw = np.random.default_rng(start)
        x = draw.standard_normal((min(GROUP, rows - start), FEATURES), dtype=np.float32)
        y = x.sum(axis=1) + draw.standard_normal(len(x), dtype=np.float32)
        return pl.DataFrame(x, names).with_columns(y=pl.Series(y))

    with TemporaryDirectory(dir=file.parent) as parts:
        step = 10 * GROUP
        for start in range(0, rows, step):
            some = pl.concat([part(first) for first in range(start, min(start + step, rows), GROUP)])
            some.write_parquet(Path(parts, f"{start:012}.parquet"), compression="snappy", row_group_size=GROUP)
        pl.scan_parquet(Path(parts, "*.parquet")).sink_parquet(file, compression="snappy", row_group_size=GROUP)


def overrides_of(file: Path) -> list[str]:
    return [
        *("data=table", f"data.path={file}", "data.target=y", "data.streaming=true"),
        *(f"data.chunk_rows={CHUNK * GROUP}", "data.val_fraction=0", "data.test_fraction=0"),
        *(f"batch.size={SIZE}", f"optimizer.lr={LEARNING_RATE}", "trainer.max_epochs=1"),
        *("trainer.accelerator=cpu", "figures=false", QUIET),
    ]


def plain_loop(file: Path) -> float:
    """Returns the seconds of one epoch by hand, with nothing checked, standardised, logged or read ahead."""
    model = nn.Linear(FEATURES, 1)
    optim = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    started = time.perf_counter()
    for x, y in _chunks(file):
        for start in range(0, len(y), SIZE):
            loss = mse_loss(model(x[start : start + SIZE]).squeeze(-1), y[start : start + SIZE])
            optim.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optim.step()
    return time.perf_counter() - started


def _chunks(file: Path) -> Iterator[tuple[Tensor, Tensor]]:
    frame = pl.scan_parquet(file)
    groups = ROWS // GROUP
    order = torch.randperm(groups).tolist()
    for start in range(0, groups, CHUNK):
        slices = [frame.slice(group * GROUP, GROUP).collect() for group in order[start : start + CHUNK]]
        rows = torch.from_numpy(pl.concat(slices).to_numpy(writable=True))
        rows = rows[torch.randperm(len(rows))]
        yield rows[:, :-1], rows[:, -1]
