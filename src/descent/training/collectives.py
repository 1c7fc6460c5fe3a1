"""What the processes that train one model tell each other beside gradients; of one process alone it costs nothing.

All processes must call each of these at the same point. Where one of them has ended, the others get an error.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed


def several() -> bool:
    """Whether there are others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@cache
def _hosts() -> Any:
    """A group whose messages never wait for an accelerator; ``None``: the one there is."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")


def largest(*values: float) -> list[float]:
    """Of each value the largest of all processes."""
    if not several():
        return [*values]
    tensor = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=_hosts())
    found: list[float] = tensor.tolist()
    return found


def of_first(value: Any) -> Any:
    """What the first process has."""
    if not several():
        return value
    values = [value]
    distributed.broadcast_object_list(values, group=_hosts())
    return values[0]


def gathered(value: Any) -> list[Any]:
    """What each process has, in their order."""
    if not several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value, group=_hosts())
    return values


def own_of(values: Sequence[Any]) -> Any:
    """The one of ``gathered`` that is this process's."""
    return values[distributed.get_rank() if several() else 0]


def reduced(values: Tensor, how: str = "sum") -> Tensor:
    """The sum, maximum or minimum over all processes; on an accelerator nothing waits for it."""
    found = values.detach().clone()
    if several():
        distributed.all_reduce(found, getattr(distributed.ReduceOp, how.upper()))
    return found


def leave() -> None:
    """Ends the talk between the processes, so that another run in this one begins anew."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    _hosts.cache_clear()
