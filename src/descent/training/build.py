"""Builds optimizers, schedulers, data and other objects from their config."""

import logging
import math
import re
from collections.abc import Callable
from importlib import import_module
from inspect import isclass
from itertools import pairwise
from typing import Any, TypeVar, cast

from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import ParamsT

from descent.config.optimizers import RUN_LENGTH_ARGUMENTS, arguments, unfilled
from descent.config.schema import Config
from descent.errors import UserError, invalid
from descent.training.max_steps import run_length
from descent.training.validation_schedule import steps_per_epoch

log = logging.getLogger(__name__)

T = TypeVar("T")


def build_optimizer(spec: dict[str, Any], parameters: ParamsT) -> Optimizer:
    """The optimizer of a config such as ``{"_target_": "torch.optim.SGD", "lr": 0.05}``.

    Args:
        parameters: or groups of them with options of their own, as torch takes them: ``[{"params": ..., "lr": 0.01}]``.

    Raises:
        UserError: the class or one of its arguments is invalid.
    """
    given, parameters = arguments(spec, "optimizer"), [*parameters]
    for group in parameters:
        if isinstance(group, dict) and "params" not in group:
            raise UserError(f"a group of parameters must have params; it has {', '.join(group) or 'none'}")
    optimizer = build(spec, "optimizer", Optimizer, parameters, given=given)
    devices = {parameter.device.type for group in optimizer.param_groups for parameter in group["params"]}
    if given.get("capturable") and devices & {"cpu", "mps"}:
        raise invalid("optimizer.capturable", "false on this device: it is for CUDA graphs", True)
    return optimizer


def build_scheduler(spec: dict[str, Any], optimizer: Optimizer, trainer: Trainer) -> dict[str, Any]:
    """Lightning's ``lr_scheduler_config``: the scheduler, ``interval``, ``frequency``, ``monitor``.

    If null, ``T_max``, ``total_steps`` and ``total_iters`` become the length of the run, which is how often Lightning
    calls the scheduler. Each of ``SequentialLR``'s ``schedulers`` is a config too; there null becomes the length of
    its part.

    Raises:
        UserError: the class or one of its arguments is invalid, or the length of the run is needed but not known.
    """
    if not spec:
        raise UserError("scheduler must have a _target_ to be built; scheduler=none has none")
    defaults: dict[str, Any] = {"interval": "epoch", "frequency": 1, "monitor": None}
    spec = defaults | spec  # those of conf/scheduler are complete
    kind = load_class(spec["_target_"], LRScheduler, "scheduler")
    if spec["monitor"] is None and issubclass(kind, ReduceLROnPlateau):
        raise UserError(f"a {kind.__name__} must have a key monitor, the metric that it depends on")
    given = arguments(spec, "scheduler")
    to_fill = unfilled(spec)
    steps = run_length(trainer)
    length = None if steps is None else _calls(steps, trainer, spec)
    if length is None and to_fill:
        raise UserError(
            f"scheduler.{to_fill[0]} must be given: the number of {spec['interval']}s in the run is not known"
        )
    if "schedulers" in given:
        end = math.inf if length is None else length
        given["schedulers"] = _parts(given["schedulers"], given.get("milestones", []), end, optimizer)
    else:
        given.update(dict.fromkeys(to_fill, length))
    if length is not None and given.get("total_steps", length) < length:
        raise invalid("scheduler.total_steps", f"at least {length}, the length of the run", given["total_steps"])
    rates = _rates(optimizer)
    scheduler = build(spec, "scheduler", LRScheduler, optimizer, given=given)
    if len(rates) > 1 and len(_rates(optimizer)) == 1 and any(_rates(optimizer)):  # from OneCycleLR or CyclicLR
        log.warning(
            "note: %s gives all groups of parameters one learning rate, in place of %s; a list gives each its own",
            *(type(scheduler).__name__, ", ".join(f"{rate:g}" for rate in rates)),
        )
    if not trainer.lightning_module.automatic_optimization:  # the module calls it itself
        return {"scheduler": scheduler}
    return {"scheduler": scheduler, **{k: spec[k] for k in ("interval", "frequency", "monitor")}}


def _rates(optimizer: Optimizer) -> list[float]:
    """The different learning rates of the groups of parameters."""
    return [*dict.fromkeys(float(group["lr"]) for group in optimizer.param_groups)]


def _parts(
    specs: list[dict[str, Any]], milestones: list[int], length: float, optimizer: Optimizer
) -> list[LRScheduler]:
    """The schedulers of ``SequentialLR``, each for its part of the run."""
    ends = [*milestones, length]
    if len(specs) != len(ends) or any(first >= last for first, last in pairwise([0, *ends])):
        rule = f"one fewer than scheduler.schedulers, increasing, above 0 and below {length}, the length of the run"
        raise invalid("scheduler.milestones", rule, milestones)
    parts = []
    for spec, first, last in zip(specs, [0, *milestones], ends, strict=True):
        given = {key: value for key, value in spec.items() if key != "_target_"}
        given.update(dict.fromkeys((key for key in RUN_LENGTH_ARGUMENTS if given.get(key, 0) is None), last - first))
        parts.append(build(spec, "scheduler.schedulers", LRScheduler, optimizer, given=given))
    return parts


def _calls(steps: int, trainer: Trainer, spec: dict[str, Any]) -> int | None:
    """How often Lightning calls a scheduler in ``steps`` optimizer steps; ``None``: not known.

    Lightning counts batches from the start of each epoch, so with ``interval=step`` the last ones may have no call.
    """
    frequency: int = spec["frequency"]
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    if batches == math.inf:
        return steps if spec["interval"] == "step" and frequency == 1 else None
    epochs, rest = divmod(steps, int(steps_per_epoch(batches, accumulated)))
    if spec["interval"] == "epoch":
        return (epochs + (rest > 0)) // frequency
    if frequency > batches:
        raise invalid("scheduler.frequency", f"at most {batches}, the steps of an epoch, with interval=step", frequency)
    last = int(batches)
    called = [n for n in range(frequency, last + 1, frequency) if n % accumulated == 0 or n == last]
    return epochs * len(called) + sum(number <= rest * accumulated for number in called)


def load_class(target: str, kind: type[T], key: str) -> type[T]:
    """The class that a ``_target_`` names; ``key`` is the config node that has it.

    Raises:
        UserError: it cannot be imported, or does not derive from ``kind``.
    """
    module, _, name = target.rpartition(".")
    try:
        found: Any = getattr(import_module(module), name)
    except Exception as error:  # importing a module can raise anything
        raise UserError(f"{key}._target_ must be a class that can be imported, got {target!r}: {error}") from error
    if not isclass(found) or not issubclass(found, kind) or found is kind:
        raise invalid(f"{key}._target_", f"a class derived from {kind.__module__}.{kind.__qualname__}", target)
    return found


def build(spec: dict[str, Any], path: str, kind: type[T], *first: Any, given: dict[str, Any] | None = None) -> T:
    """The object of a config such as ``{"_target_": "package.Class", "argument": 1}``.

    Args:
        path: its config key, for messages.
        kind: the class that it must derive from.
        first: positional arguments that come before the config's.
        given: replaces the config's arguments.

    Raises:
        UserError: the class does not derive from ``kind``, or refuses an argument.
        NameError, AttributeError, ImportError, ArithmeticError: from the class's own code.
    """
    if given is None:
        given = {key: value for key, value in spec.items() if key != "_target_"}
    if of_hydra := [key for key in given if re.fullmatch("_[a-z]+_", key)]:
        raise UserError(f"{path}.{of_hydra[0]} must be left out: it is for Hydra's instantiate, which is not used")
    made: Any = load_class(spec["_target_"], kind, path)
    try:
        built: T = made(*first, **given)
    except (UserError, NameError, AttributeError, ImportError, ArithmeticError):  # the last ones are not of arguments
        raise
    except Exception as error:
        # a model's arguments may be whole configs, too long to show
        shown = f"{given}: {error}" if first else f"its arguments: {type(error).__name__}: {error}"
        raise UserError(f"{path}: {spec['_target_']} refuses {shown}") from error
    return built


def build_data(config: Config) -> LightningDataModule:
    """The data module, whose random splits depend on the seed alone and are the same in each process.

    Its ``__init__`` and ``setup`` run with the run's seed and leave the process's random state unchanged.
    """

    def seeded(draws: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            with isolate_rng():
                seed_everything(config.seed, verbose=False)
                return draws(*args, **kwargs)

        return drawn

    data = seeded(build)(config.data, "data", LightningDataModule)
    data.setup = seeded(data.setup)
    return cast(LightningDataModule, data)
