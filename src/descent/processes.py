"""This process among those of its run: one alone, or one of several. Imports no torch at its top."""

import os
import re
from dataclasses import dataclass
from functools import cache
from secrets import token_hex

from descent.errors import UserError

TIMEOUT = 300.0  # seconds that the processes of a run wait for the first of them


@dataclass(frozen=True)
class Started:
    """How a process of several was started.

    Attributes:
        by: torchrun, srun or Lightning.
        rank: its number among them; of Lightning's own on one machine.
        world: how many there are; ``None``: as many as the config asks for.
    """

    by: str
    rank: int
    world: int | None


def started() -> Started | None:
    """Who started this process as one of several; ``None``: nobody has, be it that Lightning is going to."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        return Started("torchrun", int(given["RANK"]), int(given["WORLD_SIZE"]))
    if int(given.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Started("srun", int(given["SLURM_PROCID"]), int(given["SLURM_STEP_NUM_TASKS"]))
    return Started("Lightning", int(given["LOCAL_RANK"]), None) if "LOCAL_RANK" in given else None


def is_main() -> bool:
    """Whether it is the one process of its run that writes and prints."""
    found = started()
    return found is None or found.rank == 0


def common_name() -> str | None:
    """What the processes of one launch by torchrun or srun can call their run without asking each other.

    It is the same again where the launcher starts them once more, after a failure or a preemption.

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
    return f"torchrun_{name[:8] if re.fullmatch('[0-9a-f-]{36}', name) else name}"  # torchrun's own is a UUID


@cache
def _from_store() -> str:
    """A name by the first process of all, from the store that torchrun keeps for the processes it starts."""
    from datetime import timedelta

    from torch import distributed  # which takes seconds, and would come later

    address, port, made = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), token_hex(3)
    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, timeout=timedelta(seconds=TIMEOUT)
        )
        name: bytes = store.compare_set("descent/run", "", made) if is_main() else store.get("descent/run")
        return name.decode()
    except Exception as error:
        raise UserError(f"torchrun must be given --rdzv-id=NAME or --standalone: {error}") from error
