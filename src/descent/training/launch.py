"""Whether the processes that were started are those that the config asks for."""

from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

from descent.config.schema import TrainerConfig
from descent.errors import UserError
from descent.processes import Started, started


def check_started(options: TrainerConfig) -> None:
    """Before the Trainer is made.

    Raises:
        UserError: another number of processes was started, or none of several nodes.
    """
    found = started()
    if options.num_nodes > 1 and (found is None or found.world is None):
        raise UserError(
            f"trainer.num_nodes={options.num_nodes} needs torchrun or srun, which start a process for each device of"
            " each node; this one was started alone"
        )
    if found is None or found.world is None or options.devices == "auto":
        return
    _check_number(found, options.devices, options.num_nodes)


def check_world(trainer: Trainer) -> None:
    """After it: ``devices=auto`` is a number now, and Lightning knows who started the processes.

    Raises:
        UserError: it takes this process for another one than it was started as.
    """
    found = started()
    if found is not None and found.world is not None:
        _check_number(found, trainer.num_devices, trainer.num_nodes)
    rank, world = (0, trainer.world_size) if found is None else (found.rank, found.world or trainer.world_size)
    if (trainer.global_rank, trainer.world_size) != (rank, world):
        by = "nothing that is known" if found is None else found.by
        raise UserError(
            f"Lightning must be started by torchrun, by srun, or by itself: it takes this process for number"
            f" {trainer.global_rank} of {trainer.world_size}, and by {by} it is number {rank} of {world}"
        )


def _check_number(found: Started, devices: int, num_nodes: int) -> None:
    if devices * num_nodes != found.world:
        raise UserError(
            f"trainer.devices={devices} times trainer.num_nodes={num_nodes} must be {found.world}, the processes that"
            f" {found.by} started, got {devices * num_nodes}"
        )


def cluster_plugins() -> list[Any]:
    """Under srun: Lightning is not to requeue a job from a checkpoint of its own, in the middle of a step."""
    found = started()
    if found is None or found.by != "srun":
        return []
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:  # of the variables that srun has set
        raise UserError(f"srun: {error}") from error
