"""Optimizers and schedulers from their config."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from lightning.pytorch import Trainer
from torch.nn import Parameter
from torch.optim import Optimizer

from descent.config.hyperparameters import RUN_LENGTH_ARGUMENTS, arguments, check_spec
from descent.config.rules import better
from descent.errors import UserError, must
from descent.training.max_steps import run_length


def build_optimizer(spec: dict[str, Any], parameters: Iterable[Parameter]) -> Optimizer:
    """The optimizer of a config such as ``{"_target_": "torch.optim.SGD", "lr": 0.05}``.

    Raises:
        UserError: the class or an argument of it is not valid.
    """
    optimizer: Optimizer = _build(spec, "optimizer", parameters, arguments(spec, "optimizer"))
    return optimizer


def build_scheduler(spec: dict[str, Any], optimizer: Optimizer, trainer: Trainer) -> dict[str, Any]:
    """What Lightning calls an lr_scheduler config: the scheduler, ``interval``, ``frequency``, ``monitor``.

    ``T_max``, ``total_steps`` and ``total_iters`` that are null become the length of the run: how often the
    scheduler will be called, in epochs or in steps, whichever the interval is.

    Raises:
        UserError: the class or an argument of it is not valid, or the run has no length.
    """
    given = arguments(spec, "scheduler")
    length = _calls(run_length(trainer), int(trainer.num_training_batches), spec)
    given.update({k: length for k in RUN_LENGTH_ARGUMENTS if k in given and given[k] is None})
    if spec["_target_"].endswith(".ReduceLROnPlateau"):
        given = {"mode": better(spec["monitor"])} | given
    if given.get("total_steps", length) < length:
        raise must("scheduler.total_steps", f"at least {length}, the length of the run", given["total_steps"])
    scheduler = _build(spec, "scheduler", optimizer, given)
    return {"scheduler": scheduler, **{k: spec[k] for k in ("interval", "frequency", "monitor")}}


def _calls(steps: int, batches: int, spec: dict[str, Any]) -> int:
    """How often Lightning calls a scheduler in ``steps`` steps of epochs of ``batches``.

    It counts the steps of each epoch anew, so with ``interval=step`` the last of them may have no call.
    """
    frequency: int = spec["frequency"]
    if spec["interval"] == "epoch":
        return -(-steps // batches) // frequency
    if frequency > batches:
        raise must("scheduler.frequency", f"at most {batches}, the steps of an epoch, with interval=step", frequency)
    epochs, rest = divmod(steps, batches)
    return epochs * (batches // frequency) + rest // frequency


def _build(spec: dict[str, Any], group: str, first: Any, given: dict[str, Any]) -> Any:
    check_spec(spec, group)
    module, _, name = spec["_target_"].rpartition(".")
    try:
        return getattr(import_module(module), name)(first, **given)
    except Exception as error:
        raise UserError(f"{group}: {spec['_target_']} refuses {given}: {error}") from error
