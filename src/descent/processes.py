"""Tells which of a run's processes this one is. Does not import torch at the top."""

import os
import re
from dataclasses import dataclass
from functools import cache
from secrets import token_hex

from descent.errors import UserError

TIMEOUT = 300.0  # seconds to wait for torchrun's store, and for the first process's entry in it


@dataclass(frozen=True)
class Started:
    """How one of several processes was started.

    Attributes:
        by: torchrun, srun or Lightning.
        rank: of this process; Lightning starts processes on one machine, so theirs is the local rank.
        world: the number of processes; ``None``: as many as the config says.
    """

    by: str
    rank: int
    world: int | None


def started() -> Started | None:
    """Who started this process as one of several; ``None``: nobody, although Lightning may still start others."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        return Started("torchrun", int(given["RANK"]), int(given["WORLD_SIZE"]))
    if int(given.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Started("srun", int(given["SLURM_PROCID"]), int(given["SLURM_STEP_NUM_TASKS"]))
    return Started("Lightning", int(given["LOCAL_RANK"]), None) if "LOCAL_RANK" in given else None


def is_main() -> bool:
    """Whether this is the process of its run that writes and prints."""
    found = started()
    return found is None or found.rank == 0


def common_name() -> str | None:
    """The name that all processes of one torchrun or srun launch give their run; ``None`` without such a launch.

    It stays the same when the launcher restarts them after a failure or a preemption.

    Raises:
        UserError: torchrun was given no id, and its store cannot be reached.
    """
    found = started()
    if found is None or found.by == "Lightning":
        return None
    if found.by == "srun":
        return f"slurm_{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name == "none":
        name = _from_store()
    return f"torchrun_{name[:8] if re.fullmatch('[0-9a-f-]{36}', name) else name}"  # torchrun's own ids are UUIDs


@cache
def _from_store() -> str:
    """The name that the first process puts into torchrun's store."""
    from datetime import timedelta

    from torch import distributed  # takes seconds, so not at the top

    address, port, made = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), token_hex(3)
    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, timeout=timedelta(seconds=TIMEOUT)
        )
        name: bytes = store.compare_set("descent/run", "", made) if is_main() else store.get("descent/run")
        return name.decode()
    except Exception as error:
        raise UserError(f"torchrun must be given --rdzv-id=NAME or --standalone: {error}") from error
