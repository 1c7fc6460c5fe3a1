"""Tests that parallel sweeps that are killed repeatedly end with the same results."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import posix
from test_launchers import launcher_of, outcome

pytestmark = [pytest.mark.soak, posix]

COMMON = (
    *("figures=false", "data.num_samples=100", "trainer.max_epochs=10000", "trainer.precision=64-true"),
    *("trainer.enable_progress_bar=false", "checkpoint.every_seconds=0.3"),
)
RATES = ("optimizer=sgd,adam", "optimizer.lr=0.01,0.02")
SWEEPS = {
    "plain": RATES,
    "tuned": (*RATES, "hydra.sweeper.for_each=optimizer", "hydra.sweeper.then={seed: '1,2'}"),
    "search": ("hydra.sweeper.space={optimizer.lr: {low: 0.001, high: 0.1, log: true}}", "hydra.sweeper.n_trials=4"),
}


def processes(logs: Path) -> set[int]:
    """Returns the ids of the processes that write below ``logs``."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"DESCENT_LOGS={logs}\0".encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
    return found


def is_at_work(logs: Path, begun: float) -> bool:
    """Whether a job has written a checkpoint since ``begun``."""
    with suppress(FileNotFoundError):  # a file that is being replaced is briefly missing
        return any(path.stat().st_mtime > begun for path in logs.glob("sweeps/s/*/checkpoints/last.ckpt"))
    return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", [*SWEEPS])
@pytest.mark.parametrize("launcher", [launcher_of("joblib"), launcher_of("submitit_local")])
def test_a_repeatedly_killed_sweep_ends_with_the_same_results(
    launcher: str, kind: str, start: Callable[..., subprocess.Popen[str]], script: Any, tmp_path: Path
) -> None:
    chosen, logs = random.Random(kind), tmp_path / "logs"
    # a search draws one trial per worker at once, so the reference uses the same launcher
    alone = [f"launcher={launcher}"] if kind == "search" else []
    assert script("train.py", "-m", "name=alone", *SWEEPS[kind], *COMMON, *alone, timeout=600).returncode == 0
    command = "-m", "name=s", *SWEEPS[kind], *COMMON, f"launcher={launcher}"
    kills = {
        "both": 0,
        "parent": 0,
        "worker": 0,
    }  # workers outlive a killed parent, and a sweep outlives a killed worker
    for who in [*kills, *kills]:
        begun = time.time()
        sweep = start("train.py", *command)
        while sweep.poll() is None and not is_at_work(logs, begun):
            time.sleep(0.05)
        deadline = time.monotonic() + chosen.uniform(0, 2)
        while sweep.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        others = sorted(processes(logs) - {sweep.pid})
        targets = [sweep.pid] * (who != "worker") + chosen.sample(others, min(len(others), 1)) * (who != "parent")
        if sweep.poll() is None:
            for target in targets:
                with suppress(OSError):
                    os.kill(target, signal.SIGKILL)
            kills[who] += 1
        sweep.wait(timeout=300)  # not communicate(): workers keep the pipes open for a while
    last = start("train.py", *command)
    last.wait(timeout=600)
    print(kills)
    for left in processes(logs):
        with suppress(OSError):
            os.kill(left, signal.SIGKILL)
    assert last.returncode == 0
    found, expected = outcome(logs / "sweeps/s"), outcome(logs / "sweeps/alone")
    assert found == expected
    assert len(found) == {"plain": 4, "tuned": 8, "search": 4}[kind]
    assert sum(kills.values()) >= 2
