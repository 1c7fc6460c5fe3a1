"""Runs scripts in several processes at once, as torchrun does."""

import os
import socket
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import ROOT
from forked import run_forked

SMALL = ("figures=false", "trainer.enable_progress_bar=false", "trainer.precision=64-true", "data.num_samples=100")
OF_PROJECT = (f"hydra.searchpath=[file://{ROOT}/tests/several/conf]", "experiment=loader", *SMALL[:-1])


def in_two(tmp_path: Path, script: str, *arguments: str, world: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """The exit code and output of each process, by rank, with ``logs/`` below ``tmp_path``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "DESCENT_LOGS": str(tmp_path / "logs"),
        "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": str(uuid.uuid4())},
        **{"WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"},
    }

    def one(rank: int) -> subprocess.CompletedProcess[str]:
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [str(ROOT / "scripts" / script), *arguments]
        return run_forked(command, tmp_path, environment, tmp_path / f"output{rank}", timeout=120)

    with ThreadPoolExecutor(world) as threads:
        return list(threads.map(one, range(world)))
