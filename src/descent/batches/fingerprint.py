"""Takes fingerprints of attributes, to see later whether they have changed."""

import random
from collections import deque
from collections.abc import Container, Iterator
from inspect import get_annotations
from io import IOBase
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

LIBRARIES = {"torch", "lightning", "torchmetrics", "descent", "numpy", "builtins"}
LONGEST = 1000  # entries of a container; of a longer one only the length counts
DEEPEST = 5  # levels of nested containers
LARGEST = 100_000  # bytes of an array or tensor; the content of a larger one is not read

UNKNOWN = object()


def is_of_library(value: Any) -> bool:
    return is_library(type(value))


def declared_by_libraries(kind: type) -> set[str]:
    """The attributes that library classes among the bases of ``kind`` declare."""
    bases = [base for base in kind.__mro__ if is_library(base)]
    return {name for base in bases for name in (*vars(base), *get_annotations(base))}


def is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES


def fingerprint(value: Any, depth: int = 1, saved: Container[int] = ()) -> Any:
    """A value that stays equal while ``value`` does not change; ``UNKNOWN`` if it cannot be compared.

    Most library objects and tensors that require gradients are ``UNKNOWN``; steps leave such tensors for hooks.

    Args:
        depth: how many levels of nested objects to look into.
        saved: ids of modules, their tensors, optimizers and schedulers that checkpoints contain: ``UNKNOWN`` too.
    """
    try:
        return UNKNOWN if id(value) in saved else _found(value, depth, saved)
    except Exception:  # objects can raise anything when inspected, and must not end the run
        return UNKNOWN


def _found(value: Any, depth: int, saved: Container[int]) -> Any:
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return repr(value)  # nan equals nan
    if isinstance(value, Tensor):
        return UNKNOWN if value.requires_grad else _tensor(value)
    if isinstance(value, np.ndarray):
        return value.shape, crc32(value.tobytes()) if value.nbytes <= LARGEST else id(value)
    if isinstance(value, torch.Generator):
        return crc32(value.get_state().numpy().tobytes())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, list | tuple | deque | set | frozenset | dict):
        return _container(value, depth, saved)
    if isinstance(value, Iterator) and not isinstance(value, IOBase):
        return object()  # never equal: its position cannot be read
    if isinstance(value, nn.Module):
        return _module(value, saved)
    if isinstance(value, Optimizer | LRScheduler):
        return fingerprint(value.state_dict(), saved=saved)
    if depth > 0 and not is_of_library(value) and hasattr(value, "__dict__"):
        parts = ((name, fingerprint(part, depth - 1, saved)) for name, part in vars(value).items())
        return {name: found for name, found in parts if found is not UNKNOWN}
    return UNKNOWN


def _module(module: nn.Module, saved: Container[int]) -> Any:
    """Of its parameters, buffers and metric states; ``UNKNOWN`` if it has none that are not in ``saved``."""
    tensors = chain(module.named_parameters(), module.named_buffers())
    found = {name: _tensor(tensor) for name, tensor in tensors if id(tensor) not in saved}
    for name, part in module.named_modules():
        if isinstance(part, Metric) and id(part) not in saved:
            found[f"{name}.metric"] = part.update_count, fingerprint(part.metric_state)
    return found or UNKNOWN


def _tensor(value: Tensor) -> Any:
    if value.layout != torch.strided or value.nbytes > LARGEST:
        return id(value), value._version
    return value.shape, crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _container(value: Any, depth: int, saved: Container[int]) -> Any:
    if len(value) > LONGEST or depth <= -DEEPEST or isinstance(value, set | frozenset):
        return len(value)
    entries = value.items() if isinstance(value, dict) else value
    found = [fingerprint(entry, depth - 1, saved) for entry in entries]
    return [entry if entry is not UNKNOWN else None for entry in found]
