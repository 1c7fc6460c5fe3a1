"""Exchanges values other than gradients between the processes of a run; costs nothing in a single process.

All processes must call each function at the same point. If one process has ended, the others get an error.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed


def several() -> bool:
    """Whether the run has more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@cache
def _hosts() -> Any:
    """A process group that never waits for an accelerator; ``None``: the default group."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")


def largest(*values: float) -> list[float]:
    """The largest of each value over all processes."""
    if not several():
        return [*values]
    tensor = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=_hosts())
    found: list[float] = tensor.tolist()
    return found


def of_first(value: Any) -> Any:
    """The first process's value."""
    if not several():
        return value
    values = [value]
    distributed.broadcast_object_list(values, group=_hosts())
    return values[0]


def gathered(value: Any) -> list[Any]:
    """Each process's value, ordered by rank."""
    if not several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value, group=_hosts())
    return values


def own_of(values: Sequence[Any]) -> Any:
    """This process's value among those of ``gathered``."""
    return values[distributed.get_rank() if several() else 0]


def reduced(values: Tensor, how: str = "sum") -> Tensor:
    """The sum, maximum or minimum over all processes; does not wait for an accelerator."""
    found = values.detach().clone()
    if several():
        distributed.all_reduce(found, getattr(distributed.ReduceOp, how.upper()))
    return found


def leave() -> None:
    """Destroys the process group, so that the next run in this process can make its own."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    _hosts.cache_clear()
