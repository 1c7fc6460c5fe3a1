"""Checks that the processes that were started match the config."""

from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

from descent.config.schema import TrainerConfig
from descent.errors import UserError
from descent.processes import Started, started


def check_started(options: TrainerConfig) -> None:
    """Checks the number of processes before the Trainer is built.

    Raises:
        UserError: the number of processes differs from the config's, or several nodes have no launcher.
    """
    found = started()
    if options.num_nodes > 1 and (found is None or found.world is None):
        raise UserError(
            f"trainer.num_nodes={options.num_nodes} needs torchrun or srun, which start a process for each device of"
            " each node; this process was started alone"
        )
    if found is None or found.world is None or options.devices == "auto":
        return
    _check_number(found, options.devices, options.num_nodes)


def check_world(trainer: Trainer) -> None:
    """Checks the number of processes, and the rank of this one, after the Trainer is built.

    Then ``devices=auto`` is a number, and Lightning has detected the launcher.

    Raises:
        UserError: the number of processes or this process's rank differs from Lightning's.
    """
    found = started()
    if found is not None and found.world is not None:
        _check_number(found, trainer.num_devices, trainer.num_nodes)
    rank, world = (0, trainer.world_size) if found is None else (found.rank, found.world or trainer.world_size)
    if (trainer.global_rank, trainer.world_size) != (rank, world):
        by = "a start without a launcher" if found is None else found.by
        raise UserError(
            f"processes must be started by torchrun, srun or Lightning: Lightning takes this one for rank"
            f" {trainer.global_rank} of {trainer.world_size}, but {by} makes it rank {rank} of {world}"
        )


def _check_number(found: Started, devices: int, num_nodes: int) -> None:
    if devices * num_nodes != found.world:
        raise UserError(
            f"trainer.devices={devices} times trainer.num_nodes={num_nodes} must be {found.world}, the number of"
            f" processes that {found.by} started, got {devices * num_nodes}"
        )


def cluster_plugins() -> list[Any]:
    """Under srun, keeps Lightning from requeueing a job from its own checkpoint, written in the middle of a step."""
    found = started()
    if found is None or found.by != "srun":
        return []
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:  # about the variables that srun sets
        raise UserError(f"srun: {error}") from error
