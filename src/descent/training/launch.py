"""Whether the processes that were started are those that the config asks for."""

from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

from descent.config.schema import TrainerConfig
from descent.errors import UserError
from descent.processes import started


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
    asked = options.devices * options.num_nodes
    if asked != found.world:
        raise UserError(
            f"trainer.devices={options.devices} times trainer.num_nodes={options.num_nodes} must be {found.world}, the"
            f" processes that {found.by} started, got {asked}"
        )


def check_world(trainer: Trainer) -> None:
    """After it: ``devices=auto`` is a number now, and Lightning knows who started the processes.

    Raises:
        UserError: it takes this process for another one than it was started as.
    """
    found = started()
    rank, world = (0, trainer.world_size) if found is None else (found.rank, found.world or trainer.world_size)
    if (trainer.global_rank, trainer.world_size) != (rank, world):
        by = "nothing that is known" if found is None else found.by
        raise UserError(
            f"Lightning must be started by torchrun, by srun, or by itself: it takes this process for number"
            f" {trainer.global_rank} of {trainer.world_size}, and by {by} it is number {rank} of {world}"
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
